"""NVIDIA's driver for machines that have none: a library that the real nvidia-ml-py loads, and GPUs made of files.

    driver = Driver(folder, gpus=2)        # 24 GiB each; driver.uuids names them
    driver.partition(driver.uuids[1], "1g.6gb", "2g.12gb")   # MIG on the second: returns the parts' UUIDs
    driver.hold(driver.uuids[0], pid, 20 * GIB, grace=2)     # until 2 s after somebody first finds that process dead
    driver.fail(18), driver.fail(None), driver.lose(uuid)

In this process: `with driver.loaded():`, or the fixture `driver`. Elsewhere: `driver.env()` are the variables of a
program that should see it, and `driver.user(share, grace)` words to put before the command of one that takes memory of
the GPUs in its CUDA_VISIBLE_DEVICES, as vLLM does: where less than that share is free it ends with vLLM's words.

What the folder holds, for whoever writes there by other means:

    devices         a line for each GPU and, below it, for each MIG device of it:
                    `gpu UUID MINOR BYTES RESERVED MIG NAME`, where MIG is 1, 0 (off) or -1 (not supported), and
                    `mig UUID BYTES GPU_INSTANCE COMPUTE_INSTANCE SLICES NAME`
    used/UUID/PID   `START BYTES GRACE LISTED`: what a process that started at START (field 22 of /proc/PID/stat) holds
                    of a GPU or a MIG device, and for how many seconds longer; LISTED is 1 if the driver names it then
    fault           the number of the error that every call answers
    lost/UUID       a GPU that fell off its bus
    log             `TIME took|refused UUID PID` of each program behind `user`
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from reconciler.system import procfs

SOURCE = Path(__file__).parent / "nvml.c"
LIBRARY = "libnvidia-ml.so.1"
GIB = 1 << 30
_SPACE = uuid.UUID("5a6e1b60-0000-4000-8000-000000000000")


class Driver:
    """GPUs of one host. `reserved` is what the driver keeps of each for itself."""

    def __init__(
        self, folder: Path, gpus: int = 2, memory: int = 24 * GIB, reserved: int = 0, name: str = "NVIDIA Stand-in"
    ) -> None:
        """Raises NoCompiler."""
        self.folder = folder
        self.tools = build()
        self.uuids = tuple(f"GPU-{uuid.uuid5(_SPACE, str(number))}" for number in range(gpus))
        # Their nodes in /dev are in another order than they are.
        self._lines = [
            [f"gpu {each} {gpus - 1 - number} {memory} {reserved} 0 {name} {memory // GIB}GB"]
            for number, each in enumerate(self.uuids)
        ]
        for name in ("used", "lost"):
            (folder / name).mkdir(parents=True)
        for each in self.uuids:
            self._open(each)
        log = folder / "log"
        log.touch()
        log.chmod(0o666)
        self._write()

    # ------------------------------------------------------------ seeing it

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """nvidia-ml-py in this process finds the library, and these GPUs."""
        import pynvml

        handles = [ctypes.CDLL(str(self.tools / LIBRARY))]
        fresh: dict[str, Any] = {"nvmlLib": None, "_nvmlLib_refcount": 0, "_nvmlGetFunctionPointer_cache": {}}
        # Whoever asks for a library by its name gets the one of that name that is loaded already.
        with mock.patch.multiple(pynvml, **fresh), mock.patch.dict(os.environ, {"NVML_STANDIN": str(self.folder)}):
            try:
                yield
            finally:
                handles += [pynvml.nvmlLib] if pynvml.nvmlLib else []
                for each in handles:
                    ctypes.CDLL(None).dlclose(ctypes.c_void_p(each._handle))

    def env(self) -> dict[str, str]:
        """Variables of a program that should see these GPUs."""
        return {"LD_LIBRARY_PATH": str(self.tools), "NVML_STANDIN": str(self.folder)}

    def user(self, share: float = 0.92, grace: float = 0.0) -> list[str]:
        """Words before a command that runs with NVML_STANDIN and CUDA_VISIBLE_DEVICES set."""
        return [str(self.tools / "user"), str(share), str(grace)]

    def log(self) -> list[tuple[float, str, str, int]]:
        """Time, what happened, on which GPU, and whose process it was; in order."""
        rows = (line.split() for line in (self.folder / "log").read_text().splitlines())
        return [(float(at), word, gpu, int(pid)) for at, word, gpu, pid in rows]

    # ------------------------------------------------------------ changing it

    def hold(self, gpu: str, pid: int, memory: int, grace: float = 0.0, listed: bool = False) -> Path:
        """This process holds so many bytes; removing the returned file gives them back."""
        stat = procfs.read_stat(pid)
        entry = self.folder / "used" / gpu / str(pid)
        entry.write_text(f"{stat.started if stat else 1} {memory} {grace} {int(listed)}\n")
        return entry

    def partition(self, gpu: str, *profiles: str) -> tuple[str, ...]:
        """Turn MIG on for a GPU with these parts (`2g.12gb`; none: on, but empty). Returns their UUIDs."""
        lines = self._lines[self.uuids.index(gpu)]
        words = lines[0].split(" ", 6)
        parts = tuple(f"MIG-{uuid.uuid5(_SPACE, f'{gpu}/{number}')}" for number in range(len(profiles)))
        lines[:] = [" ".join([*words[:5], "1", words[6]])]
        for number, (part, profile) in enumerate(zip(parts, profiles, strict=True)):
            slices, memory = profile.removesuffix("gb").split("g.")
            lines.append(f"mig {part} {int(memory) * GIB} {number + 1} 0 {slices} {words[6]} MIG {profile}")
            self._open(part)
        self._write()
        return parts

    def fail(self, code: int | None) -> None:
        """Every call answers this error of NVML: 999 is unknown, 18 a library of another version. None ends it."""
        if code is None:
            (self.folder / "fault").unlink(missing_ok=True)
        else:
            (self.folder / "fault").write_text(f"{code}\n")

    def lose(self, gpu: str) -> None:
        """It is still counted, but does not answer any more."""
        (self.folder / "lost" / gpu).touch()

    def _open(self, device: str) -> None:
        folder = self.folder / "used" / device
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)

    def _write(self) -> None:
        (self.folder / "devices").write_text("".join(f"{line}\n" for lines in self._lines for line in lines))


class NoCompiler(Exception):
    """The stand-in cannot be built here; the message says why."""


@functools.cache
def build() -> Path:
    """A folder with the library and the program `user`. Raises NoCompiler."""
    if shutil.which("cc") is None:
        raise NoCompiler("GPUs that stand in for real ones need a C compiler: apt-get install gcc libc6-dev")
    # Next to the checkout, where machines see it too.
    folder = Path(__file__).parents[3] / ".cache" / "nvml" / str(SOURCE.stat().st_mtime_ns)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        made.chmod(0o755)
        _compile("-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", str(made / LIBRARY))
        _compile("-DUSER", "-o", str(made / "user"))
        with contextlib.suppress(OSError):
            # Another worker was faster otherwise.
            made.rename(folder)
    return folder


def _compile(*words: str) -> None:
    subprocess.run(["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", *words, str(SOURCE)], check=True)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """Two GPUs that nvidia-ml-py finds in this process."""
    with make(tmp_path / "gpus") as made, made.loaded():
        yield made


@contextlib.contextmanager
def make(folder: Path, gpus: int = 2, **more: int) -> Iterator[Driver]:
    """A driver for a test, which is skipped where there is no compiler."""
    try:
        made = Driver(folder, gpus, **more)
    except NoCompiler as error:
        pytest.skip(str(error))
    yield made
