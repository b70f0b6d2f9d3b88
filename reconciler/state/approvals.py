"""Approvals of deletions that the guard holds, per target: a small file that outlives the daemon.

An approval names everything of one set. Each leaves it once it is deleted, or in git again: so an approval is for what
a person saw, and not for what happens to have the same names later.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.formats.json_values import known_part
from reconciler.model import Approval, ByHand
from reconciler.model.approvals import Key
from reconciler.system.files import cannot, error_text, make_folder, write_atomically


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the file holds. `rewrite` is the latest rewrite of history of which nothing is left to delete."""

    approvals: tuple[Approval, ...] = ()
    rewrite: str = ""


class Approvals:
    """The approvals of one target. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()

    def all(self) -> tuple[Approval, ...]:
        """Those in force and those withdrawn. Raises Retryable when the file cannot be read: unknown is not missing."""
        return self._read().approvals

    def settled_rewrite(self) -> str:
        """The latest rewrite of history of which nothing is left to delete. Raises Retryable."""
        return self._read().rewrite

    def add(self, approval: Approval) -> None:
        """Approve a set; an earlier word on the same set does not count any more. Raises Retryable."""
        self._change(lambda known: replace(known, approvals=(*_without(known, approval.hash), approval)))

    def withdraw(self, hash_: str, by: ByHand) -> Approval | None:
        """Hold what is left of a set again, until it is approved again. Returns what was withdrawn. Raises Retryable.

        It stays on record as withdrawn, because a commit may still say otherwise.
        """
        with self._lock:
            found = next((one for one in self.all() if one.hash == hash_ and not one.withdrawn), None)
            if found:
                self.add(replace(found, asked=by, withdrawn=True))
        return found

    def settle(self, pending: frozenset[Key], rewrite: str) -> None:
        """Forget what is not to be deleted any more; `pending` is all that is. Raises Retryable."""
        self._change(lambda known: _settled(known, pending, rewrite))

    def _change(self, change: Callable[[_Kept], _Kept]) -> None:
        with self._lock:
            known = self._read()
            if (now := change(known)) != known:
                self._write(now)

    def _read(self) -> _Kept:
        try:
            return _kept(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return _Kept()
        except OSError as error:
            raise Retryable(error_text(error, self._path)) from None
        except (ValueError, TypeError, KeyError) as error:
            raise Retryable(
                f"{self._path}: cannot be read: {error}; remove it to hold again what was approved"
            ) from None

    def _write(self, kept: _Kept) -> None:
        found = [asdict(one) | {"members": sorted(one.members)} for one in kept.approvals]
        try:
            make_folder(self._path.parent)
            write_atomically(self._path, json.dumps({"approvals": found, "rewrite": kept.rewrite}).encode())
        except OSError as error:
            raise Retryable(cannot(error, self._path, "written")) from None


def _without(known: _Kept, hash_: str) -> tuple[Approval, ...]:
    return tuple(one for one in known.approvals if one.hash != hash_)


def _settled(known: _Kept, pending: frozenset[Key], rewrite: str) -> _Kept:
    left = (replace(one, members=one.members & pending) for one in known.approvals)
    return _Kept(tuple(one for one in left if one.members), known.rewrite if pending else rewrite)


def _kept(found: Any) -> _Kept:
    """What a newer version adds is passed over. Raises ValueError, TypeError or KeyError."""
    if not isinstance(found, dict) or not isinstance(found["approvals"], list):
        raise ValueError("expected approvals")
    return _Kept(tuple(map(_approval, found["approvals"])), str(found.get("rewrite", "")))


def _approval(found: Any) -> Approval:
    known, asked = known_part(Approval, found), known_part(ByHand, found["asked"])
    return Approval(
        hash=str(known["hash"]),
        members=frozenset((str(subject), str(uid)) for subject, uid in known["members"]),
        asked=ByHand(str(asked.get("by", "")), asked.get("at"), str(asked.get("reason", "")), None),
        withdrawn=known.get("withdrawn") is True,
    )
