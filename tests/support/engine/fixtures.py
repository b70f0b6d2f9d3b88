"""Real vLLM for tests: the stock interpreter, a preloaded one that starts in two seconds, and a tiny model.

The environment with vLLM is the folder in `RECONCILER_TEST_VLLM`, else `.cache/vllm` in the repository. One zygote
serves all test processes on the machine; who needs it holds it by an open connection, and it ends after the last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.engine import caller

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache"
TINY_MODEL = ROOT / "reconciler" / "engines" / "tiny_model.py"
SET_UP_SECONDS = 600


class NoEngine(Exception):
    """There is no vLLM to test with; the message says how to get one."""


@dataclass(frozen=True)
class Place:
    """Where one vLLM's model, zygote and launcher live. An edit of the zygote's code gets another zygote."""

    venv: Path
    folder: Path
    code: str

    @property
    def stock_python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def python(self) -> Path:
        return self.folder / self.code / "bin" / "python"

    @property
    def socket(self) -> Path:
        return self.folder / self.code / "zygote.sock"

    @property
    def model(self) -> Path:
        return self.folder / "tiny"


def find_place() -> Place:
    """The vLLM to test with. Raises NoEngine."""
    venv = Path(os.environ.get("RECONCILER_TEST_VLLM") or CACHE / "vllm").absolute()
    installed = sorted(venv.glob("lib/python3*/site-packages/vllm*.dist-info"))
    if not installed:
        raise NoEngine(
            f"no vLLM in {venv}; run tests/run.sh once, or set RECONCILER_TEST_VLLM to a virtual environment"
        )
    parts = [str(venv), TINY_MODEL.read_text(), *(f"{path.name} {path.stat().st_mtime_ns}" for path in installed)]
    code = [(HERE / name).read_text() for name in ("zygote.py", "caller.py")]
    return Place(venv, CACHE / "engine" / short_hash(parts), short_hash(code))


def short_hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One test process at a time sets things up; the others find them done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean_env() -> dict[str, str]:
    """Without our own settings, above all the one that would make every start recompile vLLM."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}


def make_model(place: Place) -> Path:
    """The tiny model, made at the first use."""
    with locked(place.folder):
        if not place.model.exists():
            partial = place.folder / "tiny.partial"
            shutil.rmtree(partial, ignore_errors=True)
            command = [place.stock_python, TINY_MODEL, partial]
            subprocess.run(command, check=True, env=clean_env(), timeout=SET_UP_SECONDS, capture_output=True)
            partial.rename(place.model)
    return place.model


def make_launcher(place: Place) -> None:
    """A folder that looks like the virtual environment, but whose python asks the zygote.

    The socket's path stands in the script itself: replicas get a clean environment.
    """
    home = place.python.parent.parent
    place.python.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (home / "lib").symlink_to(place.venv / "lib")
    shutil.copyfile(place.venv / "pyvenv.cfg", home / "pyvenv.cfg")
    words = [str(place.stock_python), "-IS", str(HERE / "caller.py"), str(place.socket)]
    partial = place.python.with_name("python.partial")
    partial.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    partial.chmod(0o755)
    partial.rename(place.python)


def hold(place: Place) -> socket.socket:
    """Keep the zygote alive while the returned connection is open; starts it where none listens."""
    make_model(place)
    with locked(place.folder):
        make_launcher(place)
        with contextlib.suppress(OSError):
            return connect(place)
        with open(place.folder / place.code / "zygote.log", "w") as log:
            command = [place.stock_python, HERE / "zygote.py", place.socket, place.folder / "modules.txt", place.model]
            process = subprocess.Popen(
                command, env=clean_env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + SET_UP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return connect(place)
            time.sleep(0.1)
    end = (place.folder / place.code / "zygote.log").read_text()[-4000:]
    raise RuntimeError(f"the preloaded interpreter did not start:\n{end}")


def connect(place: Place) -> socket.socket:
    connection = caller.connect(str(place.socket))
    caller.send(connection, {"do": "hold"})
    if caller.receive(connection)[0] is None:
        raise ConnectionResetError("the zygote is just ending")
    return connection


def engine_processes(python: Path, pid: int) -> list[int]:
    """Every process of the server that `pid` is, the API server first: forked by the zygote, or stock."""
    if (python.parents[1] / "zygote.sock").exists():
        with contextlib.closing(caller.connect(str(python.parents[1] / "zygote.sock"))) as connection:
            caller.send(connection, {"do": "processes", "caller": pid})
            answer, _ = caller.receive(connection)
            assert answer is not None
            return list(answer["pids"])
    return [pid, *descendants(pid)]


def descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, task.read_text().split())
    return children + [grandchild for child in children for grandchild in descendants(child)]


def _place() -> Place:
    try:
        return find_place()
    except NoEngine as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stock_python() -> Path:
    """The interpreter that has vLLM, as users have it. A server takes 40 s of CPU to start."""
    return _place().stock_python


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A folder with a tiny random Llama."""
    return make_model(_place())


@pytest.fixture(scope="session")
def engine_python() -> Iterator[Path]:
    """A preloaded interpreter, to be used wherever a real one is: `engines[].python`. A server starts in 2 s."""
    place = _place()
    with contextlib.closing(hold(place)):
        yield place.python
