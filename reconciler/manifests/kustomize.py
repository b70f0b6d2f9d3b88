"""Runs `kustomize`, or `kubectl kustomize`, on the files of one overlay: nothing else of the machine is its input.

It sees a folder of its own with these files, no other program, and nothing that it could fetch: what is remote was
refused before. Time, memory and what it says are limited.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.model import File
from reconciler.system.procfs import cpu_seconds
from reconciler.system.programs import TooMuchError, exchange, kill_group

_MEMORY_BYTES, _CPU_SECONDS = 1 << 30, 20
# Shorter than the silence after which a worker that evaluates a revision counts as hung.
_SECONDS = 25.0
# An ordinary overlay takes a tenth of one.
_MUCH_SECONDS = 5.0
_LONGEST = 8 << 20
_LONGEST_WORDS = 400
_PREFIX = "reconciler-kustomize-"
# Of prctl(2).
_DEATH_SIGNAL = 1
# Of unshare(2).
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_UNWRITABLE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL)
# A program that cannot be started now, whatever the files say: the machine is out of resources, or it is being
# replaced.
_MACHINE_ERRORS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY)
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)
TREE = "tree"
_OWN = "kustomization.yaml"
_ARGUMENTS = {"kustomize": ("build",), "kubectl": ("kustomize",)}
_NESTED = re.compile(
    r".*(?:recursed accumulation of path '[^']*': |make target for path '[^']*': |accumulating resources: )", re.DOTALL
)
# Were it to ask for an address all the same, nothing would answer.
_NOWHERE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


class BuildFailed(Exception):
    """It refused the files, or took too much."""


@dataclass(frozen=True, slots=True)
class Program:
    """What builds kustomizations on this machine."""

    path: str
    arguments: tuple[str, ...]

    @property
    def version(self) -> tuple[str, ...]:
        """What it is asked for its version with."""
        return ("version", "--client") if self.arguments == _ARGUMENTS["kubectl"] else ("version",)

    @property
    def oldest(self) -> tuple[int, int]:
        """The first that tells which file an object comes from."""
        return (1, 24) if self.arguments == _ARGUMENTS["kubectl"] else (4, 5)

    def __str__(self) -> str:
        return " ".join((self.path, *self.arguments))


def find_program() -> Program | None:
    """The first of those on PATH."""
    for name, arguments in _ARGUMENTS.items():
        if path := shutil.which(name):
            return Program(os.path.abspath(path), arguments)
    return None


def build(program: Program, folder: str, files: Iterable[File]) -> bytes:
    """The objects of a folder as YAML, each with the file that it comes from in an annotation.

    Raises BuildFailed; OSError where this machine is to blame.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as scratch:
        for file in files:
            _write(Path(scratch, TREE, file.path), file)
        top = f"resources: [{_quoted(f'{TREE}/{folder}'.rstrip('/'))}]\nbuildMetadata: [originAnnotations]\n"
        Path(scratch, _OWN).write_text(top)
        return _run(program, scratch)


def sweep() -> None:
    """Folders of builds that were killed: a worker that evaluates a revision may be at any time."""
    oldest = time.time() - 2 * _SECONDS
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        with suppress(OSError, ValueError):
            builder, info = int(folder.name.removeprefix(_PREFIX).partition("-")[0]), folder.lstat()
            if info.st_uid == os.geteuid() and info.st_mtime < oldest and not Path(f"/proc/{builder}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, file: File) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    except OSError as error:
        # git keeps names that no file system does, and crafted trees have a file and a folder of one name.
        if error.errno in _UNWRITABLE:
            raise BuildFailed(f"{file.path[:200]} cannot be a file here: {error.strerror}; rename it") from None
        raise


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _run(program: Program, scratch: str) -> bytes:
    argv = [program.path, *program.arguments, "--load-restrictor=LoadRestrictionsRootOnly", "--", scratch]
    env = {"PATH": "/nonexistent", "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8", **_NOWHERE}
    pipe = subprocess.PIPE
    before = _children_seconds()
    try:
        begun = subprocess.Popen(
            argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=env,
            cwd=scratch,
            preexec_fn=_without_network(),
            process_group=0,
        )
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise
        text = f"{program.path} does not run: {error.strerror}; correct that, then restart the daemon"
        raise BuildFailed(text) from None
    with begun as process:
        try:
            _limit(process.pid)
            output, errors = exchange(process, b"", _SECONDS, _LONGEST, watch=lambda: None)
        except subprocess.TimeoutExpired:
            raise _too_long(program, cpu_seconds(process.pid)) from None
        except TooMuchError:
            raise BuildFailed(f"what is built has more than {_LONGEST >> 20} MiB") from None
        finally:
            if process.returncode is None:
                kill_group(process)
    if process.returncode in _KILLED and _children_seconds() - before < _MUCH_SECONDS:
        raise OSError(f"{program} was killed, most likely because memory ran out (see `journalctl -k`)")
    if process.returncode < 0 or (process.returncode == 2 and b"goroutine" in errors):
        raise BuildFailed(f"{program} takes more than {_CPU_SECONDS} s of computing, or {_MEMORY_BYTES >> 20} MiB")
    if process.returncode:
        raise BuildFailed(_last_words(errors.decode("utf-8", "replace"), scratch))
    return output


def _children_seconds() -> float:
    """The CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _too_long(program: Program, computed: float) -> Exception:
    """The files are to blame for what computed much all the while, and a busy machine for anything else."""
    text = f"{program} took longer than {_SECONDS:g} s"
    if computed < _MUCH_SECONDS:
        return TimeoutError(text)
    return BuildFailed(f"{text}, of which it computed {computed:.0f}; build fewer objects in one folder")


def _without_network() -> Callable[[], None]:
    """A network of its own with nothing in it, where the kernel gives one: else only what was refused before counts.

    It does not outlive us either.
    """
    libc = ctypes.CDLL(None)
    unshare, prctl = libc.unshare, libc.prctl
    attempts = (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK)

    def leave() -> None:
        prctl(_DEATH_SIGNAL, signal.SIGKILL)
        any(unshare(flags) == 0 for flags in attempts)

    return leave


def _limit(pid: int) -> None:
    """Of computing, of memory, and of what it may write. It may have ended already."""
    limits = ((resource.RLIMIT_CPU, _CPU_SECONDS), (resource.RLIMIT_DATA, _MEMORY_BYTES), (resource.RLIMIT_CORE, 0))
    with suppress(ProcessLookupError):
        for which, most in limits:
            _, hard = resource.prlimit(pid, which)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, which, (least, least))


def _last_words(text: str, scratch: str) -> str:
    """What is wrong, with the repository's names, without how it came to look there."""
    plain = text.replace(f"{scratch}/{TREE}/", "").replace(f"{scratch}/{TREE}", ".").replace(f"{TREE}/", "")
    plain = (
        _NESTED.sub("", " ".join(plain.split())).removeprefix("Error: ").removesuffix('"') or "it failed without output"
    )
    return plain if len(plain) <= _LONGEST_WORDS else plain[: _LONGEST_WORDS - 1] + "…"
