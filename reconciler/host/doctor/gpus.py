"""NVIDIA's driver and the GPUs that replicas may lease."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import HostSettings
from reconciler.host.doctor.ask import ask, user_of
from reconciler.host.gpus.devices import Gpus
from reconciler.model import Gpu
from reconciler.report.findings import CheckResult, ok, problem, warning

_GIB = 1 << 30
_UNIFIED_MEMORY = Path("/dev/nvidia-uvm")
_MAY_USE = ("test", "-r", str(_UNIFIED_MEMORY), "-a", "-w", str(_UNIFIED_MEMORY))
_CHOOSERS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver's own version, and the newest CUDA it runs; both are empty if unknown.

    Of its `gpus` so many are `lost`: they do not answer any more.
    """

    version: str
    cuda: str
    gpus: int
    lost: int = 0


def read_driver() -> Driver | None:
    """None if there is no driver, or it does not respond."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        version = str(pynvml.nvmlSystemGetDriverVersion())
        gpus = int(pynvml.nvmlDeviceGetCount())
        return Driver(version, f"{cuda // 1000}.{cuda % 1000 // 10}", gpus, sum(map(_is_lost, range(gpus))))
    except pynvml.NVMLError:
        return Driver("", "", 0)
    finally:
        pynvml.nvmlShutdown()


def _is_lost(index: int) -> bool:
    import pynvml

    try:
        pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError_GpuIsLost:
        return True
    return False


def check_gpus(target: HostSettings) -> Iterator[CheckResult]:
    """The driver answers, and has the GPUs that the config names."""
    yield from _chosen_by_hand(target)
    if target.gpus == ():
        yield ok("gpus", f"{target.name}: gpus: []: none is used")
        return
    gpus = Gpus(target.gpus)
    found = gpus.list()
    driver = read_driver()
    if driver is None:
        yield _without_driver(target)
        return
    yield ok("gpus", f"driver {driver.version or 'of unknown version'}, CUDA up to {driver.cuda or 'unknown'}")
    yield from (_gpu(target, gpu, gpus) for gpu in found)
    yield from _split_in_vain(target, found, driver)
    if driver.lost:
        message = f"{target.name}: {driver.lost} of {driver.gpus} GPUs fell off the bus: the others are leased"
        yield problem("gpus", message, "see dmesg, and restart the host; if that does not help, the GPU may be broken")
    if not found:
        yield warning("gpus", f"{target.name}: the driver has no GPU", "see nvidia-smi -L and dmesg")
    if found and not _UNIFIED_MEMORY.exists():
        yield warning("gpus", f"{_UNIFIED_MEMORY} is missing: CUDA cannot start", "nvidia-modprobe -u -c=0")
    elif found and not ask(_MAY_USE, user_of(target)).succeeded:
        message = f"{target.name}: {_UNIFIED_MEMORY} is not accessible to the user that runs replicas"
        yield problem("gpus", message, "add that user to the groups video and render")


def _without_driver(target: HostSettings) -> CheckResult:
    if target.gpus == "auto":
        return ok("gpus", f"{target.name}: no driver of NVIDIA: services without GPUs can run")
    return problem(
        "gpus",
        f"{target.name}: gpus lists {len(target.gpus)} and no driver of NVIDIA is here",
        "install the driver, or set gpus: []",
    )


def _gpu(target: HostSettings, gpu: Gpu, gpus: Gpus) -> CheckResult:
    if not gpu.memory_bytes:
        return problem(
            "gpus", f"{target.name}: {gpu.uuid} is not on this host", "correct gpus; nvidia-smi -L lists them"
        )
    holders = gpus.held_by(gpu.uuid)
    amount = sum(one.memory_bytes or 0 for one in holders) / _GIB
    used = f", {amount:.1f} in use by {len(holders)} processes" if holders else ""
    kind = f", leased as {gpu.kind}" if gpu.parent else ""
    if missing := [node for node in gpus.nodes([gpu.uuid]) if gpu.parent and not Path(node).exists()]:
        message = f"{target.name}: {gpu.name} {gpu.uuid} cannot be opened: {', '.join(missing)} missing"
        return problem("gpus", message, "nvidia-modprobe creates these nodes; see nvidia-smi -L and dmesg")
    return ok("gpus", f"{target.name}: {gpu.name} {gpu.uuid}, {gpu.memory_bytes / _GIB:.1f} GiB{kind}{used}")


def _split_in_vain(target: HostSettings, found: tuple[Gpu, ...], driver: Driver) -> Iterator[CheckResult]:
    """GPUs in MIG mode without a part are not in the list at all."""
    hidden = driver.gpus - driver.lost - len({gpu.parent or gpu.uuid for gpu in found})
    if target.gpus == "auto" and hidden > 0:
        message = (
            f"{target.name}: MIG mode without any MIG device on {hidden} of {driver.gpus} GPUs: nothing of it is leased"
        )
        yield warning(
            "gpus", message, "make some (nvidia-smi mig -cgi PROFILE -C), or end MIG mode (nvidia-smi -mig 0)"
        )


def _chosen_by_hand(target: HostSettings) -> Iterator[CheckResult]:
    for engine in target.engines:
        for name in sorted(set(_CHOOSERS) & engine.env.keys()):
            yield warning(
                "gpus",
                f"{target.name}: engines[].env of {engine.image} sets {name}, and the lease overrules it",
                "remove it; gpus lists those that may be leased",
            )
