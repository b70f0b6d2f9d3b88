"""The head line of the status: the desired revision, what of it is applied, and what holds up the rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.model import Sync
from reconciler.model.names import listed
from reconciler.report.actions import short
from reconciler.report.convergence import full_name, place, services
from reconciler.report.redact import one_line
from reconciler.report.status import Document

_MOST_NAMED = 3


def revision_line(status: Document) -> str:
    """The desired revision, how far it is applied, and what keeps it from being applied completely."""
    revision = status["revision"]
    if not revision["desired"]:
        what = "no revision in force" if revision.get("refused") else "no revision read yet"
        return f"{what}{': ' + one_line(revision['error']) if revision['error'] else ''}"
    text = f"revision {short(revision['desired'])}"
    text += f" “{one_line(revision['subject'])}”" if revision["subject"] else ""
    if signer := revision.get("signer"):
        text += f" signed by {one_line(signer['name'])}"
    held = _held_up(revision.get("heldUpBy", ()))
    if revision["desired"] == revision["applied"]:
        return f"{text}, applied where possible: {held}" if held else f"{text}, applied"
    applied = f"applied: {short(revision['applied'])}" if revision["applied"] else _applied_by_target(status)
    return f"{text} desired, {applied}{': ' + held if held else ''}"


def _applied_by_target(status: Document) -> str:
    known = [(one["name"], one["revision"]["applied"]) for one in status["targets"] if one["revision"]["applied"]]
    text = ", ".join(f"{short(applied)} on {name}" for name, applied in known)
    return f"applied: {text}" if text else "none applied yet"


def _held_up(held: Sequence[Document]) -> str:
    """`held up by demo/a (NoGpu), hosts/a/b.yaml:3 (NotYaml)`."""
    names = dict.fromkeys(f"{one['service'] or written_at(one) or one['target']} ({one['code']})" for one in held)
    return one_line(f"held up by {listed(list(names), _MOST_NAMED)}") if names else ""


def written_at(reason: Document) -> str:
    """`file:line`; empty if it has no file."""
    return place(reason | {"message": ""}).removesuffix(": ")


def pending(status: Document) -> str:
    """The services that are still progressing, or drifted after their revision was applied."""
    held = {(one["target"], one["service"]) for one in status["revision"].get("heldUpBy", ())}
    waiting = [
        full_name(service)
        for target, service in services(status)
        if service["sync"] != Sync.SYNCED and (target["name"], full_name(service)) not in held
    ]
    if not waiting:
        return ""
    applied = status["revision"]["desired"] == status["revision"]["applied"]
    return f"; {'out of sync' if applied else 'waiting for'}: {listed(waiting, _MOST_NAMED)}"
