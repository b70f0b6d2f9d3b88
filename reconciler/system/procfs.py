"""Reading /proc: processes that cannot be mistaken for others, and ports in use."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from reconciler.system.files import is_out_of_resources

_LISTEN = b"0A"
# 127.0.0.1 as the kernel writes it, what includes it, and both again in IPv6: `::` and two mapped addresses of IPv4.
_MAPPED = b"0000000000000000FFFF0000"
_LOOPBACK = (b"0100007F", b"00000000", b"0" * 32, _MAPPED + b"0100007F", _MAPPED + b"00000000")
_DEAD = "ZX"
_TICKS = os.sysconf("SC_CLK_TCK")
_SHARED_PREFIXES = ("psm_", "nccl-")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process that cannot be mistaken for another: its number, its start in clock ticks, and the boot it is of."""

    pid: int
    started: int
    boot: str


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A file in /dev/shm that a replica mapped."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Stat:
    """The parts of /proc/PID/stat that identify a process."""

    pid: int
    state: str
    parent: int
    session: int
    started: int

    @property
    def is_dead(self) -> bool:
        """A zombie runs nothing and holds nothing; only its parent has not reaped it yet."""
        return self.state in _DEAD


@cache
def boot_id() -> str:
    """This boot, and this PID namespace: in another one all our processes are gone."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses.
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def identify(pid: int) -> Identity | None:
    """The identity of this process, or None if it does not run."""
    stat = read_stat(pid)
    return None if stat is None or stat.is_dead else Identity(pid, stat.started, boot_id())


def is_running(who: Identity) -> bool:
    """Is it still this very process, and not a zombie?"""
    return identify(who.pid) == who


def send_signal(who: Identity, number: signal.Signals) -> bool:
    """Signal this very process and no other; False when it has ended."""
    try:
        handle = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle is taken before the look: whatever the number means later, it stays this process.
        if not is_running(who):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def all_stats() -> Iterator[Stat]:
    """Every process of this machine that we can see."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = read_stat(int(name))
            if stat is not None:
                yield stat


def children(pid: int) -> tuple[int, ...]:
    """The processes that this one started and that still run."""
    return tuple(int(child) for child in (_read(f"/proc/{pid}/task/{pid}/children") or b"").split())


def descendants(pid: int) -> set[int]:
    """The processes below this one, whichever of its threads started them."""
    parents = {stat.pid: stat.parent for stat in all_stats()}
    found: set[int] = set()
    layer = {pid}
    while layer := {child for child, parent in parents.items() if parent in layer} - found:
        found |= layer
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; 0 when it has ended."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return 0.0
    fields = data[data.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def age(who: Identity) -> float:
    """Seconds since its start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - who.started / _TICKS


def user_of(pid: int) -> int | None:
    """The owner of a process; None when it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def group_of(pid: int) -> int | None:
    """The group used for files that it opens; None when it has ended."""
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"Gid:"):
            return int(line.split()[4])
    return None


def name_of(pid: int) -> str:
    """The short name of a process, which it may have set itself; `?` when it has ended."""
    name = (_read(f"/proc/{pid}/comm") or b"?").decode(errors="replace").strip()
    return "".join(each if each.isprintable() else "?" for each in name)


def read_environment(pid: int) -> list[bytes]:
    """`NAME=value` as it was when the program started; empty when it may not be read."""
    return (_read(f"/proc/{pid}/environ") or b"").split(b"\0")


def runs_as(pid: int, users: Collection[int]) -> bool:
    """Is it, in each of its roles, one of these users? The owner of its entry in /proc says less than that."""
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"Uid:"):
            return all(int(word) in users for word in line.split()[1:])
    return False


def read_cgroups(pid: int) -> list[str]:
    """Its path in each cgroup hierarchy; empty when it has ended."""
    text = (_read(f"/proc/{pid}/cgroup") or b"").decode(errors="replace")
    return [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") > 1]


def read_outputs(pid: int) -> tuple[str, ...]:
    """What standard output and standard error point to."""
    found = []
    for number in (1, 2):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return tuple(found)


def shared_memory_of(pid: int) -> set[SharedMemory]:
    """The files in /dev/shm that a process maps and that outlive a sudden death."""
    found = set()
    for line in (_read(f"/proc/{pid}/maps") or b"").splitlines():
        if b"/dev/shm/" not in line or line.endswith(b"(deleted)"):
            continue
        fields = line.split(maxsplit=5)
        name = os.fsdecode(fields[5]).removeprefix("/dev/shm/")  # noqa: S108
        if name.startswith(_SHARED_PREFIXES) and "/" not in name:
            found.add(SharedMemory(name, int(fields[4])))
    return found


def listeners() -> dict[int, set[int]]:
    """Every TCP port in use, with the inodes of the listening sockets."""
    found: dict[int, set[int]] = {}
    for fields in _listening():
        found.setdefault(int(fields[1].rpartition(b":")[2], 16), set()).add(int(fields[9]))
    return found


def loopback_listeners(port: int) -> dict[int, int]:
    """The sockets that may take a connection to this port of 127.0.0.1, each with its user. By inode."""
    found: dict[bytes, dict[int, int]] = {}
    for fields in _listening():
        host, _, number = fields[1].rpartition(b":")
        if int(number, 16) == port and host in _LOOPBACK:
            found.setdefault(host, {})[int(fields[9])] = int(fields[7])
    # The kernel prefers who listens on the very address.
    return found.get(_LOOPBACK[0]) or {inode: user for each in found.values() for inode, user in each.items()}


def _listening() -> Iterator[list[bytes]]:
    """The lines of TCP sockets that listen, in fields."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with _gone_is_nothing(), open(path, "rb") as file:
            next(file)
            for line in file:
                fields = line.split(maxsplit=10)
                # The kernel lists listening sockets first; behind them may come many thousands of connections.
                if fields[3] != _LISTEN:
                    break
                yield fields


def listens(address: int | str) -> bool:
    """Does any process listen on this TCP port, or on the Unix socket of this path?"""
    return address in listeners() if isinstance(address, int) else _accepts(address)


def _accepts(path: str) -> bool:
    """/proc/net/unix does not say: in a mount namespace of its own any user may bind a name like it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except BlockingIOError:
            # There is no room for one more.
            return True
        except OSError:
            return False
    return True


def holders(inodes: set[int]) -> set[int]:
    """The processes that hold one of these sockets, as far as we may look."""
    return openers({f"socket:[{inode}]" for inode in inodes})


def openers(wanted: set[str]) -> set[int]:
    """The processes that have one of these open, by its path or as /proc calls it, as far as we may look."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with _gone_is_nothing():
                if any(_link(f"/proc/{name}/fd/{fd}") in wanted for fd in os.listdir(f"/proc/{name}/fd")):
                    found.add(int(name))
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        if is_out_of_resources(error):
            raise
        return None


@contextlib.contextmanager
def _gone_is_nothing() -> Iterator[None]:
    """What ended meanwhile, or is closed to us, is not seen. Raises if we cannot look at all."""
    try:
        yield
    except OSError as error:
        if is_out_of_resources(error):
            raise
