"""The GPUs of this host, by UUID: from NVIDIA's driver, or as the config lists them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from reconciler import procfs
from reconciler.errors import Retryable
from reconciler.model import Gpu
from reconciler.procfs import Identity

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Holder:
    """One process that holds memory of a GPU."""

    pid: int
    memory_bytes: int


class Gpus:
    """The driver is asked for the list once: GPUs do not come and go while a host runs."""

    def __init__(self, configured: Literal["auto"] | tuple[str, ...]) -> None:
        self._configured = configured
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._known: tuple[Gpu, ...] | None = None

    def list(self) -> tuple[Gpu, ...]:
        """Every GPU that replicas may lease. Raises Retryable when there is a driver but it fails."""
        with self._lock:
            if self._known is None:
                self._known = self._find()
            return self._known

    def held_by(self, uuid: str) -> tuple[Holder, ...]:
        """The processes that hold memory of this GPU; none without a driver. Raises Retryable when the driver fails."""
        self.list()
        if self._nvml is None:
            return ()
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError_NotFound:
            return ()
        except self._nvml.NVMLError as error:
            raise _driver_failed(error) from None
        return tuple(Holder(process.pid, process.usedGpuMemory or 0) for process in running)

    def holds(self, uuids: Iterable[str], processes: Collection[Identity]) -> int:
        """How often one of these processes, which may have ended just now, still holds memory of one of these GPUs."""
        held = [holder.pid for uuid in uuids for holder in self.held_by(uuid)]
        return sum(_is_one_of(pid, processes) for pid in held)

    def device(self, uuid: str) -> str | None:
        """The node in /dev of this GPU; None for one that only the config names. Raises Retryable."""
        self.list()
        if self._nvml is None:
            return None
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            return f"/dev/nvidia{self._nvml.nvmlDeviceGetMinorNumber(handle)}"
        except self._nvml.NVMLError_NotFound:
            return None
        except self._nvml.NVMLError as error:
            raise _driver_failed(error) from None

    def _find(self) -> tuple[Gpu, ...]:
        if self._configured == ():
            return ()
        self._nvml = _open_driver()
        found = _ask(self._nvml) if self._nvml else ()
        if self._configured == "auto":
            return found
        by_uuid = {gpu.uuid: gpu for gpu in found}
        return tuple(by_uuid.get(uuid, Gpu(uuid)) for uuid in self._configured)


def _is_one_of(pid: int, known: Collection[Identity]) -> bool:
    """Is this number, as a driver reports it, one of these processes, which may have ended just now?"""
    stat = procfs.read_stat(pid)
    return any(who.pid == pid and (stat is None or stat.started == who.started) for who in known)


def _open_driver() -> Any:
    """NVIDIA's library, initialised, or None where there is no driver at all."""
    # Imported late: without a driver it is of no use, and the commands should answer at once.
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        _log.debug("gpu.no_driver")
        return None
    except pynvml.NVMLError as error:
        # For example a driver that was updated under a running kernel module: the GPUs are there, and may be in use.
        raise _driver_failed(error) from None
    return pynvml


def _ask(nvml: Any) -> tuple[Gpu, ...]:
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(nvml.nvmlDeviceGetUUID(h), nvml.nvmlDeviceGetName(h), nvml.nvmlDeviceGetMemoryInfo(h).total)
            for h in handles
        )
    except nvml.NVMLError as error:
        raise _driver_failed(error) from None


def _driver_failed(error: Exception) -> Retryable:
    return Retryable(f"NVIDIA's driver does not answer: {error}; see nvidia-smi, the host may need a restart")
