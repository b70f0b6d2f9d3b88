"""What somebody can do on the page, asked once before it is done: what will happen, and the command that does the same.

Only what git cannot say is among it. Pure.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from reconciler.report.actions import short
from reconciler.report.convergence import manual_text, only, services
from reconciler.report.status import Document

SCHEMA = "reconciler.page.action/v1"
_MOST_ITEMS = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants done. `service`: `namespace/name`, or empty for everything; `hash` is of held deletions;
    `until` and `reason` are as they were typed."""

    service: str = ""
    target: str = ""
    hash: str = ""
    reason: str = ""
    until: str = ""

    @property
    def subject(self) -> str:
        return self.service or "everything"


def sync_document(status: Document, _: Asked) -> Document:
    desired = status["revision"]["desired"]
    now = f"Now {short(desired)} is wanted." if desired else "No revision has been read yet."
    will = [
        f"Git is asked at once for a newer revision than the one that is known. {now}",
        f"Every target is compared with it, and what differs is changed: {_names(status)}.",
        "Revisions that could not be read, and files that could not be understood, are tried again.",
    ]
    return _document("Sync now", "Sync", will, "reconciler sync")


def suspend_document(status: Document, asked: Asked) -> Document:
    will = [
        f"Reconciliation of {asked.subject} is paused on {_names(status, asked.service)}.",
        "What runs keeps running, and serving. Changes in git are still planned and shown, but no action is performed: "
        "a replica that ends is not replaced.",
        "The reason, your name and the end are shown in status and history.",
    ]
    words = ["reconciler", "suspend", *([asked.service] if asked.service else []), "--reason", asked.reason or "WHY"]
    words += ["--until", asked.until] if asked.until else []
    return _document(f"Suspend {asked.subject}", "Suspend", will, shlex.join(words)) | {
        "asksWhy": True,
        "now": _suspended(status, asked.service),
    }


def resume_document(status: Document, asked: Asked) -> Document:
    will = [
        f"Reconciliation of {asked.subject} goes on: what differs from git by now is changed at once.",
        "Rejected revisions of it are tried once more.",
    ]
    command = shlex.join(["reconciler", "resume", *([asked.service] if asked.service else [])])
    return _document(f"Resume {asked.subject}", "Resume", will, command) | {"now": _suspended(status, asked.service)}


def approve_document(status: Document, asked: Asked) -> Document:
    """`items` is empty where no deletions with this hash are held any more."""
    held = [
        (target["name"], target["deletions"]["held"])
        for target in status["targets"]
        if asked.target in ("", target["name"]) and (target["deletions"]["held"] or {}).get("hash") == asked.hash
    ]
    items = [f"{subject} on {name}" for name, one in held for subject in one["subjects"]]
    gpus = sum(one["gpus"] for _, one in held)
    will = [f"These are deleted, {len(items)} in all, with {gpus:g} GPUs. Services are drained first."]
    will += [f"Held because {reason}" for _, one in held for reason in one["reasons"]]
    words = ["reconciler", "approve", asked.hash, *(["--target", asked.target] if asked.target else [])]
    return _document("Approve deletions", "Delete", will, shlex.join(words)) | {
        "items": items[:_MOST_ITEMS],
        "left": max(0, len(items) - _MOST_ITEMS),
        "takesReason": True,
        "isDangerous": True,
        "isPossible": bool(items),
        "now": "" if items else "No deletions with this hash are held any more.",
    }


def _document(title: str, button: str, will: list[str], command: str) -> Document:
    return {
        "schema": SCHEMA,
        "title": title,
        "button": button,
        "will": will,
        "items": [],
        "left": 0,
        "command": command,
        "asksWhy": False,
        "takesReason": False,
        "isDangerous": False,
        "isPossible": True,
        "now": "",
    }


def _names(status: Document, service: str = "") -> str:
    """Targets, those of one service or all."""
    found = only(status, service) if service else status
    return ", ".join(target["name"] for target in found["targets"]) or "no target"


def _suspended(status: Document, service: str) -> str:
    """What holds already."""
    found = [one for _, one in services(only(status, service))] if service else status["targets"]
    held = next((one for one in found if one["suspended"]), None)
    return f"It is suspended now{manual_text(held['suspension'])}." if held else "It is not suspended now."
