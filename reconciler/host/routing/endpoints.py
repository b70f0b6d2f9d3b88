"""Which replicas Envoy's clusters hold, one for HTTP and one for gRPC, and in which services' subsets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.host.routing.bootstrap import CLUSTER, GRPC, PASSTHROUGH, TLS_MATCH, TYPE, Resource
from reconciler.model import Address, Endpoint, ServiceRoute

# The balancer ignores this part of the metadata; it tells us later whose address it was.
_OURS = "reconciler"
_BALANCER = "envoy.lb"


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """One replica in a cluster. `parts` says for which of its service's traffic: `stable`, `canary`, both or none.

    `tls`: it ends TLS itself, so Envoy speaks TLS to it, and can pass TLS through to it. `grpc`: it speaks gRPC.
    """

    address: Address
    replica: str
    service: str
    parts: tuple[str, ...]
    draining: bool
    tls: bool = False
    grpc: bool = False


Members = Mapping[Address, UpstreamEndpoint]


def members_of(routes: Iterable[ServiceRoute]) -> dict[Address, UpstreamEndpoint]:
    """The members of a table of routes, by address. A canary with no share is in no subset."""
    found: dict[Address, UpstreamEndpoint] = {}
    for route in routes:
        canary = ("canary",) if route.canary_percent else ()
        members = [member for endpoint in route.stable for member in _members_for(route, endpoint, ("stable",))]
        members += [member for endpoint in route.canary for member in _members_for(route, endpoint, canary)]
        found |= {member.address: _merge(found.get(member.address), member) for member in members}
    return found


def _members_for(route: ServiceRoute, endpoint: Endpoint, parts: tuple[str, ...]) -> Iterator[UpstreamEndpoint]:
    """One, or two of a replica that speaks gRPC at an address of its own."""
    owner, service = str(endpoint.replica), str(route.service)
    yield UpstreamEndpoint(endpoint.address, owner, service, parts, endpoint.draining, endpoint.tls, endpoint.grpc)
    if endpoint.grpc_port:
        yield UpstreamEndpoint(endpoint.grpc_port, owner, service, parts, endpoint.draining, grpc=True)


def bridge(old: Members, new: Members) -> dict[Address, UpstreamEndpoint]:
    """Members that suit both the routes of before and those of after, while Envoy goes from one to the other.

    No endpoint is removed, and none drains that did not drain before. An address that another replica has now is its
    alone.
    """
    joining = {address: _merge(old.get(address), member) for address, member in new.items()}
    return {**old, **joining}


def _merge(old: UpstreamEndpoint | None, new: UpstreamEndpoint) -> UpstreamEndpoint:
    if old is None or old.replica != new.replica:
        return new
    parts = tuple(sorted({*old.parts, *new.parts}))
    return replace(new, parts=parts, draining=old.draining and new.draining)


def endpoint_table(members: Members) -> Resource:
    """The members that speak HTTP/1 as Envoy reads them."""
    return _table(CLUSTER, (member for member in _in_order(members) if not member.grpc))


def grpc_table(members: Members) -> Resource:
    """Those that speak gRPC."""
    return _table(GRPC, (member for member in _in_order(members) if member.grpc))


def passthrough_table(members: Members) -> Resource:
    """Those of both that TLS can be passed through to, as members of a cluster of their own."""
    return _table(PASSTHROUGH, (member for member in _in_order(members) if member.tls))


def _table(cluster: str, members: Iterable[UpstreamEndpoint]) -> Resource:
    return {
        "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [_endpoint(member) for member in members]}],
    }


def _in_order(members: Members) -> list[UpstreamEndpoint]:
    """Ports first, then sockets."""
    return sorted(members.values(), key=lambda member: (isinstance(member.address, str), member.address))


def _endpoint(member: UpstreamEndpoint) -> Resource:
    labels = {"service": member.service, **dict.fromkeys(member.parts, "yes")} if member.parts else {}
    ours = {"replica": member.replica, "service": member.service}
    wrapped = {TLS_MATCH: {"tls": "yes"}} if member.tls else {}
    return {
        "endpoint": {"address": _address(member.address)},
        "health_status": "DRAINING" if member.draining else "HEALTHY",
        "metadata": {"filter_metadata": {_BALANCER: labels, _OURS: ours, **wrapped}},
    }


def _address(address: Address) -> Resource:
    if isinstance(address, str):
        return {"pipe": {"path": address}}
    return {"socket_address": {"address": "127.0.0.1", "port_value": address}}


def read_address(entry: Any) -> Address:
    """An address as Envoy writes it. Raises KeyError, TypeError or ValueError for any other."""
    if "pipe" in entry:
        return str(entry["pipe"]["path"])
    return int(entry["socket_address"]["port_value"])


def subset_of_service(service: str) -> Resource:
    """Any replica of one service."""
    return {"filter_metadata": {_BALANCER: {"service": service}}}


def subset(service: str, part: str) -> Resource:
    """The metadata that a route requires of an endpoint."""
    return {"filter_metadata": {_BALANCER: {"service": service, part: "yes"}}}


def read_members(table: Any) -> dict[Address, UpstreamEndpoint]:
    """The inverse of a table. Raises KeyError, TypeError, IndexError or ValueError for anything else."""
    is_grpc = table["cluster_name"] == GRPC
    found = (_member(entry, is_grpc) for entry in table["endpoints"][0]["lb_endpoints"])
    return {member.address: member for member in found}


def _member(entry: Any, is_grpc: bool) -> UpstreamEndpoint:
    metadata = entry["metadata"]["filter_metadata"]
    return UpstreamEndpoint(
        address=read_address(entry["endpoint"]["address"]),
        replica=str(metadata[_OURS]["replica"]),
        service=str(metadata[_OURS]["service"]),
        parts=tuple(sorted(str(label) for label in metadata[_BALANCER] if label != "service")),
        draining=entry["health_status"] == "DRAINING",
        tls=TLS_MATCH in metadata,
        grpc=is_grpc,
    )
