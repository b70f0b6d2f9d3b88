"""A service by the name that people type: `name` where it is unique, `namespace/name` always."""

from __future__ import annotations

import difflib

from reconciler.errors import Terminal
from reconciler.report.convergence import full_name, services
from reconciler.report.status import Document


class UnknownService(Terminal):
    """No service has this name, or several have."""


def resolve_service(status: Document, text: str, *, gone_is_fine: bool = False) -> str:
    """`namespace/name` of a given name. `gone_is_fine`: a full name may be of a deleted service.

    Raises UnknownService, with the choices or the nearest name.
    """
    known = sorted({full_name(service) for _, service in services(status)})
    if text in known or (gone_is_fine and text.count("/") == 1):
        return text
    matches = [name for name in known if name.split("/")[1] == text]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownService(f'"{text}" names {len(matches)} services; use one of: {", ".join(matches)}')
    raise UnknownService(f'no service is named "{text[:100]}"; {_hint(text, known)}')


def _hint(text: str, known: list[str]) -> str:
    spellings = {name: name for name in known} | {name.split("/")[1]: name for name in known}
    if near := difflib.get_close_matches(text, spellings, 1, 0.6):
        return f"did you mean {spellings[near[0]]}?"
    if not known:
        return "there are no services"
    return "there are " + ", ".join(known[:10]) + (" …" if len(known) > 10 else "")
