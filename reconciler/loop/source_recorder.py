"""What happens to git and to the config, for the history: each change once, also over restarts of the daemon."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

from reconciler.config.settings import Settings, TargetSettings
from reconciler.errors import RevisionRefused
from reconciler.loop.findings import finding
from reconciler.report.history import History
from reconciler.source import shown_address

_SOURCE, _CONFIG = "source", "config"
# Of these the values are recorded; of the others only that they changed, because they may hold secrets.
_TOLD = ("paths", "default_namespace", "labels", "kind")


class SourceRecorder:
    """Entries of no target, but for a target's part of the config."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._reported = history.reported("").get(_SOURCE, "")

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
    return {"source.url": shown_address(source.url)} | {f"source.{key}": value for key, value in chosen.items()}


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
