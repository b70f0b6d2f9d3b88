"""The GPUs of this host, by UUID: from NVIDIA's driver, or as the config lists them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from reconciler import procfs
from reconciler.errors import Retryable
from reconciler.model import Gpu
from reconciler.procfs import Identity
from reconciler.targets.mig import CAPABILITIES, nodes_of, parts_of

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Holder:
    """One process that holds memory of a GPU."""

    pid: int
    memory_bytes: int


class Gpus:
    """The driver is asked for the list once: GPUs do not come and go while a host runs, and are seldom split anew."""

    def __init__(self, configured: Literal["auto"] | tuple[str, ...], capabilities: Path = CAPABILITIES) -> None:
        """`capabilities` is where the kernel tells which nodes grant which part of a GPU."""
        self._configured = configured
        self._capabilities = capabilities
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

    def nodes(self, uuids: Iterable[str]) -> tuple[str, ...]:
        """The nodes in /dev of these GPUs, each once; none for one that only the config names. Raises Retryable."""
        return tuple(dict.fromkeys(node for uuid in uuids for node in self._nodes(uuid)))

    def _nodes(self, uuid: str) -> tuple[str, ...]:
        is_part = any(gpu.uuid == uuid and gpu.parent for gpu in self.list())
        if self._nvml is None:
            return ()
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            if is_part:
                return nodes_of(self._nvml, handle, self._capabilities)
            return (f"/dev/nvidia{self._nvml.nvmlDeviceGetMinorNumber(handle)}",)
        except self._nvml.NVMLError_NotFound:
            return ()
        except self._nvml.NVMLError as error:
            raise _driver_failed(error) from None

    def _find(self) -> tuple[Gpu, ...]:
        if self._configured == ():
            return ()
        self._nvml = _open_driver()
        found = _ask(self._nvml) if self._nvml else {}
        every = [gpu for parts in found.values() for gpu in parts]
        if self._configured == "auto":
            return tuple(every)
        # Whoever names a GPU in MIG mode means all of its parts.
        by_uuid = {gpu.uuid: (gpu,) for gpu in every} | found
        return tuple(gpu for uuid in self._configured for gpu in by_uuid.get(uuid, (Gpu(uuid),)))


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


def _ask(nvml: Any) -> dict[str, tuple[Gpu, ...]]:
    """What may be leased of each GPU: the GPU, or its parts where it is in MIG mode."""
    found = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
            parts = parts_of(nvml, handle, uuid)
            whole = Gpu(uuid, name, nvml.nvmlDeviceGetMemoryInfo(handle).total)
            found[uuid] = (whole,) if parts is None else parts
    except nvml.NVMLError as error:
        raise _driver_failed(error) from None
    return found


def _driver_failed(error: Exception) -> Retryable:
    return Retryable(f"NVIDIA's driver does not answer: {error}; see nvidia-smi, the host may need a restart")
