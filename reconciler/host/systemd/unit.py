"""The text of a replica's unit. Pure: what is written here is all that systemd needs to keep it serving.

The section `X-Reconciler`, which systemd skips, holds what we must know of the replica, so that units alone are enough
to take a host over. Values of variables stand in no unit: D-Bus shows `Environment=` to every user of the machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.host.systemd.concealed import NOTHING_CONCEALED, Concealed, concealing_lines
from reconciler.host.systemd.podman import REMOVE, RUN, Container, cache_arguments, run_arguments
from reconciler.host.systemd.unit_files import (
    environment_script,
    is_variable_name,
    plain,
    quote,
    quote_path,
    shell_argument,
)
from reconciler.model import Address, ReplicaId, Resources

DAEMON = "reconciler.service"
SECTION = "X-Reconciler"
CREDENTIAL = "environment"
CACHES = "/var/cache"
# The engine drains by itself on SIGTERM; what is left half a minute later hangs.
_STOP_MARGIN = 30
# vLLM listens once its model is loaded, and until then may ignore SIGTERM. Such an engine has no request to lose. It is
# asked of the kernel and not of us: after a reboot, or without the daemon, nothing else knows it. All other ends of
# `grep` are faults, and say nothing about the engine.
_KILL_UNLESS = """\
{listens}
case $? in 1|2) kill -KILL "$MAINPID";; esac"""
_LISTENS_ON_PORT = "grep -Eqs '^ *[0-9]+: [0-9A-F]+:{:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"
_LISTENS_ON_SOCKET = "grep -Eqs '^[^ ]+ [0-9A-F]+ [0-9A-F]+ 00010000 .* {}$' /proc/net/unix"
# Root, who shows a folder to a unit, passes by the folders above it: only the one that was looked at may be shown.
_PINNED = """\
{{ test "$(stat -c %i {path})" = {inode} || {{ echo {path} was replaced since it was looked at >&2; exit 1; }}; }}"""
# The unit's, without `.service`.
_OWN_NAME = "%N"
_CONTAINERS = "/var/lib/containers"
_DETACHED = ("--detach", "--sdnotify=conmon", "--log-driver=passthrough", "--network=host")
_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")

# Nothing that an engine or the proxy needs.
SANDBOX = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
InaccessiblePaths=-/run/dbus -/run/systemd/private -/run/systemd/io.systemd.Manager
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077"""
# What serves comes first: when memory, time or the disk gets short, this is what has to wait or go.
BEHIND = ("OOMScoreAdjust=1000", "Nice=10", "IOSchedulingClass=idle")
# An engine reads its files, uses its GPUs, and talks to the proxy.
HARDENING = f"""\
{SANDBOX}
CapabilityBoundingSet=
AmbientCapabilities=
TemporaryFileSystem=/dev/shm:mode=1777,nosuid,nodev
ProtectProc=invisible"""


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """All that a replica's unit is made of.

    Variables reach the process by the credential file at `credential`, because their values may be any text; those of
    `hidden` are secrets.
    `mounts` maps folders of the container to folders of this host; `pins` are the inodes that some of them must have,
    for another user may put something else in their place before a restart. `devices` are the GPUs' own nodes. `cache`
    is the folder below systemd's cache that stays between replicas. `facts` go into our own section. With an `image`,
    the ID of a local one, it runs in a container, by podman: then `gpus` are its GPUs by UUID, `owner` is the user as
    `UID:GID`, and `credential` is the file as the container sees it. It listens at `address`; where that is a socket,
    its folder can be entered by `user` and by members of the group `proxy_group`.
    """

    target: str
    replica: ReplicaId
    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    cache: str
    drain_timeout: float
    address: Address
    resources: Resources
    mounts: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    credential: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    gpus: tuple[str, ...] = ()
    owner: str = ""
    concealed: Concealed = NOTHING_CONCEALED
    proxy_group: int = 0


def unit_name(target: str, replica: ReplicaId) -> str:
    """`reconciler-TARGET.NAMESPACE.NAME.SERIAL.service`; drop-ins in `reconciler-.service.d` reach all of them."""
    return f"reconciler-{target}.{replica}.service"


def drain_name(target: str) -> str:
    """The unit that is stopped before the target's proxy and replicas."""
    return f"reconciler-drain-{target}.service"


def replica_of(target: str, unit: str) -> ReplicaId | None:
    """The inverse of `unit_name`; None for another's unit."""
    prefix, suffix = f"reconciler-{target}.", ".service"
    if not unit.startswith(prefix) or not unit.endswith(suffix):
        return None
    try:
        return ReplicaId.parse(unit[len(prefix) : -len(suffix)])
    except ValueError:
        return None


def build_unit(plan: UnitPlan) -> str:
    """The unit's text. Raises ValueError for arguments that no unit can hold."""
    sections = (
        ("Unit", _unit(plan)),
        ("Service", _service(plan)),
        ("Install", ("WantedBy=multi-user.target",)),
        (SECTION, (f"{name}={_one_line(text)}" for name, text in plan.facts.items())),
    )
    return "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections)


def with_stop(text: str, target: str, address: Address) -> str:
    """The text with what an older release did not write of how a unit is stopped."""
    if "\nExecStop=" not in text:
        text = text.replace("\nKillMode=mixed\n", "\n" + "".join(f"{line}\n" for line in _stop(address)), 1)
    return text.replace(f"\nBefore={DAEMON}\n", f"\nBefore={DAEMON} {drain_name(target)}\n", 1)


def credential_of(plan: UnitPlan) -> str | None:
    """The script that gives the process its variables; None when it has none. Raises ValueError."""
    if exposed := sorted(name for name in plan.hidden if not is_variable_name(name)):
        raise ValueError(
            f"a unit cannot hide the variable {exposed[0]!a}: use letters, digits and _, and no shell's name"
        )
    return environment_script(plan.env) or None


def read_facts(text: str) -> Mapping[str, str]:
    """Our own section of a unit; empty when it has none."""
    _, found, rest = text.partition(f"\n[{SECTION}]\n")
    lines = rest.partition("\n[")[0].splitlines() if found else []
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


# ---------------------------------------------------------------- sections


def _unit(plan: UnitPlan) -> Iterator[str]:
    yield f"Description={plan.replica.service}, replica {plan.replica.serial}"
    # The other writes at every boot how GPUs are handed to containers, where it is installed.
    yield "After=network.target" + (" nvidia-cdi-refresh.service" if plan.image and plan.gpus else "")
    # What comes first goes last: when the machine goes down, the daemon must not take that for the death of replicas.
    yield f"Before={DAEMON} {drain_name(plan.target)}"
    stored = (os.path.dirname(plan.credential),) if plan.credential and not plan.image else ()
    needed = (*plan.mounts.values(), *stored, *((_CONTAINERS,) if plan.image else ()))
    if needed:
        yield "RequiresMountsFor=" + " ".join(quote_path(folder) for folder in needed)
    # A start takes minutes; three of them without success are enough.
    yield "StartLimitIntervalSec=1h"
    yield "StartLimitBurst=3"


def _service(plan: UnitPlan) -> Iterator[str]:
    yield from _contained(plan) if plan.image else _native(plan)
    yield f"SyslogIdentifier={plan.replica.service.name}"
    yield from _life(plan)
    yield from _limits(plan.resources)


def _native(plan: UnitPlan) -> Iterator[str]:
    yield "Type=exec"
    yield f"User={plain(plan.user)}"
    yield f"ExecStart={_command(plan)}"
    if credential_of(plan) is not None:
        yield f"LoadCredential={CREDENTIAL}:{plain(plan.credential)}"
    yield "WorkingDirectory=/tmp"
    yield f"CacheDirectory={plain(plan.cache)}"
    yield "CacheDirectoryMode=0700"
    for inside, folder in plan.mounts.items():
        yield f"BindReadOnlyPaths={quote_path(folder)}:{quote_path(inside)}"
    yield from concealing_lines(plan.concealed, f"{CACHES}/{plan.cache}", quote_path)
    yield from device_lines(plan.devices)
    yield from HARDENING.splitlines()
    if folder := _socket_folder(plan):
        yield from _make_socket_folder(plan, folder)
        # Until it is made it is not there.
        yield f"ReadWritePaths=-{quote_path(folder)}"
        # The proxy's group, which the socket has from its folder, may write to it.
        yield "UMask=0007"


def _socket_folder(plan: UnitPlan) -> str:
    return os.path.dirname(plan.address) if isinstance(plan.address, str) else ""


def _make_socket_folder(plan: UnitPlan, folder: str) -> Iterator[str]:
    """As root, in a folder of root's: no other user can be there first. vLLM does not bind a name that is there.

    The unit's own view of that folder is read-only, so it is reached by another one.
    """
    there, owner = f"/proc/1/root{folder}", ("-o", plan.user, "-g", str(plan.proxy_group))
    yield f"ExecStartPre=+{_line('/bin/rm', '-rf', f'/proc/1/root{plan.address}')}"
    yield f"ExecStartPre=+{_line('/usr/bin/install', '-d', '-m', '2710', *owner, there)}"


def _contained(plan: UnitPlan) -> Iterator[str]:
    """As podman's own units (Quadlet) do it: conmon is the main process, and passes on signals and the end."""
    yield "Type=notify"
    yield "NotifyAccess=all"
    yield "Delegate=yes"
    # Podman alone takes a second or two; a busy disk may take longer.
    yield "TimeoutStartSec=5min"
    cache = f"{CACHES}/{plan.cache}"
    sockets = _socket_folder(plan)
    container = Container(plan.image, plan.owner, cache, {}, plan.mounts, plan.gpus, sockets)
    yield f"ExecStartPre={_line(*cache_arguments(cache, plan.user))}"
    if sockets:
        yield from _make_socket_folder(plan, sockets)
    arguments = run_arguments(container, _arguments(plan), *_DETACHED)
    yield f"ExecStart=:{_line(*RUN)} --name={_OWN_NAME} {_line(*arguments)}"
    # Whatever killed it, nothing of it stays in podman's storage.
    yield f"ExecStopPost=-{_line(*REMOVE)} {_OWN_NAME}"


def _life(plan: UnitPlan) -> Iterator[str]:
    yield from _stop(plan.address)
    yield f"TimeoutStopSec={math.ceil(plan.drain_timeout) + _STOP_MARGIN}"
    yield "SendSIGKILL=yes"
    # The death of vLLM's engine process ends its server with status 0.
    yield "Restart=always"
    yield "RestartSec=10"
    yield "OOMPolicy=stop"


def _stop(address: Address) -> Iterator[str]:
    # The engine itself drains and ends its children; what outlives it is killed.
    yield "KillMode=mixed"
    listens = (_LISTENS_ON_PORT if isinstance(address, int) else _LISTENS_ON_SOCKET).format(address)
    yield f"ExecStop=+-:{_line('/bin/sh', '-c', _KILL_UNLESS.format(listens=listens))}"
    # Else a unit that was stopped while it started would count as failed.
    yield "SuccessExitStatus=SIGKILL"


def _limits(resources: Resources) -> Iterator[str]:
    if resources.cpu_millis:
        # As Kubernetes turns a request into a weight.
        yield f"CPUWeight={max(1, min(10_000, 1 + (resources.cpu_millis * 1024 // 1000 - 2) * 9999 // 262142))}"
    if resources.memory_bytes:
        yield f"MemoryLow={resources.memory_bytes}"
    if resources.cpu_limit_millis:
        yield f"CPUQuota={max(1, resources.cpu_limit_millis // 10)}%"
    if resources.memory_limit_bytes:
        yield f"MemoryMax={resources.memory_limit_bytes}"
    # Of what the host can have: none of them takes it from all others, and an engine needs some thousand.
    yield "TasksMax=50%"
    yield "LimitNOFILE=65535"
    yield "LimitMEMLOCK=infinity"
    # No image of its memory on disk: keys and prompts are in there.
    yield "LimitCORE=0"


def device_lines(devices: tuple[str, ...]) -> Iterator[str]:
    """These GPUs, with what all GPUs share, and no other device of the machine."""
    yield "DevicePolicy=closed"
    for device in (*_NVIDIA, *devices) if devices else ():
        yield f"DeviceAllow={plain(device)} rw"


# ---------------------------------------------------------------- the command and its environment


def _command(plan: UnitPlan) -> str:
    """`:` keeps systemd from expanding variables in the arguments."""
    return ":" + _line(*_arguments(plan))


def _arguments(plan: UnitPlan) -> tuple[str, ...]:
    steps = [_PINNED.format(path=shell_argument(path), inode=inode) for path, inode in plan.pins.items()]
    if credential_of(plan) is not None:
        file = shell_argument(plan.credential) if plan.image else f'"$CREDENTIALS_DIRECTORY/{CREDENTIAL}"'
        steps.append(f". {file}")
    return ("/bin/sh", "-c", " && ".join((*steps, 'exec "$@"')), "sh", *plan.argv) if steps else plan.argv


def _line(*arguments: str) -> str:
    return " ".join(map(quote, arguments))


def _one_line(text: str) -> str:
    if not text.isprintable() or text.endswith("\\"):
        raise ValueError(f"{text!a} cannot be written in one line of a unit")
    return text
