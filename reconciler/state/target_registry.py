"""The targets of this state folder, and how today's config differs from them.

`targets.json` in `state_dir` says under which name and with which settings each target was driven last. A target's
folder, and with it the names of its units, stays the same when the target is renamed: only the name here changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reconciler.config.settings import HostSettings, Settings
from reconciler.errors import Retryable, SettingsError, Terminal
from reconciler.formats.json_values import known_part
from reconciler.host.inventory import Inventory, TargetLock, UnreadableRecord
from reconciler.model import ServiceId
from reconciler.model.names import counted
from reconciler.system.files import cannot, error_text, make_folder, write_atomically

SCHEMA = 1
FILE = "targets.json"
# What is needed to drain a removed target, and to tell one from another. No variables: they may be secret.
_KEPT = {"name", "kind", "user", "paths", "default_namespace", "gpus", "ports", "rollout", "routing", "allocatable"}


@dataclass(frozen=True, slots=True)
class KnownTarget:
    """A target that was driven from this state folder. `was` is its name before; `settings` is a part of its config."""

    name: str
    folder: str
    was: str = ""
    settings: Mapping[str, Any] | None = None

    @property
    def config(self) -> HostSettings | None:
        """Its settings when it was last driven; None where an older daemon did not keep them."""
        try:
            return HostSettings.model_validate({**self.settings, "name": self.name}) if self.settings else None
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class Leftover:
    """A target that is not in the config any more, though something of it is on record."""

    target: KnownTarget
    folder: Path
    replicas: int
    services: tuple[ServiceId, ...]

    @property
    def fix(self) -> str:
        """What a person does about it."""
        if self.target.config is None:
            return (
                f"put a target {self.target.name} with its kind, ports and listen back into the config and reload; "
                "taken out again, it is drained and stopped"
            )
        return f"it is being drained and stopped; put {self.target.name} back into the config to keep it"

    def __str__(self) -> str:
        return f"target {self.target.name} is not in the config, but {self.what} of it is on record in {self.folder}"

    @property
    def what(self) -> str:
        """What is on record, as text."""
        count = counted(self.replicas, "replica") if self.replicas else "what is left"
        return f"{count} ({', '.join(map(str, self.services)) or 'its proxy'})"


class TargetRegistry:
    """The targets of one state folder. Looking writes nothing."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / FILE

    def folder_of(self, name: str) -> Path:
        """Where a target keeps what it keeps. Raises Retryable when the file cannot be read."""
        known = self._read().get(name)
        return self._state_dir / (known.folder if known else name)

    def known(self) -> tuple[KnownTarget, ...]:
        """Every target that has a folder here, also those of daemons that kept no list. Raises Retryable."""
        listed = self._read()
        folders = {one.folder for one in listed.values()}
        others = [name for name in sorted(_names(self._state_dir)) if name not in folders and self._is_target(name)]
        return (*listed.values(), *(KnownTarget(name, name) for name in others))

    def leftovers(self, settings: Settings) -> tuple[Leftover, ...]:
        """What is on record of targets that the config does not name. Raises Retryable."""
        named = {target.name for target in settings.targets}
        found = (self._leftover(one) for one in self.known() if one.name not in named)
        return tuple(one for one in found if one is not None)

    def check(self, settings: Settings) -> tuple[Leftover, ...]:
        """Compare the config with what is on record. Returns what is left of removed targets.

        Raises SettingsError where following the config would start something twice; Retryable.
        """
        known = {one.name: one for one in self.known()}
        wanted = {target.name: target for target in settings.hosts}
        moved = [
            left for one in known.values() if _has_moved(one, wanted.get(one.name)) and (left := self._leftover(one))
        ]
        for target in settings.hosts:
            if before := known.get(target.name):
                self._check_known(target, before)
            else:
                self._check_folder(target, known, wanted)
            if before is None or _has_moved(before, target):
                self._check_takeover(target, moved)
        return tuple(left for left in moved if left.target.name not in wanted)

    def remember(self, settings: Settings) -> None:
        """Record the present settings of each target; delete those of which nothing is left. Raises Retryable."""
        known, named = self._read(), {target.name for target in settings.targets}
        kept = {one.target.name: one.target for one in self.leftovers(settings)}
        entries = {name: one for name, one in known.items() if name in named or name in kept}
        for target in settings.targets:
            before = known.get(target.name, KnownTarget(target.name, target.name))
            entries[target.name] = replace(before, settings=target.model_dump(mode="json", include=_KEPT))
        self._write(entries)

    def rename(self, old: str, new: str) -> bool:
        """Call a target otherwise: what runs of it is the new one's. False: it is called so already.

        Raises Terminal, naming what is in the way; Retryable.
        """
        known = {one.name: one for one in self.known()}
        before = known.get(old)
        if before is None:
            done = known.get(new)
            if done is not None and old in (done.was, done.folder):
                return False
            raise Terminal(f"no target {old} is known in {self._state_dir}; there are: {', '.join(known) or 'none'}")
        if new in known and self._leftover(known[new]) is not None:
            raise Terminal(f"{new} has replicas of its own on record; end them first, or choose another name")
        # A daemon that drives it would go on under the old name.
        lock = TargetLock(self._state_dir / before.folder)
        try:
            lock.acquire()
        except Terminal as error:
            raise Terminal(
                f"{error}. Stop the daemon for this (systemctl stop reconciler): models keep serving meanwhile"
            ) from None
        try:
            entries = {name: one for name, one in self._read().items() if name not in (old, new)}
            self._write(entries | {new: replace(before, name=new, was=old)})
        finally:
            lock.release()
        return True

    # ------------------------------------------------------------ comparing

    def _check_known(self, target: HostSettings, known: KnownTarget) -> None:
        before, left = known.config, self._leftover(known)
        if before is None or left is None:
            return
        if before.kind != target.kind and left.replicas:
            raise SettingsError(
                f"targets: {target.name}: kind was {before.kind} and is {target.kind} now, but {left.what} was started "
                f"as {before.kind}: it would be started a second time. Set kind back, set spec.drain: true in "
                "host.yaml until `reconciler status` shows no replica, then change it"
            )
        held = [service for service in left.services if service.namespace == before.default_namespace]
        if before.default_namespace != target.default_namespace and held:
            raise SettingsError(
                f"targets: {target.name}: default_namespace was {before.default_namespace} and is "
                f"{target.default_namespace} now: {', '.join(map(str, held))} would be ended, and started again under "
                f"other addresses. First write `namespace: {before.default_namespace}` into their documents in git and "
                "use another default_namespace only for new ones, or delete them there"
            )

    def _check_folder(
        self, target: HostSettings, known: Mapping[str, KnownTarget], wanted: Mapping[str, HostSettings]
    ) -> None:
        for one in known.values():
            if one.folder == target.name:
                what = "choose another name for the new target"
                if one.name not in wanted:
                    what = f"if it is to be called so again, {_how_to_rename(one.name, target.name)}; else {what}"
                raise SettingsError(
                    f"targets: {target.name}: {self._state_dir / one.folder} belongs to the target {one.name}, which "
                    f"was called so before; {what}"
                )

    def _check_takeover(self, target: HostSettings, moved: Iterable[Leftover]) -> None:
        for left in moved:
            if left.target.name != target.name and self._is_same(target, left):
                old, new = left.target.name, target.name
                raise SettingsError(
                    f"targets: {new} took the place of {old}, and {left.what} of {old} is on record in "
                    f"{left.folder}: all of it would be started a second time. If {old} is to be called {new}, "
                    f"{_how_to_rename(old, new)}. Else name the target {old} again"
                )

    def _is_same(self, target: HostSettings, left: Leftover) -> bool:
        """Does a new target read the same folder as one that is gone, or listen at the same address?"""
        before = left.target.config
        if before is not None:
            return target.own_path == before.own_path or target.routing.listen == before.routing.listen
        prefix = f"{target.own_path}/" if target.own_path else ""
        return any(file.startswith(prefix) for file in _origins(left.folder))

    def _leftover(self, known: KnownTarget) -> Leftover | None:
        """What is on record of a target; None: nothing."""
        folder = self._state_dir / known.folder
        inventory = Inventory(folder)
        try:
            records, owned = inventory.replicas(), inventory.services()
        except UnreadableRecord:
            return Leftover(known, folder, 1, ())
        services = tuple(sorted({record.id.service for record in records} | owned.keys()))
        if not services and not (folder / "proxy" / "process.json").exists():
            return None
        return Leftover(known, folder, len(records), services)

    def _is_target(self, name: str) -> bool:
        return any((self._state_dir / name / part).is_dir() for part in ("replicas", "services", "proxy"))

    # ------------------------------------------------------------ the file

    def _read(self) -> dict[str, KnownTarget]:
        try:
            found = json.loads(self._path.read_bytes())
            if found["schema"] != SCHEMA:
                raise ValueError(f"its schema is {found['schema']}, this reconciler reads {SCHEMA}")
            return {one["name"]: KnownTarget(**known_part(KnownTarget, one)) for one in found["targets"]}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Retryable(error_text(error, self._path)) from None
        except (ValueError, KeyError, TypeError) as error:
            raise Retryable(
                f"{self._path}: cannot be read: {error}; put it back, or delete it if no target was renamed"
            ) from None

    def _write(self, entries: Mapping[str, KnownTarget]) -> None:
        body = {"schema": SCHEMA, "targets": [asdict(entries[name]) for name in sorted(entries)]}
        try:
            make_folder(self._state_dir)
            write_atomically(self._path, json.dumps(body, indent=1).encode() + b"\n")
        except OSError as error:
            raise Retryable(cannot(error, self._path, "written", "check the disk")) from None


def _has_moved(known: KnownTarget, wanted: HostSettings | None) -> bool:
    """Is a target gone from the config, or does it read another folder than before?"""
    before = known.config
    return wanted is None or (before is not None and before.own_path != wanted.own_path)


def _origins(folder: Path) -> set[str]:
    """The files of git from which services of a target came."""
    inventory = Inventory(folder)
    try:
        files = {record.origin.file for record in inventory.replicas()}
        return files | {owned.origin.file for owned in inventory.services().values()}
    except UnreadableRecord:
        return set()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Retryable(cannot(error, folder, "read", "check its owner")) from None


def _how_to_rename(old: str, new: str) -> str:
    return (
        f"stop the daemon (models keep serving), run `reconciler target rename {old} {new}`, and start it: nothing is "
        "restarted"
    )
