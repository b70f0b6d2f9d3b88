"""Routes as Envoy's resources: the pure part."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.host.routing.bootstrap import Resource
from reconciler.host.routing.endpoints import bridge, endpoint_table, members_of, read_members
from reconciler.host.routing.files import dump_routes, load_routes
from reconciler.host.routing.resources import accepted_models, passthrough_hosts, route_table
from reconciler.model import Endpoint, ReplicaId, ServiceId, ServiceRoute
from tests.support.proxy_parts import route, seat, service

# Examples are slow to draw on a busy machine, and none is slow to check.
few = settings(max_examples=40, deadline=None)
labels = st.text("ab-", min_size=1, max_size=4)


@st.composite
def tables(draw: st.DrawFn) -> tuple[ServiceRoute, ...]:
    """Any table; every port belongs to one replica."""
    services = draw(st.lists(st.builds(ServiceId, labels, labels), unique=True, max_size=5))
    ports = draw(st.permutations(range(20_000, 20_020)))
    routes = []
    for number, owner in enumerate(services):
        serials = draw(st.lists(st.integers(0, 3), max_size=4))
        mine = ports[number * 4 : number * 4 + len(serials)]
        seats = [
            Endpoint(ReplicaId(owner, f"aaaaaaaa-{serial}"), port, draw(st.booleans()))
            for serial, port in zip(serials, mine, strict=True)
        ]
        cut = draw(st.integers(0, len(seats)))
        percent = draw(st.integers(0, 100))
        timeout = draw(st.none() | st.floats(0.1, 100))
        claims = labels | st.sampled_from(services).map(str)
        names = [tuple(draw(st.lists(claims, unique=True, max_size=2))) for _ in "ab"]
        more = {"left_at": draw(st.none() | st.just(1.0)), "is_new": draw(st.booleans())}
        more |= {"model_names": names[0], "canary_names": names[1]}
        routes.append(ServiceRoute(owner, tuple(seats[:cut]), tuple(seats[cut:]), percent, timeout, **more))
    return tuple(routes)


@few
@given(tables())
def test_what_is_written_is_read_back(table: tuple[ServiceRoute, ...]) -> None:
    assert set(load_routes(dump_routes(table))) == set(table)
    members = members_of(table)
    assert read_members(json.loads(json.dumps(endpoint_table(members)))) == members


@few
@given(tables())
def test_whole_name_of_a_service_leads_to_no_other(table: tuple[ServiceRoute, ...]) -> None:
    here = [each for each in table if each.left_at is None]
    models = models_of(*here)
    for each in here:
        alone = replace(each, model_names=(), canary_names=())
        assert models[str(each.service)] == models_of(alone)[str(each.service)]


@few
@given(tables())
def test_order_of_the_table_does_not_matter(table: tuple[ServiceRoute, ...]) -> None:
    assert route_table(table, "x.test") == route_table(table[::-1], "x.test")
    assert endpoint_table(members_of(table)) == endpoint_table(members_of(table[::-1]))
    assert dump_routes(table) == dump_routes(table[::-1])


@few
@given(tables())
def test_no_host_name_stands_twice(table: tuple[ServiceRoute, ...]) -> None:
    domains = [domain for host in route_table(table, "x.test")["virtual_hosts"] for domain in host["domains"]]
    assert len(domains) == len(set(domains))


@few
@given(tables())
def test_every_model_name_has_one_route_and_no_older_claim_is_lost(table: tuple[ServiceRoute, ...]) -> None:
    matches = [each["match"] for each in route_table(table, "x.test")["virtual_hosts"][-1]["routes"]]
    values = [each["dynamic_metadata"][0]["value"] for each in matches if "dynamic_metadata" in each]
    found = [each["string_match"]["exact"] for each in values if "string_match" in each]
    assert len(found) == len(set(found))
    named = {name for each in table for name in (*each.model_names, *each.canary_names)}
    assert set(found) == named | {name for each in table for name in (each.service.name, str(each.service))}
    here = [each for each in table if each.left_at is None]
    old, models = [each for each in here if not each.is_new], models_of(*table)
    for each in old:
        assert models[str(each.service)] == models_of(*old)[str(each.service)]


@few
@given(tables(), tables())
def test_bridge_suits_both_sides(old: tuple[ServiceRoute, ...], new: tuple[ServiceRoute, ...]) -> None:
    before, after = members_of(old), members_of(new)
    between = bridge(before, after)
    assert between.keys() == before.keys() | after.keys()
    for port, member in after.items():
        assert between[port].replica == member.replica
        assert set(member.parts) <= set(between[port].parts)
        assert member.draining or not between[port].draining
    for port, member in before.items():
        if port not in after or after[port].replica == member.replica:
            assert set(member.parts) <= set(between[port].parts)
            assert member.draining or not between[port].draining
        else:
            assert between[port] == after[port]


@few
@given(st.lists(st.builds(ServiceId, labels, labels), unique=True))
def test_every_service_has_one_model_id_that_is_its_own(services: list[ServiceId]) -> None:
    models = accepted_models(services)
    assert all(models[f"{each.namespace}/{each.name}"] == (each,) for each in services)
    assert {s for choices in models.values() for s in choices} == set(services)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"routes": 1}', '{"routes": [{}]}', '{"routes": [[]]}'])
def test_spoilt_table_is_an_error_and_not_an_empty_table(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_routes(text)


def test_service_that_never_served_takes_no_name_from_another() -> None:
    serves, also = route("twin", 20_000, passthrough=True), route("twin", 20_001, namespace="prod")
    comes = ServiceRoute(ServiceId("prod", "twin"), passthrough=True, is_new=True)
    near, far = route("a-b", 20_002, namespace="c"), ServiceRoute(ServiceId("b-c", "a"), is_new=True)

    alone = models_of(serves)["twin"]
    assert models_of(serves, comes)["twin"] == alone
    assert models_of(serves, comes)["prod/twin"] == models_of(comes)["prod/twin"]
    assert models_of(serves, also)["twin"] != alone, "a name that two use is ambiguous"
    assert "direct_response" in models_of(comes, replace(comes, service=ServiceId("test", "twin")))["twin"]
    hosts = {each["name"]: each for each in route_table((near, far), "x.test")["virtual_hosts"]}
    assert hosts["a-b-c.x.test"] == route_table((near,), "x.test")["virtual_hosts"][0]
    close = replace(far, passthrough=True)
    assert passthrough_hosts((replace(near, passthrough=True), close), "x.test").keys() == {"a-b-c.x.test"}
    assert load_routes(dump_routes((comes,))) == (comes,)


def models_of(*routes: ServiceRoute) -> dict[str, Resource]:
    """What each `model` leads to, without what it is called."""
    shared = route_table(routes, "x.test")["virtual_hosts"][-1]["routes"]
    found = [each for each in shared if "dynamic_metadata" in each["match"]]
    named = [(each["match"]["dynamic_metadata"][0]["value"].get("string_match"), each) for each in found]
    return {match["exact"]: {**each, "match": {}} for match, each in named if match}


def test_other_model_name_leads_to_its_service_where_it_is_unique() -> None:
    a, b = route("a", 20_000, model_names=("base", "sql")), route("b", 20_001, model_names=("sql", "a"))
    models = models_of(a, b)
    assert models["base"] == models["a"] == models["demo/a"], "the name of a service is no other's"
    assert models["sql"]["direct_response"]["status"] == 404
    said = json.loads(models["sql"]["direct_response"]["body"]["inline_string"])["error"]["message"]
    assert said.endswith("use the path /demo/a/v1/… or /demo/b/v1/….")
    listed = next(each for each in route_table((a, b), "x.test")["virtual_hosts"][-1]["routes"])
    ids = [each["id"] for each in json.loads(listed["direct_response"]["body"]["inline_string"])["data"]]
    assert ids == ["a", "b", "base", "demo/a", "demo/b"]
    comes = replace(b, is_new=True, stable=())
    assert models_of(a, comes)["sql"] == models_of(a)["sql"]
    named_so = replace(route("base"), is_new=True)
    assert models_of(a, named_so)["base"] == models_of(a)["a"]
    assert models_of(a, replace(named_so, is_new=False))["base"] == models_of(named_so)["base"]
    left = replace(a, left_at=1.0)
    assert models_of(left, b)["sql"] == models_of(b)["b"]
    assert models_of(left, b)["base"] == models_of(left)["a"]


def test_name_of_one_side_goes_to_that_side_alone() -> None:
    both = route("a", 20_000, model_names=("base", "old"), canary_names=("base", "new"), canary_percent=10)
    both = replace(both, canary=(seat(both.service, 20_001, "c"),))
    models = models_of(both)
    assert models["base"] == models["a"]
    assert models["old"] == models_of(replace(both, canary=()))["a"]
    assert models["new"] == models_of(replace(both, canary_percent=100))["a"]


def test_table_of_an_older_daemon_has_no_other_names() -> None:
    table = (route("a", 20_000, model_names=("base",), canary_names=("new",)),)
    assert load_routes(dump_routes(table)) == table
    old = json.loads(dump_routes(table))
    for entry in old["routes"]:
        del entry["model_names"], entry["canary_names"]
    assert load_routes(json.dumps(old)) == (route("a", 20_000),)


def test_names_cannot_break_out_of_a_route() -> None:
    hostile = ServiceRoute(ServiceId("a/../b", '*?#"%'), (seat(service("x"), 1),))
    table = route_table((hostile,), "x.test")
    host, shared = table["virtual_hosts"]
    assert host["domains"] == ["%2a%3f%23%22%25-a%2f..%2fb.x.test"]
    prefixes = {r["match"]["prefix"] for r in shared["routes"] if "prefix_rewrite" in r.get("route", {})}
    assert prefixes == {"/a%2F..%2Fb/%2A%3F%23%22%25/"}


def test_route_says_only_what_differs() -> None:
    table = route_table((route("tiny", 20_000, request_timeout=1.5),), "x.test")
    assert table["virtual_hosts"][0]["routes"][0]["route"]["timeout"] == "1.500s"
