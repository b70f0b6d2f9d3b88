"""Bugs on purpose: a function that raises for one service."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.model import ServiceId


def break_for(patched: pytest.MonkeyPatch, where: Any, name: str, service: ServiceId) -> list[str]:
    """That function raises for this service; the list grows with every time it did."""
    known, raised = getattr(where, name), []

    def judge(*given: Any, **more: Any) -> Any:
        if any(is_about(one, service) for one in given):
            raised.append(name)
            raise OverflowError("1e999")
        return known(*given, **more)

    patched.setattr(where, name, judge)
    return raised


def is_about(thing: Any, service: ServiceId) -> bool:
    """Is it the service's name, its object, or something that holds one of them?"""
    if isinstance(thing, dict):
        named = thing.get("metadata", thing)
        return (named.get("namespace"), named.get("name")) == (service.namespace, service.name)
    if (getattr(thing, "namespace", None), getattr(thing, "name", None)) == (service.namespace, service.name):
        return True
    inner = (getattr(thing, name, None) for name in ("id", "service", "desired", "replica", "action"))
    return any(is_about(one, service) for one in inner if one is not None)
