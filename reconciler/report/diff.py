"""What differs between git's spec of a service and what runs, for people and for machines.

Named lists become mappings first (variables by name, arguments by flag), so that an insertion is one change and
`--a=b` equals `--a b`. Values of variables and flags that look secret are only shown as changed.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from reconciler.engines.arguments import normal_options
from reconciler.fault_isolation import caught
from reconciler.host.capacity import fraction
from reconciler.host.translation import ENV, changes
from reconciler.model import (
    GPU_FRACTION,
    Argument,
    Desired,
    DesiredState,
    EffectiveSpec,
    FileMount,
    Observed,
    Replica,
    SecretMount,
    ServiceId,
    ServicePlan,
    Unreachable,
    texts,
)
from reconciler.report.actions import short
from reconciler.report.redact import HIDDEN, scrub_text
from reconciler.secrets.store import is_secret_name

SCHEMA = "reconciler.diff/v1"
_MANY = 200
_LONGEST_VALUE = 2_000
_SECTIONS = ("args", "env", "mounts", "resources")

Tree = dict[str, Any]
_NOTHING: Tree = {section: {} for section in _SECTIONS}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `before` is what runs, `after` is in git; None: absent."""

    path: tuple[str, ...]
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class ServiceDiff:
    """All differences of one service. `note` says what a list of changes cannot."""

    service: ServiceId
    origin: str
    changes: tuple[Change, ...] = ()
    text: str = ""
    note: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.changes and not self.note

    def document(self) -> Tree:
        """JSON of it."""
        return {
            "namespace": self.service.namespace,
            "name": self.service.name,
            "origin": self.origin,
            "note": self.note,
            "changes": [{"path": list(c.path), "before": c.before, "after": c.after} for c in self.changes],
        }


def state_diff(
    desired: DesiredState, observed: Observed | Unreachable, verdicts: Mapping[ServiceId, ServicePlan] | None = None
) -> tuple[ServiceDiff, ...]:
    """The differences of all services of a target; those without any are left out. All unknown if unreachable.

    The verdicts of a plan give the reason why some are kept.
    """
    if isinstance(observed, Unreachable):
        return tuple(
            ServiceDiff(one.id, str(one.origin), note=f"unknown: {observed.reason}") for one in desired.services
        )
    named = {one.id for one in desired.services}
    diffs = [_diff_safely(one, observed) for one in desired.services]
    gone = sorted((set(observed.owned) | {one.service for one in observed.replicas}) - named)
    diffs += [_not_in_git(service, observed) for service in gone]
    diffs = [_with_reason(diff, (verdicts or {}).get(diff.service)) for diff in diffs]
    return tuple(sorted((diff for diff in diffs if not diff.is_empty), key=lambda diff: diff.service))


def _diff_safely(desired: Desired, observed: Observed) -> ServiceDiff:
    """A service that raises is shown with the error, and hides no other."""
    try:
        found = service_diff(desired, running_spec(observed, desired.id))
        return _with_replicas(_with_config(found, desired, observed), desired, observed)
    except Exception as error:
        reason, _ = caught(error, f"comparing {desired.id}")
        return ServiceDiff(desired.id, str(desired.origin), note=reason.message)


def _with_reason(diff: ServiceDiff, verdict: ServicePlan | None) -> ServiceDiff:
    if verdict is None or verdict.kept is None:
        return diff
    kept = scrub_text(str(verdict.kept))
    return replace(diff, note=f"{diff.note}; {kept}" if diff.note else kept)


def service_diff(desired: Desired, running: EffectiveSpec | None) -> ServiceDiff:
    """`running` is None when nothing of the service runs."""
    if desired.spec is None:
        why = "; ".join(scrub_text(str(one)) for one in desired.problems)
        return ServiceDiff(desired.id, str(desired.origin), note=f"the documents in git cannot be used: {why}")
    if desired.spec == running or (running is None and desired.replicas == 0):
        return ServiceDiff(desired.id, str(desired.origin))
    before, after = _tree(running) if running else _NOTHING, _tree(desired.spec)
    found = tuple(_changes(before, after))
    note = "" if found or running is None else "written differently with the same meaning: nothing restarts"
    text = _unified(_shown(before), _shown(after, before), desired)
    return ServiceDiff(desired.id, str(desired.origin), _hidden(found), text, note)


def _with_config(diff: ServiceDiff, desired: Desired, observed: Observed) -> ServiceDiff:
    """Also what the config makes otherwise now than when the oldest replica was started."""
    change = observed.outdated.get((desired.id, desired.digest))
    mine = [r for r in observed.replicas if change and r.service == desired.id and r.digest == desired.digest]
    if change is None or not mine:
        return diff
    before = min(mine, key=lambda replica: replica.created_at).translation
    found = [Change(("config", key), *_told(key, old, new)) for key, old, new in changes(before, change.translation)]
    lines = [f"{sign}{c.path[1]}: {each}\n" for c in found for sign, each in (("-", c.before), ("+", c.after)) if each]
    text = "".join(["--- running\n", "+++ config\n", *lines]) if lines else ""
    return replace(diff, changes=(*diff.changes, *found), text=diff.text + text)


def _with_replicas(diff: ServiceDiff, desired: Desired, observed: Observed) -> ServiceDiff:
    """Also how many run, where any does. A canary has its own; by percent, git gives no number for both."""
    beside = desired.canary.digest if desired.canary else None
    running = len([each for each in _staying(observed, desired.id) if each.digest != beside])
    if desired.spec is None or desired.canary_percent is not None or running in (0, desired.replicas):
        return diff
    text = f"--- running\n+++ git {desired.origin}\n-replicas: {running}\n+replicas: {desired.replicas}\n"
    change = Change(("replicas",), running, desired.replicas)
    return replace(diff, changes=(*diff.changes, change), text=diff.text + text)


def _told(key: str, *values: str | None) -> tuple[str | None, ...]:
    return tuple(value and HIDDEN for value in values) if key.startswith(ENV) else values


def running_spec(observed: Observed, service: ServiceId) -> EffectiveSpec | None:
    """What a service runs: its newest replica that is not ending; else what is to be restored."""
    staying = _staying(observed, service) or _alive(observed, service)
    if staying:
        return max(staying, key=lambda one: (one.created_at, one.id)).spec
    return None


def _staying(observed: Observed, service: ServiceId) -> list[Replica]:
    return [one for one in _alive(observed, service) if one.draining_at is None]


def _alive(observed: Observed, service: ServiceId) -> list[Replica]:
    return [one for one in observed.replicas if one.service == service and one.alive and one.stopping_at is None]


def _not_in_git(service: ServiceId, observed: Observed) -> ServiceDiff:
    owned = observed.owned.get(service)
    return ServiceDiff(service, str(owned.origin) if owned else "", note="runs, but is no longer in git")


# ---------------------------------------------------------------- specs as trees


def _tree(spec: EffectiveSpec) -> Tree:
    resources: Tree = {"nvidia.com/gpu": spec.resources.gpus, **dict(spec.resources.other)}
    if spec.resources.gpu_share_millis:
        resources[GPU_FRACTION] = fraction(spec.resources.gpu_share_millis)
    resources |= {"cpu": f"{spec.resources.cpu_millis}m", "memory": spec.resources.memory_bytes}
    return {
        "image": spec.image,
        "command": [_bounded(text) for text in texts(spec.command)],
        "args": _by_flag(spec.args),
        "env": {one.name: _bounded(one.value) or (f"from {one.source}" if one.source else "") for one in spec.env},
        "mounts": {one.path: one.uri for one in spec.mounts}
        | {one.path: _from_secret(one) for one in spec.secrets}
        | {one.path: _from_files(one) for one in spec.files},
        "resources": {key: value for key, value in resources.items() if value not in (0, "0m")},
    }


def _bounded(value: str) -> str:
    """Long values by their beginning and a hash: written out and compared letter by letter they take minutes.

    Scrubbed before it is cut: half a secret is not known for one.
    """
    if len(value) <= _LONGEST_VALUE:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{scrub_text(value)[:_LONGEST_VALUE]}… ({len(value):,} characters, sha256 {digest})"


def _from_secret(mount: SecretMount) -> str:
    keys = f" ({', '.join(key for key, _ in mount.items)})" if mount.items else ""
    return f"from secret {mount.secret}{keys}"


def _from_files(mount: FileMount) -> Tree:
    """The content of each file is shown as a hash only."""
    return {file.path or "*": f"from {file.source}" if file.source else _hashed(file.text) for file in mount.files}


def _hashed(text: str) -> str:
    return f"{len(text):,} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _by_flag(args: Sequence[Argument]) -> Tree:
    """A flag's value; a list when it has several or stands several times; true when it has none."""
    found: dict[str, list[Any]] = {}
    for flag, written in normal_options(args):
        values: list[Any] = [_bounded(text) for text in written]
        if flag:
            _, joined, value = values[0].partition("=")
            values = [*([value] if joined else []), *values[1:]] or [True]
        found.setdefault(flag or "", []).extend(values)
    return {key or "(words)": values[0] if len(values) == 1 else values for key, values in found.items()}


def _changes(before: Tree, after: Tree) -> Iterator[Change]:
    if before == after:
        return
    # Slow to import, and a converged world never needs it.
    from deepdiff import DeepDiff

    found: dict[tuple[str, ...], Change] = {}
    # The threshold: without it, sections with little in common come as one change, secrets and all.
    for levels in DeepDiff(before, after, view="tree", threshold_to_diff_deeper=0).values():
        for level in levels:
            path = [str(part) for part in level.path(output_format="list")]
            # A list is one value to its reader: report it whole.
            depth = 2 if path[0] in _SECTIONS and len(path) > 1 else 1
            key = tuple(path[:depth])
            found[key] = Change(key, _get(before, key), _get(after, key))
    yield from found.values()


def _get(tree: Tree, path: Sequence[str]) -> Any:
    value: Any = tree
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _hidden(changes: Iterable[Change]) -> tuple[Change, ...]:
    def clean(path: tuple[str, ...], value: Any) -> Any:
        return None if value is None else _safe(path[-1], value)

    found = [Change(c.path, clean(c.path, c.before), clean(c.path, c.after)) for c in changes]
    return tuple(sorted(found, key=lambda change: change.path)[:_MANY])


def _safe(name: str, value: Any) -> Any:
    if is_secret_name(name) and value is not True and not str(value).startswith("from "):
        return HIDDEN
    if isinstance(value, dict):
        return {key: _safe(key, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_safe("", one) for one in value]
    return scrub_text(value) if isinstance(value, str) else value


def _shown(side: Tree, before: Tree | None = None) -> Tree:
    """One side as text shows it. A secret that differs from `before` says so, since both are hidden."""
    shown: Tree = {}
    for section, entries in side.items():
        if not isinstance(entries, dict):
            shown[section] = _safe(section, entries)
            continue
        shown[section] = {key: _safe(key, value) for key, value in entries.items()}
        for key, value in entries.items():
            old = _get(before or {}, (section, key))
            if shown[section][key] == HIDDEN and old not in (None, value):
                shown[section][key] = f"{HIDDEN} (changed)"
    return shown


def _unified(before: Tree, after: Tree, desired: Desired) -> str:
    old, new = _yaml(before), _yaml(after)
    names = ("running", f"git {short(desired.digest)} {desired.origin}")
    return "".join(difflib.unified_diff(old, new, *names, n=2))


def _yaml(tree: Tree) -> list[str]:
    filled = {section: entries for section, entries in tree.items() if entries}
    if not filled:
        return []
    return yaml.safe_dump(filled, sort_keys=True, default_flow_style=False, width=200).splitlines(keepends=True)
