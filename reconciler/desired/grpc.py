"""Whether a container's ports match its engine's protocol: KServe takes a port named `h2c` for gRPC. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.desired.origins import Origins
from reconciler.engines.arguments import takes_grpc
from reconciler.model import EffectiveSpec, Reason, ReasonCode

_NAME = "h2c"


def unlike_its_port(container: Mapping[str, Any], spec: EffectiveSpec, origins: Origins) -> Iterator[Reason]:
    """A host goes by the command, a cluster by the port's name."""
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
