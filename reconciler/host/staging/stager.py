"""Models' files on this host: the request of the program that downloads them, and what it left.

One process per model, which goes on when the daemon ends. Whatever was cut off is begun again and goes on where it was.
What it leaves in its folder may be another user's, and be read by root: so it is looked at before it is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from reconciler.config import settings as config
from reconciler.engines.environment import loads_code
from reconciler.errors import ReconcileError, Retryable
from reconciler.host.known_bugs import KnownBugs
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.staging import state as states
from reconciler.host.staging.download.request import FetchRequest
from reconciler.host.staging.fetcher import NOT_YET_KNOWN, Fetcher
from reconciler.host.staging.garbage import Garbage
from reconciler.host.staging.state import State
from reconciler.model import (
    EffectiveSpec,
    Fetch,
    Mount,
    Reason,
    ReasonCode,
    SecretMount,
    ServiceId,
    Stage,
    Staging,
    host_reason,
)
from reconciler.model.model_sources import is_key, key_of
from reconciler.secrets import SecretStore
from reconciler.secrets.store import find_files, find_variables
from reconciler.system.files import Stamp, cannot, stamp_from
from reconciler.system.procfs import Identity

# These are settings, and worth reading when something fails.
_OPEN = frozenset(
    {"type", "bucket", "endpoint_url", "region", "verify_ssl", "anonymous", "ca_bundle", "cabundle_configmap"}
)
_SHORTEST_SECRET = 4
# Bars that move are no use in a log.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def request_for(stage: Stage, folder: Path, memory: Path, env: Mapping[str, str], store: SecretStore) -> FetchRequest:
    """`env` are the host's own variables, and win; they alone load code. Raises Retryable for a missing Secret."""
    values = [each for each in _variables(stage, env, store) if not loads_code(each[0], each[1])]
    secret_files = _secret_files(stage, store)
    hidden = [value for _, value, is_secret in values if is_secret]
    hidden += [data.decode(errors="replace") for data in secret_files.values()]
    return FetchRequest(
        uri=stage.mount.uri,
        folder=folder,
        memory=memory,
        env={**_QUIET, **{name: value for name, value, _ in values}, **env},
        files={each.path: each.text.encode() for each in stage.mount.files if not each.source} | secret_files,
        secrets=tuple(dict.fromkeys(part for text in hidden for part in _parts(text) if len(part) >= _SHORTEST_SECRET)),
    )


def _variables(stage: Stage, given: Mapping[str, str], store: SecretStore) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether that is secret. What the config gives needs no Secret."""
    namespace = stage.service.namespace
    wanted = EffectiveSpec("", (), (), env=tuple(each for each in stage.mount.env if each.name not in given))
    secret = find_variables(wanted, namespace, store)
    for each in wanted.env:
        if each in secret:
            yield from ((name, value, True) for name, value in secret[each].items())
        else:
            yield each.name, each.value, False


def _secret_files(stage: Stage, store: SecretStore) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for each in stage.mount.files:
        if each.source:
            secret = each.source.removeprefix("secret ").partition("/")[0]
            data = find_files(SecretMount(secret, each.path), stage.service.namespace, store)
            found |= {f"{each.path}/{name}": value for name, value in data.items()}
    return found


def _parts(text: str) -> Iterator[str]:
    """A secret as a whole, and what is secret in it where it is JSON: libraries show it in pieces."""
    yield text.strip()
    try:
        content = json.loads(text)
    except ValueError:
        return
    if isinstance(content, dict):
        yield from (str(value) for key, value in content.items() if key not in _OPEN)


_log = structlog.get_logger()
_FETCH = {states.RUNNING: Fetch.RUNNING, states.STAGED: Fetch.STAGED, states.REFUSED: Fetch.REFUSED}
_KILL_SECONDS = 5.0
# It ends itself after ten minutes without a byte, unless it is stopped or hangs in the kernel.
_SILENT_AFTER = 900.0


class Stager:
    """All models in one folder. Only the holder of the target's lock may change something here."""

    def __init__(
        self,
        settings: config.StorageSettings,
        folder: Path,
        fetcher: Fetcher,
        secrets: Callable[[], SecretStore],
        wake: Callable[[], None],
    ) -> None:
        self.folder = (settings.folder or folder).absolute()
        self._fetcher = fetcher
        self._env = settings.env
        self._secrets = secrets
        self._wake = wake
        self._watch: ExitWatch | None = None
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[Stamp, State | None]] = {}
        self._sound: dict[str, State] = {}
        self._moved: dict[str, tuple[State, float]] = {}
        self._garbage = Garbage(self.folder)
        self._bugs = KnownBugs()

    # ------------------------------------------------------------ looking

    def look(self) -> dict[str, Staging]:
        """What is there, by key. Costs two reads a model while nothing changes."""
        return {key: self._known(key) for key in self._keys()}

    def find(self, service: ServiceId, mount: Mount) -> Path | None:
        """The folder with a model's files, or None where they are not there in full."""
        key = key_of(service.namespace, mount)
        state = self._read(key)
        if state is None or state.fetch != states.STAGED:
            return None
        folder = self.folder / key / state.content
        if self._sound.get(key) is state:
            return folder if folder.is_dir() else None
        return folder if self._staging(key).fetch is Fetch.STAGED else None

    def state_file(self, service: ServiceId, mount: Mount) -> str:
        """Changes whenever `find` may find something else, as long as the folder it found stays."""
        return f"{self.folder}/{key_of(service.namespace, mount)}/{states.STATE}"

    def subscribe(self) -> None:
        """From now on, report when a program ends. What a predecessor had no time to delete is deleted."""
        if self._watch is None:
            self._watch = ExitWatch(self._on_exit, lambda: None)
            self._garbage.begin()

    def close(self) -> None:
        """Running programs keep running."""
        if self._watch is not None:
            self._watch.close()
        self._garbage.close()
        self._fetcher.close()

    def _keys(self) -> list[str]:
        try:
            # Other files there do not belong to the daemon.
            return sorted(name for name in os.listdir(self.folder) if is_key(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Retryable(cannot(error, self.folder, "read")) from None

    def _known(self, key: str) -> Staging:
        try:
            found = self._staging(key)
        except ReconcileError:
            raise
        except Exception as error:
            # Not known is not missing: `stage` looks again, and fetches nothing before it can tell.
            reason = host_reason(ReasonCode.INTERNAL_ERROR, self._bugs.note((key,), error))
            return Staging(Fetch.REFUSED, failures=1, at=time.time(), reason=reason)
        self._bugs.lift((key,))
        return found

    def _staging(self, key: str) -> Staging:
        state = self._read(key)
        if state is None:
            return Staging(
                Fetch.FAILED,
                reason=host_reason(ReasonCode.DOWNLOAD_INTERRUPTED, "it was cut off before it began"),
            )
        fetch = _FETCH.get(state.fetch, Fetch.FAILED)
        known = Staging(fetch, state.done, state.total, state.failures, state.at)
        if fetch is Fetch.STAGED:
            return self._judged(key, state, known)
        if fetch is Fetch.RUNNING:
            if self._find(key) is None:
                return self._cut_off(key, known)
            return self._silent(known) if self._is_silent(key, state) else known
        return replace(known, reason=host_reason(ReasonCode.read(state.code), state.message)) if state.code else known

    def _judged(self, key: str, state: State, known: Staging) -> Staging:
        """Is it complete, according to the program? Nothing changes it any more once that has ended."""
        folder = self.folder / key / state.content
        if not folder.is_dir():
            return replace(
                known,
                fetch=Fetch.FAILED,
                reason=host_reason(ReasonCode.STAGED_FILES_DELETED, "its files are not there any more"),
            )
        if self._sound.get(key) is not state:
            if self._find(key) is not None:
                return replace(known, fetch=Fetch.RUNNING)
            if strange := _find_strange(folder):
                return replace(known, fetch=Fetch.REFUSED, reason=strange)
            self._sound[key] = state
        return known

    def _cut_off(self, key: str, known: Staging) -> Staging:
        """It may have ended between our two looks, having said why."""
        self._cache.pop(key, None)
        state = self._read(key)
        if state is not None and state.fetch != states.RUNNING:
            return self._staging(key)
        reason = host_reason(
            ReasonCode.DOWNLOAD_INTERRUPTED,
            f"it ended without a reason; see {self.folder / key / states.LOG}",
        )
        return replace(known, fetch=Fetch.FAILED, failures=known.failures + 1, reason=reason)

    def _is_silent(self, key: str, state: State) -> bool:
        """Has it reported no progress for longer than any program that runs?"""
        now = time.monotonic()
        if key not in self._moved or self._moved[key][0] is not state:
            self._moved[key] = (state, now)
        return now - self._moved[key][1] > _SILENT_AFTER

    def _silent(self, known: Staging) -> Staging:
        text = f"the program that fetches it is stopped or hangs: nothing came from it for {_SILENT_AFTER:g} s"
        return replace(
            known,
            fetch=Fetch.FAILED,
            failures=known.failures + 1,
            reason=host_reason(ReasonCode.DOWNLOAD_STALLED, text),
        )

    def _read(self, key: str) -> State | None:
        path = self.folder / key / states.STATE
        try:
            info = path.lstat()
        except OSError:
            return None
        stamp = stamp_from(info)
        if key not in self._cache or self._cache[key][0] != stamp:
            self._cache[key] = (stamp, states.read_state(self.folder / key))
        return self._cache[key][1]

    def _find(self, key: str) -> Identity | None:
        who = self._fetcher.find(self.folder / key)
        if who is not None:
            self._look_after(who)
        return who

    def _look_after(self, who: Identity) -> None:
        if self._watch is not None and who != NOT_YET_KNOWN:
            self._watch.watch(who)

    def _on_exit(self, who: Identity) -> None:
        self._fetcher.reap(who)
        self._wake()

    # ------------------------------------------------------------ fetching

    def stage(self, action: Stage) -> None:
        """Start the program, unless it runs. Raises Retryable when it cannot be started now."""
        folder = self.folder / action.key
        order = request_for(action, folder, self._memory(action.key), self._env, self._secrets())
        with self._lock, _explained(self.folder):
            before = self._staging(action.key)
            if before.fetch in (Fetch.STAGED, Fetch.RUNNING):
                # Another service asked for the same files in the same pass, and they were small.
                return
            # One may be there that hangs.
            self._end(action.key)
            begun = State(states.RUNNING, before.done, before.total, before.failures, time.time())
            try:
                self._fetcher.prepare(folder)
                states.write_state(folder, begun)
                who = self._fetcher.start(folder, order.written())
            except Retryable as error:
                failures, text = before.failures + 1, str(error)
                failed = replace(
                    begun, fetch=states.FAILED, failures=failures, code=ReasonCode.FETCHER_NOT_STARTED, message=text
                )
                states.write_state(folder, failed)
                raise
        self._look_after(who)

    # ------------------------------------------------------------ deleting

    def unstage(self, key: str) -> None:
        """End what fetches it, and let what is there be deleted. Raises Retryable."""
        with self._lock, _explained(self.folder):
            folder = self.folder / key
            if not folder.is_dir():
                return
            self._end(key)
            self._garbage.take(folder)
            self._cache.pop(key, None)
            self._moved.pop(key, None)

    def end_all(self) -> None:
        """End every program; what it has fetched is kept."""
        for key in self._keys():
            self._end(key)

    def _end(self, key: str) -> None:
        folder, deadline = self.folder / key, time.monotonic() + _KILL_SECONDS
        while self._fetcher.find(folder) is not None:
            self._fetcher.kill(folder)
            if time.monotonic() > deadline:
                raise Retryable(f"{folder}: the program that fetches it does not end")
            time.sleep(0.02)
        # It had no time to delete its credentials.
        shutil.rmtree(self._memory(key), ignore_errors=True)

    def _memory(self, key: str) -> Path:
        place = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path(f"/dev/shm/reconciler-{place}-{key}")  # noqa: S108


def _find_strange(folder: Path) -> Reason | None:
    """Links that would lead us, or the user that serves it, elsewhere or nowhere; or that this is unknown."""
    try:
        strange = next(_strange(str(folder)), None)
    except (OSError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "its folders are nested too deeply"
        text = f"{folder}: cannot be looked through: {why}; check the disk, or delete {folder.parent}"
        return host_reason(ReasonCode.UNSAFE_PATH, text)
    if strange is None:
        return None
    text = f"{strange!a}: is not a file, folder or link within this model; delete {folder.parent}"
    return host_reason(ReasonCode.UNSAFE_PATH, text)


def _strange(folder: str) -> Iterator[str]:
    """Raises OSError, and RecursionError for folders in folders without end."""
    if os.path.islink(folder):
        yield folder
    root = Path(os.path.realpath(folder))
    for here, folders, files in os.walk(folder, onerror=_raise):
        for path in (os.path.join(here, name) for name in (*folders, *files)):
            kind = os.lstat(path).st_mode
            # Not by `resolve`, which raises for a link to itself.
            leaves = stat.S_ISLNK(kind) and not Path(os.path.realpath(path)).is_relative_to(root)
            if leaves or not (stat.S_ISLNK(kind) or stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                yield path


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(f"{folder}: {error.strerror}; check the disk and its permissions") from None
