"""Which replicas Envoy's one cluster holds, and in which services' subsets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.model import Endpoint, ServiceRoute
from reconciler.routing.static import CLUSTER, PASSTHROUGH, TLS_MATCH, TYPE, Resource

# The balancer ignores this part of the metadata; it tells us later whose port it was.
_OURS = "reconciler"
_BALANCER = "envoy.lb"


@dataclass(frozen=True, slots=True)
class Member:
    """One replica in the cluster. `parts` says for which of its service's traffic: `stable`, `canary`, both or none.

    `tls`: it ends TLS itself, so Envoy speaks TLS to it, and can pass TLS through to it.
    """

    port: int
    replica: str
    service: str
    parts: tuple[str, ...]
    draining: bool
    tls: bool = False


Members = Mapping[int, Member]


def members_of(routes: Iterable[ServiceRoute]) -> dict[int, Member]:
    """The members that a table of routes wants, by port. A canary with no share stands in no subset."""
    found: dict[int, Member] = {}
    for route in routes:
        canary = ("canary",) if route.canary_percent else ()
        members = [_member_for(route, endpoint, ("stable",)) for endpoint in route.stable]
        members += [_member_for(route, endpoint, canary) for endpoint in route.canary]
        found |= {member.port: _merge(found.get(member.port), member) for member in members}
    return found


def _member_for(route: ServiceRoute, endpoint: Endpoint, parts: tuple[str, ...]) -> Member:
    return Member(endpoint.port, str(endpoint.replica), str(route.service), parts, endpoint.draining, endpoint.tls)


def bridge(old: Members, new: Members) -> dict[int, Member]:
    """Members that suit both the routes of before and those of after, while Envoy goes from one to the other.

    Nobody leaves, and nobody drains who did not drain before. A port that another replica has now is the other's alone.
    """
    joining = {port: _merge(old.get(port), member) for port, member in new.items()}
    return {**old, **joining}


def _merge(old: Member | None, new: Member) -> Member:
    if old is None or old.replica != new.replica:
        return new
    parts = tuple(sorted({*old.parts, *new.parts}))
    return replace(new, parts=parts, draining=old.draining and new.draining)


def endpoint_table(members: Members) -> Resource:
    """The cluster's members as Envoy reads them."""
    return {
        "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": CLUSTER,
        "endpoints": [{"lb_endpoints": [_endpoint(member) for _, member in sorted(members.items())]}],
    }


def passthrough_table(members: Members) -> Resource:
    """Those of them that TLS can be passed through to, as members of a cluster of their own."""
    able = [_endpoint(member) for _, member in sorted(members.items()) if member.tls]
    return {
        "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": PASSTHROUGH,
        "endpoints": [{"lb_endpoints": able}],
    }


def _endpoint(member: Member) -> Resource:
    labels = {"service": member.service, **dict.fromkeys(member.parts, "yes")} if member.parts else {}
    ours = {"replica": member.replica, "service": member.service}
    wrapped = {TLS_MATCH: {"tls": "yes"}} if member.tls else {}
    return {
        "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": member.port}}},
        "health_status": "DRAINING" if member.draining else "HEALTHY",
        "metadata": {"filter_metadata": {_BALANCER: labels, _OURS: ours, **wrapped}},
    }


def subset_of_service(service: str) -> Resource:
    """Any replica of one service."""
    return {"filter_metadata": {_BALANCER: {"service": service}}}


def subset(service: str, part: str) -> Resource:
    """What a route asks of an endpoint's metadata."""
    return {"filter_metadata": {_BALANCER: {"service": service, part: "yes"}}}


def read_members(table: Any) -> dict[int, Member]:
    """The inverse of `endpoint_table`. Raises KeyError, TypeError, IndexError or ValueError for anything else."""
    return {member.port: member for member in map(_member, table["endpoints"][0]["lb_endpoints"])}


def _member(entry: Any) -> Member:
    metadata = entry["metadata"]["filter_metadata"]
    return Member(
        port=int(entry["endpoint"]["address"]["socket_address"]["port_value"]),
        replica=str(metadata[_OURS]["replica"]),
        service=str(metadata[_OURS]["service"]),
        parts=tuple(sorted(str(label) for label in metadata[_BALANCER] if label != "service")),
        draining=entry["health_status"] == "DRAINING",
        tls=TLS_MATCH in metadata,
    )
