"""What a host answers for services that left it a moment ago."""

from __future__ import annotations

import json

from reconciler.host.plan import make_plan
from reconciler.host.rollout.route import SECONDS
from reconciler.host.routing.files import dump_routes, load_routes
from reconciler.host.routing.resources import route_table
from reconciler.model import Reason, ReasonCode, ServiceId, ServiceRoute, Sync
from tests.host.rollout.test_plan_properties import elsewhere
from tests.support.proxy_parts import route
from tests.support.simulation import PATIENCE, Host, state, wanted

A = ServiceId("default", "a")


def left(commit: object) -> Host:
    """A host that served `a`, and then got this commit."""
    host = Host()
    host.converge(state(wanted("a", "good1"), wanted("b", "good1")))
    host.converge(commit)
    return host


def test_deleted_service_keeps_its_names_for_a_while():
    rest = state(wanted("b", "good1"))
    host = left(rest)
    assert not host.owned.get(A)
    assert host.routes[A].left_at
    assert not host.routes[A].stable
    plan = host.converge(rest)
    assert {v.sync for v in plan.verdicts.values()} == {Sync.SYNCED}
    assert A not in plan.verdicts
    host.now += SECONDS
    host.converge(rest)
    assert A not in host.routes


def test_service_that_is_for_another_host_now_keeps_its_names_for_a_while():
    commit = state(elsewhere(wanted("a", "good1")))
    host = left(commit)
    assert host.routes[A].left_at
    host.now += SECONDS
    host.converge(commit)
    assert A not in host.routes


def test_service_that_comes_back_is_served_as_before():
    host = left(state())
    host.converge(state(wanted("a", "good1")))
    assert (host.routes[A].left_at, len(host.routes[A].stable)) == (None, 1)


def test_service_that_never_served_leaves_no_name():
    host = Host()
    host.converge(state(wanted("a", "never1")))
    host.converge(state())
    assert host.routes == {}


def test_deletion_of_what_serves_is_warned_about_in_the_plan():
    host = Host()
    host.converge(state(wanted("a", "good1"), wanted("b", "good1")))
    for commit in (state(wanted("b", "good1")), state(elsewhere(wanted("a", "good1")), wanted("b", "good1"))):
        plan = make_plan(commit, host.observe(), host.holds(commit), PATIENCE)
        assert [note.code for note in plan.notes] == ["StopsServing"]
        assert "default/a serves, and goes" in plan.notes[0].message
    unread = state(wanted("b", "good1"), unreadable=(Reason(ReasonCode.INVALID_YAML, "x", wanted("a", "").origin),))
    assert [n.code for n in make_plan(unread, host.observe(), host.holds(unread), PATIENCE).notes] == ["InvalidYaml"]


def test_names_of_what_left_survive_the_daemon():
    routes = (ServiceRoute(A, left_at=12.5), route("b", 20000))
    assert load_routes(dump_routes(routes)) == routes
    old = json.loads(dump_routes(routes))
    for entry in old["routes"]:
        del entry["left_at"]
    assert load_routes(json.dumps(old))[0].left_at is None


def test_names_of_what_left_stand_in_no_ones_way():
    here = ServiceRoute(ServiceId("prod", "a"))
    table = route_table((ServiceRoute(A, left_at=1.0), here), "example.com")
    text = json.dumps(table)
    assert "ambiguous" not in text
    listing = json.loads(table["virtual_hosts"][-1]["routes"][0]["direct_response"]["body"]["inline_string"])
    assert [one["id"] for one in listing["data"]] == ["a", "prod/a"]
    assert {host["name"] for host in table["virtual_hosts"]} == {
        "a-default.example.com",
        "a-prod.example.com",
        "shared",
    }
