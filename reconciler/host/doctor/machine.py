"""What the kernel gives: time, shared memory, descriptors, and what of CPU and memory replicas may use."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import HostSettings, Settings
from reconciler.host.checks.fits import Machine
from reconciler.host.doctor.systemd import properties
from reconciler.host.gpus.devices import Gpus
from reconciler.report.findings import CheckResult, ok, problem, warning
from reconciler.system.unix_sockets import listener_pid

_GIB = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
# What one vLLM engine takes there: 400 MiB measured for one process on a CPU.
_SHARED_LITTLE = 1 * _GIB
_DESCRIPTORS = 65_536
_UNSYNCHRONISED, _CLOCK_ERROR = 0x40, 5


class _Timex(ctypes.Structure):
    """The beginning of the kernel's struct timex, padded to its size."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def read_clock() -> tuple[int, int]:
    """What the kernel answers, negative for an error, and the status of its clock."""
    state = _Timex()
    result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    return (result, state.status) if result >= 0 else (-ctypes.get_errno(), 0)


def check_clock() -> Iterator[CheckResult]:
    """The kernel's clock is synchronised: TLS, signed requests to storage and the order of logs depend on it."""
    fix = "run chrony or systemd-timesyncd: timedatectl set-ntp true"
    result, status = read_clock()
    if result < 0:
        yield warning("clock", f"cannot be checked: {os.strerror(-result)}", "see timedatectl")
    elif result == _CLOCK_ERROR or status & _UNSYNCHRONISED:
        yield warning("clock", "it is not synchronised: TLS and storage refuse a clock that is wrong", fix)
    else:
        yield ok("clock", "it is synchronised")


def check_shared_memory() -> Iterator[CheckResult]:
    """vLLM's processes talk by shared memory; half of the memory is usual, and containers get 64 MiB."""
    if not _SHARED_MEMORY.is_dir():
        yield problem("memory", f"{_SHARED_MEMORY} is not there", f"mount -t tmpfs tmpfs {_SHARED_MEMORY}")
        return
    usage = shutil.disk_usage(_SHARED_MEMORY)
    message = f"{_SHARED_MEMORY}: {usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free < _SHARED_LITTLE:
        fix = f"mount -o remount,size=50% {_SHARED_MEMORY}; in a container --shm-size or --ipc=host"
        yield warning("memory", f"{message}; one engine takes up to half a GiB", fix)
    else:
        yield ok("memory", message)


def check_files(settings: Settings | None) -> Iterator[CheckResult]:
    """Every connection through the proxy takes one or two descriptors.

    The limit is read of the daemon, or its unit, or else this process.
    """
    daemon = listener_pid(settings.socket_path) if settings else None
    unit = properties("LoadState", "LimitNOFILE")
    if daemon is None and unit["LoadState"] == "loaded":
        hard = int(unit["LimitNOFILE"]) if unit["LimitNOFILE"].isdigit() else resource.RLIM_INFINITY
    else:
        hard = resource.prlimit(daemon or 0, resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS:
        fix = f"LimitNOFILE={_DESCRIPTORS} in the unit, or ulimit -Hn where the daemon is started"
        yield warning("limits", f"at most {hard} open files for a process", fix)
    else:
        yield ok("limits", f"{'any number of' if hard == resource.RLIM_INFINITY else hard} open files for a process")


def check_inotify() -> Iterator[CheckResult]:
    """Envoy learns of new routes by inotify, of which every user has a few: one is taken and given back."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip()
    handle = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_CLOEXEC)
    if handle < 0:
        why = os.strerror(ctypes.get_errno())
        fix = "sysctl fs.inotify.max_user_instances=1024"
        yield problem(
            "limits", f"no inotify instance is left of {limit} ({why}): the proxy would not see new routes", fix
        )
        return
    os.close(handle)
    yield ok("limits", f"inotify instances are left of {limit}")


def check_capacity(target: HostSettings) -> Iterator[CheckResult]:
    """What replicas may use altogether."""
    offered = Machine(target, Gpus(())).capacity(())
    cores, memory = offered.cpu_millis / 1000, offered.memory_bytes / _GIB
    yield ok("capacity", f"{target.name}: {cores:g} cores and {memory:.1f} GiB of memory for replicas")
