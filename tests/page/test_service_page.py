"""The page of a service: what is told of it, how it is reached, and what git would have to change."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import Routing
from reconciler.forge.remote import Remote
from reconciler.model import (
    NO_ORIGIN,
    ByHand,
    ClusterView,
    Health,
    HealthStatus,
    Lease,
    Origin,
    PodFacts,
    ProvenVersion,
    Reason,
    ReasonCode,
    Routed,
    ServiceFacts,
    Sync,
    Unreachable,
)
from reconciler.page.endpoints import endpoints_document
from reconciler.page.links import ForgeLinks
from reconciler.page.rendering import render
from reconciler.page.service import ServicePageFacts, find_service, log_lines, service_document, why_unknown
from reconciler.report.status import Document, TargetReport
from reconciler.web.visitors import NOBODY_IN_PARTICULAR
from tests.support.report_world import (
    NEW,
    REVISION,
    TINY,
    desired,
    observed,
    owned,
    planned,
    rejection,
    replica,
    report,
    state,
    status_of,
    verdict,
)

GITHUB = ForgeLinks(Remote("github", "https://api.github.com", "github.com", "team/models"))
ARGUMENT = {"text": "--max-model-len=128", "file": "hosts/a/tiny.yaml", "line": 12}
WORKLOAD: Document = {
    "digest": NEW,
    "interpreter": "/opt/vllm/bin/python",
    "image": None,
    "argv": ["python", "-m", "vllm", "--max-model-len=128"],
    "env": {"HF_TOKEN": "***", "A": "<secret s/k>"},
    "runtime": None,
    "arguments": [ARGUMENT, {"text": "--port=8080", "file": None, "line": None}],
    "asksForKey": False,
    "passthrough": False,
    "grpc": False,
    "http": True,
    "models": ["tiny"],
}
DETAILS: Document = {"workload": WORKLOAD, "log": ["one", "\x1b[2Jtwo"], "logFault": "", "units": {}}
EVENT = {
    "at": "2026-11-30T00:00:00.000Z",
    "target": "a",
    "revision": REVISION,
    "service": "demo/tiny",
    "event": "replica_started",
    "message": "git asks for <b>it</b>",
}


def document(one: TargetReport, links: ForgeLinks = GITHUB, **given: Any) -> Document:
    found = find_service(status_of(one), "a", "demo", "tiny")
    assert found is not None
    details, history = DETAILS | given.get("details", {}), given.get("history", [EVENT])
    return service_document(ServicePageFacts(*found, details, history, "gpu-1", 200), links)


def shown(one: Document) -> str:
    known = {"host": "h", "here": "/services/a/demo/tiny", "now": 1_800_000_000.0, "version": "1", "attention": 0}
    return render("service", document=one, visitor=NOBODY_IN_PARTICULAR, visitor_part="", has_login=False, **known)


def words(one: Document) -> str:
    """What a person reads, without markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", shown(one).partition("<main")[2]).split())


# ---------------------------------------------------------------- all that there may be

STARTING = replica(digest=NEW, number=2, ready_at=None, ready_now=False, routed=Routed.ABSENT, in_flight=None)
REFUSED = verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection())
MISSING = Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 GPU", NO_ORIGIN)
CLUSTER = ServiceFacts(
    "http://tiny-demo.example.com",
    1,
    1,
    pods=(PodFacts("tiny-1", "Running", "node-1", ready=True, newest=True, ready_at=100.0, restarts=2),),
    status={
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "never"}],
        "modelStatus": {"transitionStatus": "UpToDate", "states": {"activeModelState": "Loaded"}},
    },
    promoted=ProvenVersion(NEW, REVISION, 150.0),
)
WORLDS = {
    "healthy": report(observed=observed(replica(lease=Lease(1, ("GPU-1",))), owned={TINY: owned()})),
    "rolling": report(
        desired=state(desired(digest=NEW)),
        observed=observed(replica(), STARTING, owned={TINY: owned()}),
        plan=planned(verdict(sync=Sync.OUT_OF_SYNC)),
    ),
    "rejected": report(desired=state(desired(digest=NEW)), plan=planned(REFUSED)),
    "blocked": report(observed=observed(), plan=planned(verdict(blocked=(MISSING,)))),
    "suspended": report(
        suspended=frozenset({str(TINY)}), suspensions={str(TINY): ByHand("ann", 100.0, "<i>exam</i>", 9e9)}
    ),
    "unreachable": report(observed=Unreachable("a", 200.0, "no route"), plan=planned()),
    "leaving": report(desired=state(), observed=observed(replica(draining_at=150.0), owned={TINY: owned()})),
    "cluster": report(observed=ClusterView("a", 190.0, services={TINY: CLUSTER}), routing=None),
}


@pytest.mark.parametrize("world", WORLDS)
def test_page_shows_every_kind_of_service(world: str) -> None:
    for details in ({}, {"workload": None, "log": [], "logFault": "no <pod>"}):
        page = shown(document(WORLDS[world], details=details, history=[EVENT] if details else []))
        assert page.count("<h1>") == 1
        assert "<i>" not in page
        assert "<b>it" not in page
        assert "\x1b" not in page


def test_healthy_service_is_told_with_version_and_place() -> None:
    said = words(document(WORLDS["healthy"]))
    assert "demo/tiny on a" in said
    assert "Ready 1/1" in said
    assert "aaaaaaaa at 4f1c2ab0 , hosts/a/tiny.yaml:7" in said
    assert "GPU-1" in said
    assert "replica started" in said


def test_stages_stand_in_their_order_with_the_active_one_marked() -> None:
    page = shown(document(WORLDS["rolling"]))
    stages = re.findall(r'<li class="(\w+)"( aria-current="step")?>\s*<b>([^<]+)</b>', page)
    assert [(name, kind) for kind, _, name in stages][:3] == [
        ("staged", "done"),
        ("started", "done"),
        ("first token", "active"),
    ]
    assert [name for _, current, name in stages if current] == ["first token"]


def test_rejection_is_shown_with_a_link_to_the_line_and_last_words() -> None:
    found = document(WORLDS["rejected"])
    (finding,) = found["findings"]
    assert finding == {
        "kind": "Rejected",
        "code": "InvalidArgument",
        "message": "unrecognized argument --max-modle-len",
        "file": "hosts/a/tiny.yaml",
        "line": 12,
        "address": f"https://github.com/team/models/blob/{REVISION}/hosts/a/tiny.yaml#L12",
    }
    page = shown(found)
    assert f'href="{finding["address"]}"' in page
    assert "error: HF_TOKEN=***" in page


def test_what_needs_a_person_stands_first() -> None:
    rejected, fine = document(WORLDS["rejected"]), document(report())
    assert rejected["needs"]["message"] in words(rejected).partition("Rollout")[0]
    assert fine["needs"] is None


def test_place_without_a_known_forge_is_no_link() -> None:
    (finding,) = document(WORLDS["rejected"], ForgeLinks())["findings"]
    assert finding["address"] == ""


def test_what_is_missing_on_the_host_has_no_line_to_change() -> None:
    (finding,) = document(WORLDS["blocked"])["findings"]
    assert (finding["kind"], finding["file"], finding["address"]) == ("Blocked", None, "")


def test_suspension_says_who_why_and_until_when() -> None:
    assert "Suspended by ann, " in words(document(WORLDS["suspended"]))
    assert "&lt;i&gt;exam&lt;/i&gt;; until" in shown(document(WORLDS["suspended"]))


def test_target_out_of_reach_is_said_to_be() -> None:
    assert "a cannot be reached, so what follows is not known to be true now: no route" in words(
        document(WORLDS["unreachable"])
    )


@pytest.mark.parametrize("why", [{}, {"pass_error": "unexpected KeyError"}])
def test_what_is_not_known_is_not_said_to_be_missing(why: dict[str, str]) -> None:
    away = report(observed=Unreachable("a", 200.0, "no route"), plan=planned(), **why)
    text = words(document(away))
    assert "Serving unknown" in text
    for lie in ("Nothing of it runs", "answers 503", "Serving nothing", "Ready 0/1"):
        assert lie not in text
    assert ("cannot be reached" in text) == (not why)
    assert ("The last pass over a failed" in text) == bool(why)


def test_pods_have_nodes_restarts_and_conditions() -> None:
    found = document(WORLDS["cluster"])
    assert found["conditions"] == [{"type": "Ready", "status": "True", "reason": "", "message": "", "since": None}]
    assert found["modelStatus"] == {"Transition": "UpToDate", "Active model": "Loaded"}
    assert "tiny-1 Running" in words(found)
    assert "node-1 2" in words(found)


def test_replica_of_a_host_with_systemd_names_its_unit() -> None:
    units = {str(replica().id): "reconciler-a.demo.tiny.aaaaaaaa-1.service"}
    assert "reconciler-a.demo.tiny.aaaaaaaa-1.service" in shown(document(report(), details={"units": units}))


def test_history_is_of_this_target_and_bounded() -> None:
    events = [EVENT | {"target": name, "message": str(number)} for number in range(60) for name in "ab"]
    found = document(report(), history=events)["history"]
    assert [one["message"] for one in found] == [str(number) for number in range(10, 60)]


def test_argument_leads_to_its_line() -> None:
    placed, added = document(report())["workload"]["arguments"]
    assert placed["address"].endswith("/hosts/a/tiny.yaml#L12")
    assert added["address"] == ""
    assert "added by KServe or by us" in words(document(report()))


def test_keys_that_scripts_may_rely_on() -> None:
    assert set(document(report())) == {
        "schema", "target", "revision", "service", "origin", "needs", "findings", "replicas", "conditions",
        "modelStatus", "endpoints", "workload", "history", "log",
    }  # fmt: skip


# ---------------------------------------------------------------- which service


def test_unknown_service_is_told_where_to_look() -> None:
    status = status_of(report())
    assert find_service(status, "b", "demo", "tiny") is None
    assert "demo/tiny is not on b; it is at /services/a/demo/tiny" in why_unknown(status, "b", "demo", "tiny")
    assert "Did you mean demo/tiny?" in why_unknown(status, "a", "demo", "tinny")
    assert "The Overview lists all services." in why_unknown(status, "a", "x", "y" * 9999)
    broken = Reason(ReasonCode.INVALID_YAML, "no YAML", Origin("hosts/a/x.yaml", 3))
    unread = status_of(report(desired=state(unreadable=(broken,))))
    assert "Not all of git can be read for a" in why_unknown(unread, "a", "demo", "x")
    assert "No pass has been completed" in why_unknown(status_of(report(), passes=0), "a", "x", "y")


@pytest.mark.parametrize(
    ("asked", "lines"),
    [(None, 200), ("50", 50), ("0", 1), ("9" * 5000, 2000), ("-1", 200), ("x", 200), ("\u0663", 200)],
)
def test_number_of_lines_is_bounded(asked: str | None, lines: int) -> None:
    assert log_lines(asked) == lines


# ---------------------------------------------------------------- how it is reached


def ways(listen: str, workload: Document | None = WORKLOAD, **known: Any) -> dict[str, str]:
    found = find_service(status_of(report(routing=Routing(listen=listen))), "a", "demo", "tiny")
    assert found is not None
    target, service = found
    return {
        way["name"]: way["command"] for way in endpoints_document(target, service | known, workload, "gpu-1")["ways"]
    }


@pytest.mark.parametrize(
    ("listen", "base"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "http://gpu-1:80"),
        ("[::]:8080", "http://gpu-1:8080"),
        ("10.0.0.5:8080", "http://10.0.0.5:8080"),
    ],
)
def test_command_names_an_address_that_others_reach(listen: str, base: str) -> None:
    found = ways(listen)
    assert found["By model"].startswith(f"curl {base}/v1/completions ")
    assert found["By path"].startswith(f"curl {base}/demo/tiny/v1/completions ")
    assert "-H 'Host: tiny-demo.example.com'" in found["By host name"]
    assert '"model": "tiny"' in found["By model"]


def test_ipv6_address_stands_in_brackets() -> None:
    assert "curl 'http://[fd00::5]:8080/v1/completions'" in ways("[fd00::5]:8080")["By model"]


def test_key_is_named_and_never_shown() -> None:
    found = ways("127.0.0.1:8080", WORKLOAD | {"asksForKey": True})
    assert all('-H "Authorization: Bearer $KEY"' in command for command in found.values())
    assert not any("$KEY" in command for command in ways("127.0.0.1:8080").values())


def test_tls_to_the_engine_goes_by_host_name() -> None:
    found = ways("0.0.0.0:8443", WORKLOAD | {"passthrough": True})["By host name, with TLS to the engine"]
    assert "curl https://tiny-demo.example.com:8443/v1/completions" in found
    assert "--connect-to tiny-demo.example.com:8443:gpu-1:8443" in found


def test_grpc_alone_has_no_curl() -> None:
    found = ways("127.0.0.1:8080", WORKLOAD | {"grpc": True, "http": False})
    assert found == {
        "By gRPC": "grpcurl -plaintext -authority tiny-demo.example.com 127.0.0.1:8080 grpc.health.v1.Health/Check"
    }


def test_service_on_a_cluster_is_reached_by_its_url() -> None:
    endpoints = document(WORLDS["cluster"])["endpoints"]
    (way,) = endpoints["ways"]
    assert way["command"].startswith("curl http://tiny-demo.example.com/v1/completions")
    nothing = replace(WORLDS["cluster"], observed=ClusterView("a", 190.0, services={TINY: replace(CLUSTER, url="")}))
    assert document(nothing)["endpoints"]["ways"] == []


@given(st.text(max_size=40))
def test_no_model_name_breaks_out_of_the_command(model: str) -> None:
    import shlex

    found = ways("127.0.0.1:8080", endpoints={"host": "h", "path": "/p", "model": model})
    parts = shlex.split(found["By model"])
    assert parts[:2] == ["curl", "http://127.0.0.1:8080/v1/completions"]
    assert len([one for one in parts if one.startswith("{")]) == 1


def test_page_of_a_service_says_its_health() -> None:
    sick = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASHED, "x <y>", NO_ORIGIN))
    page = shown(document(report(plan=planned(verdict(health=sick)))))
    assert "x &lt;y&gt;" in page
    assert '<span class="badge bad">Degraded</span>' in page
