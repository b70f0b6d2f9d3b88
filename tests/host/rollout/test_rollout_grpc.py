"""How a service of gRPC is routed while it comes, changes its protocol, fails and goes."""

from __future__ import annotations

from dataclasses import replace

from reconciler.model import Desired
from tests.support.arguments import written
from tests.support.simulation import Host, state, wanted


def of_grpc(version: str) -> Desired:
    service = wanted("a", version)
    assert service.spec
    return replace(service, spec=replace(service.spec, args=written("--grpc")), grpc=True, http=False)


def test_service_of_grpc_is_routed_to_endpoints_of_grpc_alone():
    host = Host()
    service = of_grpc("good1")
    host.converge(state(service))
    route = host.routes[service.id]
    assert (route.grpc, route.http) == (True, False)
    assert [endpoint.grpc for endpoint in route.stable] == [True]
    since = len(host.log)
    host.converge(state(service))
    assert len(host.log) == since


def test_protocol_that_served_is_taken_until_its_successor_proved_itself():
    """Without a replica as well: its clients are refused for a moment, and do not get NOT_FOUND."""
    for before, after in (("grpc", "http"), ("http", "grpc")):
        versions = {"grpc": of_grpc("good1"), "http": wanted("a", "good1")}
        host = Host(memory=1)
        host.converge(state(versions[before]))
        others = {"grpc": of_grpc("good2"), "http": wanted("a", "good2")}
        while not [r for r in host.serving("a") if r.digest.startswith("good2")]:
            host.step(state(others[after]))
            route = host.routes[others[after].id]
            assert route.takes_grpc
            assert route.takes_http
            host.now += 0.5
        host.converge(state(others[after]))
        route = host.routes[others[after].id]
        assert (route.takes_grpc, route.takes_http) == (after == "grpc", after == "http")


def test_commit_of_grpc_that_fails_leaves_http_as_it_was():
    host = Host()
    good = wanted("a", "good1")
    host.converge(state(good))
    host.converge(state(of_grpc("reject1")))
    route = host.routes[good.id]
    assert (route.http, [endpoint.grpc for endpoint in route.stable]) == (True, [False])


def test_service_of_grpc_that_left_refuses_by_grpc_for_a_while():
    host = Host()
    service = of_grpc("good1")
    host.converge(state(service))
    host.converge(state())
    route = host.routes[service.id]
    assert route.left_at is not None
    assert (route.grpc, route.http) == (True, False)
