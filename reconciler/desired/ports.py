"""Whether a container's ports match its engine: a cluster goes by them. Pure.

A host leases its own ports, so a difference does no harm there. KServe sends requests, and its own readiness probe, to
the container's first port, or to 8080 where it declares none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.desired.origins import Origins
from reconciler.engines.arguments import find, flag_value, speaks_grpc, takes_grpc
from reconciler.engines.container import server_flags, unsupported
from reconciler.model import NO_ORIGIN, Argument, EffectiveSpec, Reason, ReasonCode

_NAME = "h2c"
_KSERVE, _VLLM = 8080, 8000
# Images whose entry point is vLLM's own server.
_IMAGES = ("vllm-openai", "vllm-cpu")


def port_warnings(container: Mapping[str, Any], spec: EffectiveSpec, origins: Origins) -> Iterator[Reason]:
    """What a cluster would do otherwise."""
    if doubt := doubtful_port(spec, container.get("ports") or ()):
        where = doubt.argument.origin if doubt.argument else NO_ORIGIN
        yield Reason(ReasonCode.PORT_MISMATCH, doubt.message, where or origins.of_container_field("args"))
    yield from _other_protocol(container, spec, origins)


def _other_protocol(container: Mapping[str, Any], spec: EffectiveSpec, origins: Origins) -> Iterator[Reason]:
    """A host goes by the command, a cluster by the port's name: KServe takes one named `h2c` for gRPC."""
    named = any(port.get("name") == _NAME for port in container.get("ports") or () if isinstance(port, dict))
    is_grpc = takes_grpc(spec.command_line)
    if named and not is_grpc:
        text = f"a port named {_NAME} means gRPC, but this command starts an HTTP server; HTTP is served"
        yield Reason(
            ReasonCode.PORT_PROTOCOL_MISMATCH,
            f"{text}; add --grpc, or rename the port",
            origins.of_container_field("ports"),
        )
    if is_grpc and not named:
        text = f"gRPC is served here, but KServe sends HTTP/1.1 to a port that is not named {_NAME}"
        where = origins.of_container_field("ports" if container.get("ports") else "args")
        yield Reason(ReasonCode.PORT_PROTOCOL_MISMATCH, f"{text}; name the containerPort of gRPC {_NAME}", where)


@dataclass(frozen=True, slots=True)
class PortDoubt:
    """Why a cluster would not find the engine. `argument` is the one to blame; None: one is missing."""

    message: str
    argument: Argument | None = None


def doubtful_port(spec: EffectiveSpec, ports: Sequence[Mapping[str, Any]]) -> PortDoubt | None:
    """The finding about a container that listens on another port than its `ports` declare. None: none."""
    flags = server_flags(spec)
    declared = next((each.get("containerPort") for each in ports), None)
    expected = declared or _KSERVE
    written = find(flags, "--port")
    argument, given = written[-1] if written else (None, None)
    if (flag_value(flags, "--grpc-port") or "") == str(expected):
        return None
    never = "it would never become ready on a cluster"
    if given is None:
        if argument is not None or not _is_vllm(spec) or expected == _VLLM:
            return None
        text = f"without --port vLLM listens on {_VLLM}, and {never}, which looks for it on {expected}"
        return PortDoubt(f"{text}; write --port={expected}")
    if not given.isdecimal() or int(given) == expected:
        return None
    if declared:
        text = f"--port {given} is not the container's first containerPort: {never}, which looks for it on {declared}"
        return PortDoubt(f"{text}; write the same in both", argument)
    text = f"--port {given} is not 8080, and no containerPort declares it: {never}, which looks for it on {_KSERVE}"
    return PortDoubt(f"{text}; add ports: [{{containerPort: {given}}}]", argument)


def _is_vllm(spec: EffectiveSpec) -> bool:
    """Is it certain that vLLM's own server starts, and listens on a port?"""
    if unsupported(spec) or speaks_grpc(spec.command_line):
        return False
    return bool(spec.command) or spec.image.rsplit("/", 1)[-1].startswith(_IMAGES)
