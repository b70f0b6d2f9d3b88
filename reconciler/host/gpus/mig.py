"""GPUs in MIG mode: the parts that are devices of their own, and the nodes in /dev that lead to one of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.errors import Retryable
from reconciler.model import Gpu

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
