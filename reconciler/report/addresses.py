"""Addresses of our own pages, for links on them and for what others are told. Pure."""

from __future__ import annotations

from urllib.parse import quote


def service_address(target: str, namespace: str, name: str) -> str:
    """The page of a service."""
    return f"/services/{'/'.join(map(_part, (target, namespace, name)))}"


def change_address(revision: str, subject: str = "") -> str:
    """The page of a revision; `subject` is a part of it: `TARGET` or `TARGET/NAMESPACE/NAME`."""
    return f"/changes/{_part(revision)}{f'#{anchor(subject)}' if subject else ''}"


def anchor(subject: str) -> str:
    """The id of that part, which no other part of a page has."""
    return f"target-{quote(subject)}"


def public_url(base: str, address: str) -> str:
    """A page as others reach it. Empty where `base`, `web.url`, is not set."""
    return f"{base.rstrip('/')}{address}" if base else ""


def change_url(base: str, revision: str, subject: str = "") -> str:
    """The page of a revision as others reach it; of no revision, the page itself."""
    return public_url(base, change_address(revision, subject) if revision else "/")


def _part(text: str) -> str:
    return quote(text, safe="", errors="replace")
