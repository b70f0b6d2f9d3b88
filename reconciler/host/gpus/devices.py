"""The GPUs of this host, by UUID: from NVIDIA's driver, or as the config lists them.

One in MIG mode is the parts that are devices of their own, each with the nodes in /dev that lead to it.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from reconciler.errors import Retryable
from reconciler.model import Gpu
from reconciler.system import procfs
from reconciler.system.procfs import Identity

CAPABILITIES = Path("/proc/driver/nvidia/capabilities")
_PROFILE = re.compile(r" MIG (\S+)$")
_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)$", re.MULTILINE)
# Leased as nothing: a GPU in MIG mode is no GPU as a whole, whatever its parts are called.
_UNKNOWN = "unknown"


def parts_of(nvml: Any, handle: Any, uuid: str) -> tuple[Gpu, ...] | None:
    """The MIG devices of the GPU `uuid`; None when it is not in MIG mode. Raises NVMLError."""
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return None
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    return tuple(_part(nvml, part, uuid) for part in _handles(nvml, handle))


def nodes_of(nvml: Any, part: Any, capabilities: Path = CAPABILITIES) -> tuple[str, ...]:
    """Its GPU's node, and those that grant the part. Raises NVMLError, or Retryable when the kernel tells nothing."""
    gpu = nvml.nvmlDeviceGetMinorNumber(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part))
    instance = capabilities / f"gpu{gpu}/mig/gi{nvml.nvmlDeviceGetGpuInstanceId(part)}"
    compute = instance / f"ci{nvml.nvmlDeviceGetComputeInstanceId(part)}"
    granting = (f"/dev/nvidia-caps/nvidia-cap{_minor(each / 'access')}" for each in (instance, compute))
    return (f"/dev/nvidia{gpu}", *granting)


def _handles(nvml: Any, handle: Any) -> Iterator[Any]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        # Parts that were taken away leave gaps.
        with contextlib.suppress(nvml.NVMLError_NotFound):
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)


def _part(nvml: Any, part: Any, parent: str) -> Gpu:
    name = nvml.nvmlDeviceGetName(part)
    found = _PROFILE.search(name)
    memory = nvml.nvmlDeviceGetMemoryInfo(part).total
    return Gpu(nvml.nvmlDeviceGetUUID(part), name, memory, found[1] if found else _UNKNOWN, parent)


def _minor(path: Path) -> int:
    try:
        found = _MINOR.search(path.read_text())
    except OSError as error:
        raise Retryable(
            f"{path}: cannot be read: {error.strerror}; was the MIG device taken away? see nvidia-smi -L"
        ) from None
    if found is None:
        raise Retryable(f"{path}: names no DeviceFileMinor; the driver may be too old for MIG")
    return int(found[1])


_log = structlog.get_logger()


# Memory of ended processes comes back within seconds, or never.
_PATIENCE = 60.0
# What drivers and their contexts take for themselves, as a share of all memory.
_CRUMBS = 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    """One process that holds memory of a GPU; None if the driver does not report how much."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU's memory, without the driver's own, and the processes that hold it. `fault`: the GPU is lost."""

    usable_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...] = ()
    fault: str = ""

    @property
    def orphaned_bytes(self) -> int:
        """What is used, but by no process; 0 if unknown."""
        amounts = [one.memory_bytes for one in self.holders]
        known = [amount for amount in amounts if amount is not None]
        return max(0, self.usable_bytes - self.free_bytes - sum(known)) if len(known) == len(amounts) else 0


class Gpus:
    """The driver is asked for the list once:

    GPUs do not come and go while a host runs, and are seldom repartitioned.
    """

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

    def memory(self, uuid: str) -> GpuMemory | None:
        """None if no driver can report it. Raises Retryable when it fails."""
        self.list()
        if self._nvml is None:
            return None
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            usable, free = _measure(self._nvml, handle)
            return GpuMemory(usable, free, _holders(self._nvml, handle))
        except (self._nvml.NVMLError_NotFound, self._nvml.NVMLError_NotSupported):
            # Unknown to it, or without memory of its own.
            return None
        except self._nvml.NVMLError_GpuIsLost as error:
            # The others go on.
            return GpuMemory(0, 0, fault=f"{error}; see dmesg, the host may need a restart")
        except self._nvml.NVMLError as error:
            raise _driver_failed(error) from None

    def held_by(self, uuid: str) -> tuple[Holder, ...]:
        """The processes that hold memory of this GPU; none without a driver. Raises Retryable when the driver fails."""
        memory = self.memory(uuid)
        return memory.holders if memory else ()

    def is_releasing(self, uuids: Iterable[str], since: float | None, now: float) -> bool:
        """Is much memory of one of these GPUs taken although no process has it? Not forever: drivers can lose some.

        `since` is when a replica was asked to end.
        """
        if since is not None and now - since > _PATIENCE:
            return False
        try:
            memories = [self.memory(uuid) for uuid in uuids]
        except Retryable:
            # It may be. The next replica that wants these GPUs gets the driver's error.
            return True
        return any(each is not None and each.orphaned_bytes > _CRUMBS * each.usable_bytes for each in memories)

    def holds(self, uuids: Iterable[str], processes: Collection[Identity]) -> int:
        """How often one of these processes, which may have ended just now, still holds memory of one of these GPUs.

        A driver that fails names no process: then `is_releasing` says to wait, and the host's other services go on.
        """
        held: list[Holder] = []
        for uuid in uuids:
            with contextlib.suppress(Retryable):
                held += self.held_by(uuid)
        return sum(_is_one_of(holder.pid, processes) for holder in held)

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
        # Naming a GPU in MIG mode means all of its parts.
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
        _log.debug("gpu_driver_missing")
        return None
    except pynvml.NVMLError as error:
        # For example a driver that was updated under a running kernel module: the GPUs are there, and may be in use.
        raise _driver_failed(error) from None
    return pynvml


def _ask(nvml: Any) -> dict[str, tuple[Gpu, ...]]:
    """What may be leased of each GPU: the GPU, or its parts where it is in MIG mode."""
    found: dict[str, tuple[Gpu, ...]] = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            if (described := _describe(nvml, index)) is not None:
                found |= described
    except nvml.NVMLError as error:
        raise _driver_failed(error) from None
    return found


def _describe(nvml: Any, index: int) -> dict[str, tuple[Gpu, ...]] | None:
    """None for one that fell off its bus: it has no name any more, and the others serve on."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
        parts = parts_of(nvml, handle, uuid)
        whole = Gpu(uuid, name, nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return {uuid: (whole,) if parts is None else parts}
    except nvml.NVMLError_GpuIsLost as error:
        _log.error("gpu_lost", index=index, error=str(error))
        return None


def _measure(nvml: Any, handle: Any) -> tuple[int, int]:
    """The bytes that programs may use of a GPU, and those that are free."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError_FunctionNotFound:
        # A driver from before 2022 counts what it keeps for itself as used.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.total, memory.free
    return memory.total - memory.reserved, memory.free


def _holders(nvml: Any, handle: Any) -> tuple[Holder, ...]:
    """Processes that compute or draw there; many do both."""
    running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    with contextlib.suppress(nvml.NVMLError_NotSupported):
        # Parts of a GPU draw nothing.
        running += nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    found: dict[int, Holder] = {}
    for each in running:
        found.setdefault(each.pid, Holder(each.pid, each.usedGpuMemory))
    return tuple(found.values())


def _driver_failed(error: Exception) -> Retryable:
    return Retryable(f"the NVIDIA driver is not responding: {error}; see nvidia-smi, the host may need a restart")
