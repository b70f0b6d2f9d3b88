"""Models' files on this host: the daemon's side of the program that fetches them.

One process per model, which goes on when the daemon ends and is known by the lock that it holds: so nobody has to trust
a process number, and two never write to one folder. Whatever was cut off is begun again and goes on where it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from reconciler import config, procfs
from reconciler.errors import Retryable
from reconciler.model import Fetch, Mount, Reason, ServiceId, Stage, Staging
from reconciler.procfs import Identity
from reconciler.secrets import SecretStore
from reconciler.storage import state as states
from reconciler.storage.sources import key_of
from reconciler.storage.state import State
from reconciler.targets.children import Children
from reconciler.targets.exits import ExitWatch
from reconciler.targets.logs import open_log
from reconciler.targets.orders import order_for

_log = structlog.get_logger()
_PROGRAM = Path(states.__file__).with_name("download") / "start.py"
_FETCH = {states.RUNNING: Fetch.RUNNING, states.STAGED: Fetch.STAGED, states.REFUSED: Fetch.REFUSED}
_KILL_SECONDS = 5.0
_GONE = ".gone-"
_KEY = re.compile(r"[0-9a-f]{16}")


class Stager:
    """All models in one folder. Only whoever holds the target's lock may change something here."""

    def __init__(
        self,
        settings: config.Storage,
        folder: Path,
        secrets: Callable[[], SecretStore],
        wake: Callable[[], None],
    ) -> None:
        self.folder = (settings.folder or folder).absolute()
        self._python = settings.python or Path(sys.executable)
        self._env = settings.env
        self._secrets = secrets
        self._wake = wake
        self._children = Children()
        self._watch: ExitWatch | None = None
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[tuple[int, int], State | None]] = {}

    # ------------------------------------------------------------ looking

    def look(self) -> dict[str, Staging]:
        """What is there, by key. Costs two reads a model while nothing changes."""
        return {key: self._staging(key) for key in self._keys()}

    def find(self, service: ServiceId, mount: Mount) -> Path | None:
        """The folder with a model's files, or None where they are not there in full."""
        key = key_of(service.namespace, mount)
        state = self._read(key)
        if state is None or state.fetch != states.STAGED:
            return None
        folder = self.folder / key / state.content
        return folder if folder.is_dir() else None

    def subscribe(self) -> None:
        """From now on, tell when a program ends."""
        if self._watch is None:
            self._watch = ExitWatch(self._on_exit, lambda: None)

    def close(self) -> None:
        """Programs that run go on."""
        if self._watch is not None:
            self._watch.close()

    def _keys(self) -> list[str]:
        try:
            # Whatever else lies there is none of ours.
            return sorted(name for name in os.listdir(self.folder) if _KEY.fullmatch(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Retryable(f"{self.folder}: cannot be read: {error.strerror}") from None

    def _staging(self, key: str) -> Staging:
        state = self._read(key)
        if state is None:
            return Staging(Fetch.FAILED, reason=Reason("Interrupted", "it was cut off before it began"))
        fetch = _FETCH.get(state.fetch, Fetch.FAILED)
        known = Staging(fetch, state.done, state.total, state.failures, state.at)
        if fetch is Fetch.STAGED and not (self.folder / key / state.content).is_dir():
            return replace(known, fetch=Fetch.FAILED, reason=Reason("Vanished", "its files are not there any more"))
        if fetch is Fetch.RUNNING:
            return known if self._is_running(key) else self._cut_off(key, known)
        return replace(known, reason=Reason(state.code, state.message)) if state.code else known

    def _cut_off(self, key: str, known: Staging) -> Staging:
        """It may have ended between our two looks, having said why."""
        self._cache.pop(key, None)
        state = self._read(key)
        if state is not None and state.fetch != states.RUNNING:
            return self._staging(key)
        reason = Reason("Interrupted", f"it ended without saying why; see {self.folder / key / states.LOG}")
        return replace(known, fetch=Fetch.FAILED, failures=known.failures + 1, reason=reason)

    def _read(self, key: str) -> State | None:
        path = self.folder / key / states.STATE
        try:
            info = path.stat()
        except OSError:
            return None
        stamp = (info.st_mtime_ns, info.st_ino)
        if key not in self._cache or self._cache[key][0] != stamp:
            self._cache[key] = (stamp, states.read_state(self.folder / key))
        return self._cache[key][1]

    def _is_running(self, key: str) -> bool:
        with self._opened(key) as lock:
            if lock is None or _lock(lock, fcntl.LOCK_SH):
                return False
            who = _holder(lock)
        if who is not None and self._watch is not None:
            self._watch.watch(who)
        return True

    def _on_exit(self, who: Identity) -> None:
        self._children.is_running(who)
        self._wake()

    # ------------------------------------------------------------ fetching

    def stage(self, action: Stage) -> None:
        """Start the program, unless it runs. Raises Retryable when it cannot be started now."""
        order = order_for(action, self.folder / action.key, self._memory(action.key), self._env, self._secrets())
        with self._lock, _explained(self.folder):
            self._sweep()
            folder = self.folder / action.key
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            # Whoever holds the lock looks like the program: so this comes first.
            before = self._staging(action.key)
            with self._opened(action.key, create=True) as lock:
                if lock is None or not _lock(lock, fcntl.LOCK_EX):
                    return
                if self._staging(action.key).fetch is Fetch.STAGED:
                    # Another service asked for the same files in the same pass, and they were small.
                    return
                failures = before.failures
                states.write_state(folder, State(states.RUNNING, before.done, before.total, failures, time.time()))
                who = self._spawn(folder, lock, order.written(), failures)
                os.ftruncate(lock, 0)
                os.pwrite(lock, json.dumps([who.pid, who.started, who.boot]).encode(), 0)
        if self._watch is not None:
            self._watch.watch(who)

    def _spawn(self, folder: Path, lock: int, order: bytes, failures: int) -> Identity:
        """The lock goes over to the program: it is held as long as that runs, whatever becomes of us."""
        home = folder / states.HOME
        home.mkdir(mode=0o700, exist_ok=True)
        # In memory, and seen by nobody else: there are credentials in it.
        told = os.memfd_create("order")
        log = open_log(folder / states.LOG)
        try:
            os.ftruncate(log, 0)
            os.write(told, order)
            os.lseek(told, 0, os.SEEK_SET)
            env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
            argv = (str(self._python), "-I", str(_PROGRAM))
            return self._children.spawn(argv, env, str(folder), log, told, (lock,))
        except OSError as error:
            text = _cannot(argv[0], error)
            states.write_state(
                folder, State(states.FAILED, at=time.time(), failures=failures + 1, code="NoProgram", message=text)
            )
            raise Retryable(text) from None
        finally:
            os.close(told)
            os.close(log)

    # ------------------------------------------------------------ deleting

    def unstage(self, key: str) -> None:
        """End what fetches it and delete what is there. Raises Retryable."""
        with self._lock, _explained(self.folder):
            self._sweep()
            folder = self.folder / key
            if not folder.is_dir():
                return
            self._end(key)
            # Under another name at once: half of a model must not pass for one.
            gone = self.folder / f"{_GONE}{key}"
            folder.rename(gone)
            _delete(gone)
            self._cache.pop(key, None)

    def end_all(self) -> None:
        """End every program; what it has fetched is kept."""
        for key in self._keys():
            self._end(key)

    def _end(self, key: str) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while self._is_running(key):
            with self._opened(key) as lock:
                who = _holder(lock) if lock is not None else None
            if who is not None:
                # It may be killed at any moment, and has nobody to say good-bye to.
                procfs.send_signal(who, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Retryable(f"{self.folder / key}: the program that fetches it does not end")
            time.sleep(0.02)
        # It had no time to delete its credentials.
        shutil.rmtree(self._memory(key), ignore_errors=True)

    def _sweep(self) -> None:
        for path in self.folder.glob(f"{_GONE}*"):
            # What cannot be deleted takes room, but is in nobody's way.
            with contextlib.suppress(OSError):
                _delete(path)

    # ------------------------------------------------------------ files

    @contextlib.contextmanager
    def _opened(self, key: str, create: bool = False) -> Iterator[int | None]:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            descriptor = os.open(self.folder / key / states.LOCK, flags, 0o600)
        except FileNotFoundError:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _memory(self, key: str) -> Path:
        place = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path(f"/dev/shm/reconciler-{place}-{key}")  # noqa: S108


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> Identity | None:
    """Who wrote its name into the lock; nobody has yet in the moment after a start."""
    try:
        pid, started, boot = json.loads(os.pread(lock, 256, 0))
        return Identity(int(pid), int(started), str(boot))
    except (ValueError, TypeError):
        return None


def _delete(folder: Path) -> None:
    """Also what was made read-only. Raises OSError."""
    for here, _, _ in os.walk(folder):
        os.chmod(here, stat.S_IRWXU)
    shutil.rmtree(folder)


def _cannot(program: str, error: OSError) -> str:
    return f"cannot start {program}: {error.strerror}; check targets[].storage.python"


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Retryable(f"{folder}: {error.strerror}; check the disk and its permissions") from None
