"""What a commit came to, and what happens to git and the config, for the history: each change once."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.config.settings import Settings, TargetSettings
from reconciler.errors import RevisionRefused
from reconciler.fault_isolation import Faults
from reconciler.model import Desired, DesiredState, Plan, Reason, ReasonCode, ServiceId, ServicePlan, Snapshot
from reconciler.report.history import History
from reconciler.source import shown_address

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """One event. Two with equal `key` are the same to a reader; `by_action`: an action reports it already."""

    event: str
    message: str
    key: str
    by_action: bool = False


def finding(event: str, message: str) -> CommitEvent:
    """Texts that differ in their figures only, of free memory or of seconds, are the same to a reader."""
    return CommitEvent(event, message, f"{event} {_NUMBER.sub('#', message)}")


def findings(desired: DesiredState, plan: Plan, faults: Faults) -> dict[ServiceId, CommitEvent]:
    """By service: what keeps it out of sync. An exception of one is noted in `faults`."""
    unusable = {one.id: one for one in desired.services if one.problems}
    found: dict[ServiceId, CommitEvent] = {}
    for key, verdict in plan.verdicts.items():
        # Most services have none of these, in most passes.
        if unusable or verdict.kept or verdict.rejected or verdict.blocked or _is_bug(verdict):
            try:
                each = _finding(unusable.get(key), verdict, desired.revision)
            except Exception as error:
                each = _joined("internal_error", (faults.note(key, error),))
            if each is not None:
                found[key] = each
    return found


def _finding(unusable: Desired | None, verdict: ServicePlan, revision: str) -> CommitEvent | None:
    if unusable is not None:
        return _joined("unusable", unusable.problems)
    if verdict.kept is not None:
        return _joined("kept", (verdict.kept,))
    if (refused := verdict.rejected) is not None:
        digest = refused.digest.removeprefix("sha256:")[:8]
        text = f"{digest} failed before, at {refused.revision[:8]}: {refused.reason}"
        return CommitEvent("rejected", text, f"rejected {refused.digest}", by_action=refused.revision == revision)
    if _is_bug(verdict):
        return _joined("internal_error", (verdict.health.reason,))
    return _joined("blocked", verdict.blocked) if verdict.blocked else None


def _is_bug(verdict: ServicePlan) -> bool:
    return verdict.health.reason.code is ReasonCode.INTERNAL_ERROR


def _joined(event: str, reasons: Iterable[Reason]) -> CommitEvent:
    return finding(event, "; ".join(map(str, reasons)))


_SOURCE, _CONFIG, _SIGNER = "source", "config", "signer"
# Of these the values are recorded; of the others only that they changed, because they may hold secrets.
_TOLD = ("paths", "default_namespace", "labels", "kind")


class SourceRecorder:
    """Entries of no target, but for a target's part of the config."""

    def __init__(self, history: History) -> None:
        self._history = history
        reported = history.reported("")
        self._reported, self._verified = reported.get(_SOURCE, ""), reported.get(_SIGNER, "")

    def failed(self, error: Exception | str, kept: str) -> None:
        """Record why git cannot be followed, or which revision is refused. `kept` is the revision that stays."""
        refused = isinstance(error, RevisionRefused)
        found = finding("revision_refused" if refused else "source_failed", str(error))
        if found.key == self._reported:
            return
        self._reported = found.key
        revision = error.revision if isinstance(error, RevisionRefused) else kept
        self._history.note("", revision, "", found.event, found.message, time.time(), (_SOURCE, found.key))

    def recovered(self, revision: str) -> None:
        """Record that git is followed again."""
        if self._reported:
            self._reported = ""
            self._history.note("", revision, "", "source_recovered", "git is read again", time.time(), (_SOURCE, ""))

    def sync_requested(self, by: str) -> None:
        """Record that somebody had git asked at once."""
        self._history.note("", "", "", "sync_requested", f"requested by {by}", time.time())

    def verified(self, snapshot: Snapshot) -> None:
        """Record who signed a revision, where signatures are verified."""
        found = f"{snapshot.revision} {snapshot.signer}" if snapshot.signer else ""
        if found == self._verified:
            return
        self._verified = found
        if snapshot.signer is None:
            self._history.remember("", _SIGNER, "")
        else:
            text, reported = f"signed by {snapshot.signer}", (_SIGNER, found)
            self._history.note("", snapshot.revision, "", "revision_verified", text, time.time(), reported)

    def refused_config(self, error: Exception) -> None:
        """Record that a config was read and cannot be used; the previous one stays."""
        self._history.note("", "", "", "config_rejected", f"{error}; the settings before it stay", time.time())

    def compare_config(self, settings: Settings) -> None:
        """Tell what of the config decides over services and is not as it was."""
        for name, facts in (("", _source_facts(settings)), *((each.name, _facts(each)) for each in settings.targets)):
            reported = self._history.reported(name).get(_CONFIG, "")
            now = json.dumps(facts, sort_keys=True)
            if reported == now:
                continue
            changes = "; ".join(_changes(json.loads(reported), facts)) if reported else ""
            if changes:
                self._history.note(name, "", "", "config_changed", changes, time.time(), (_CONFIG, now))
            else:
                self._history.remember(name, _CONFIG, now)


def _source_facts(settings: Settings) -> dict[str, str]:
    source = settings.source
    chosen = {key: str(getattr(source, key) or "") for key in ("branch", "tag", "semver", "commit")}
    chosen |= {"url": shown_address(source.url), "verify.mode": source.verify.mode}
    return {f"source.{key}": value for key, value in chosen.items()}


def _facts(target: TargetSettings) -> dict[str, str]:
    dumped = target.model_dump(mode="json")
    return {f"targets[].{key}": _fact(key, value) for key, value in dumped.items() if key != "name"}


def _fact(key: str, value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if key in _TOLD else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A field that one of the two versions of the daemon does not know has not changed."""
    keys = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    return [f"{key} {_change(before[key], after[key])}" for key in sorted(keys)]


def _change(before: str, after: str) -> str:
    return "changed" if after.startswith("sha256:") else f"was {before or 'unset'}, is {after or 'unset'}"
