"""The line of stages follows from facts, never goes back, and says what is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import (
    NO_ORIGIN,
    Canary,
    ClusterView,
    Endpoint,
    Fetch,
    Health,
    HealthStatus,
    Mount,
    Origin,
    PodFacts,
    Promoted,
    ProvenVersion,
    Quarantine,
    Reason,
    ReasonCode,
    Replica,
    Routed,
    ServiceFacts,
    ServiceRoute,
    Staging,
    Sync,
    Unreachable,
)
from reconciler.model.model_sources import fetched
from reconciler.report.stages import StageName, StageState, is_under_way, stages_document, stages_line
from reconciler.report.status import Document, TargetReport
from tests.support.report_world import (
    NEW,
    OLD,
    REVISION,
    SPEC,
    TINY,
    desired,
    observed,
    owned,
    planned,
    replica,
    report,
    service_in,
    state,
    status_of,
    verdict,
)

MOVING = Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "starting", NO_ORIGIN))
FAILED = Health(HealthStatus.DEGRADED, Reason(ReasonCode.REJECTED, "it failed", NO_ORIGIN))
UNREADY: dict[str, Any] = {"ready_at": None, "ready_now": False, "routed": Routed.ABSENT}
SURGE, STOP_FIRST = "surge: start new, switch, drain old", "stop-first: drain old, stop it, start new; no room"


def successor(number: int = 2, **fields: Any) -> Replica:
    return replica(digest=NEW, number=number, **({"created_at": 160.0, "ready_at": 170.0} | fields))


def rolling(*replicas: Replica, good: int = 1, count: int = 1, target: Any = None, **said: Any) -> TargetReport:
    """Git asks for NEW; OLD was promoted with so many replicas, or never where `good` is 0."""
    seen = observed(*replicas, owned={TINY: owned(replicas=good)} if good else {})
    known = {"sync": Sync.OUT_OF_SYNC, "health": MOVING, "strategy": SURGE}
    return report(
        desired=state(desired(digest=NEW, replicas=count)),
        observed=target(seen) if target else seen,
        plan=planned(verdict(**(known | said))),
    )


def stages(one: TargetReport) -> list[Document]:
    return list(service_in(status_of(one))["stages"])


def states(one: TargetReport) -> dict[str, str]:
    return {each["name"]: each["state"] for each in stages(one)}


def detail(one: TargetReport, name: str) -> str:
    return str(next(each["detail"] for each in stages(one) if each["name"] == name))


# ---------------------------------------------------------------- properties

PHASES = st.sampled_from(["Starting", "Ready", "Draining", "Stopped", "Failed", "Running", "Pending", "Succeeded"])
TIMES = st.none() | st.sampled_from([f"2026-11-30T00:00:0{n}.000Z" for n in range(5)])
REPLICAS = st.fixed_dictionaries(
    {
        "digest": st.sampled_from([OLD, NEW, ""]),
        "phase": PHASES,
        "outdated": st.booleans(),
        "routed": st.sampled_from(["Active", "Absent"]),
        "inFlight": st.none() | st.integers(0, 9),
        "createdAt": TIMES,
        "startedAt": TIMES,
        "readyAt": TIMES,
        "drainingAt": TIMES,
        "stoppingAt": TIMES,
    }
)
REASON = st.just({"code": "InsufficientGPU", "message": "needs 1 GPU", "file": None, "line": None})
STAGING = st.fixed_dictionaries(
    {
        "uri": st.just("hf://a/b"),
        "state": st.sampled_from(["Pending", "Running", "Staged", "Failed"]),
        "doneBytes": st.integers(0, 9),
        "totalBytes": st.none() | st.just(9),
        "message": st.sampled_from(["", "refused"]),
    }
)
REJECTED = st.fixed_dictionaries(
    {
        "digest": st.just(NEW),
        "code": st.sampled_from(["Crashed", "InvalidArgument", "ImagePullFailed", "NotServing"]),
        "reason": st.sampled_from(["it ended before it was ready", "it ended while it served", "no"]),
        "at": st.just("2026-11-30T00:00:09.000Z"),
    }
)
GOOD = st.fixed_dictionaries(
    {
        "digest": st.sampled_from([OLD, NEW]),
        "revision": st.just(REVISION),
        "replicas": st.none() | st.integers(0, 3),
        "at": st.just("2026-11-30T00:00:04.000Z"),
    }
)
SERVICES = st.fixed_dictionaries(
    {
        "inGit": st.booleans(),
        "sync": st.sampled_from([one.value for one in Sync]),
        "health": st.fixed_dictionaries({"status": st.sampled_from([one.value for one in HealthStatus])}),
        "suspended": st.booleans(),
        "kept": st.none() | REASON,
        "problems": st.lists(REASON, max_size=1),
        "blocked": st.lists(REASON, max_size=2),
        "rejected": st.none() | REJECTED,
        "lastFailure": st.none(),
        "outdated": st.sampled_from([[], ["restart"]]),
        "step": st.sampled_from(["", "starting b-1", "waiting for resources that are about to be freed"]),
        "strategy": st.sampled_from(["", SURGE, STOP_FIRST]),
        "digest": st.sampled_from(["", NEW]),
        "desiredReplicas": st.integers(0, 3),
        "promoted": st.none() | GOOD,
        "canary": st.none() | st.just({"digest": NEW, "percent": 0, "desiredPercent": 20, "replicas": 1}),
        "staging": st.lists(STAGING, max_size=2),
        "replicas": st.lists(REPLICAS, max_size=4),
        "phase": st.sampled_from(["", "Scheduling", "Downloading", "Loading", "Ready"]),
        "tokenFault": st.sampled_from([None, "", "it answers 503"]),
    }
)
KINDS = st.sampled_from(["host", "cluster"])


@given(SERVICES, KINDS)
def test_at_most_one_stage_is_active_and_it_is_the_first_not_over(service: Document, kind: str) -> None:
    found = stages_document(service, kind)
    assert len({one["name"] for one in found}) == len(found)
    active = [one for one in found if one["state"] == "active"]
    assert len(active) <= 1
    for one in active:
        before = found[: found.index(one)]
        assert all(each["state"] in ("done", "skipped", "failed", "unknown") for each in before)


@given(SERVICES, KINDS)
def test_rollout_goes_on_unless_it_is_over_failed_or_held_up(service: Document, kind: str) -> None:
    found = stages_document(service, kind)
    known = {one["state"] for one in found}
    is_held = any(service[key] for key in ("suspended", "kept", "problems", "blocked", "canary"))
    waits = service["step"].startswith("waiting") or (kind == "cluster" and service["phase"] == "Scheduling")
    if found and known & {"waiting"} and not (is_held or waits):
        assert "active" in known


@given(SERVICES, KINDS)
def test_failure_is_shown_exactly_where_a_digest_is_rejected(service: Document, kind: str) -> None:
    found = stages_document(service, kind)
    failed = [one for one in found if one["state"] == "failed"]
    assert len(failed) <= 1
    if failed:
        assert service["rejected"]
        assert (failed[0]["detail"], failed[0]["at"]) == (service["rejected"]["reason"], service["rejected"]["at"])
    elif service["rejected"] and len(found) > 1:
        assert {one["state"] for one in found} == {"unknown"}


@given(SERVICES, KINDS)
def test_times_are_those_of_the_document_or_none(service: Document, kind: str) -> None:
    known = {one[key] for one in service["replicas"] for key in one if key.endswith("At")}
    known |= {service[key]["at"] for key in ("promoted", "rejected") if service[key]}
    assert {one["at"] for one in stages_document(service, kind)} <= known | {None}


@given(SERVICES, KINDS)
def test_line_names_every_stage_once_in_order(service: Document, kind: str) -> None:
    found = stages_document(service, kind)
    line = stages_line(found)
    places = [line.index(one["name"]) for one in found]
    assert places == sorted(places)
    assert is_under_way(found) == ("active" in {one["state"] for one in found})


PROGRESS = [
    [replica()],
    [replica(), successor(**UNREADY)],
    [replica(), successor(routed=Routed.ABSENT)],
    [replica(), successor()],
]


def test_no_stage_goes_back_while_a_rollout_goes_on() -> None:
    rank = {"waiting": 0, "active": 1, "done": 2, "skipped": 2}
    before: dict[str, int] = {}
    for replicas in PROGRESS:
        now = {name: rank[each] for name, each in states(rolling(*replicas)).items()}
        assert all(now[name] >= before.get(name, 0) for name in now)
        before = now
    assert before["switched"] == 2


# ---------------------------------------------------------------- on a host


def test_surge_starts_switches_promotes_and_then_drains() -> None:
    names = [each["name"] for each in stages(rolling(replica()))]
    assert names == ["staged", "started", "first token", "switched", "promoted", "drained"]
    assert states(rolling(replica(), step="starting"))["started"] == "active"
    begun = rolling(replica(), successor(**UNREADY), step="starting bbbbbbbb-2")
    assert list(states(begun).values()) == ["done", "done", "active", "waiting", "waiting", "waiting"]
    assert detail(begun, "first token") == "starting bbbbbbbb-2"
    ready = rolling(replica(), successor(routed=Routed.ABSENT))
    assert states(ready)["switched"] == "active"
    trusted = rolling(replica(), successor(), step="b-2 is ready; trusted after 30 s")
    assert states(trusted)["promoted"] == "active"


def promoted(*replicas: Replica, count: int = 1, **said: Any) -> TargetReport:
    good = Promoted(NEW, SPEC, count, Origin("f", 1), REVISION, 180.0)
    seen = observed(*replicas, owned={TINY: replace(owned(), promoted=good)})
    return report(desired=state(desired(digest=NEW, replicas=count)), observed=seen, plan=planned(verdict(**said)))


def test_old_replica_is_drained_once_its_successor_is_promoted() -> None:
    found = promoted(replica(draining_at=181.0, in_flight=3), successor())
    assert states(found) == {
        "staged": "done",
        "started": "done",
        "first token": "done",
        "switched": "done",
        "promoted": "done",
        "drained": "active",
    }
    assert detail(found, "drained") == "3 requests running"
    assert stages(found)[-1]["at"] == "1970-01-01T00:03:01.000Z"


def test_finished_rollout_is_done_with_the_times_that_are_known() -> None:
    found = stages(promoted(successor()))
    assert {one["state"] for one in found} == {"done"}
    times = {one["name"]: one["at"] for one in found}
    assert times["started"] == "1970-01-01T00:02:40.000Z"
    assert times["first token"] == "1970-01-01T00:02:50.000Z"
    assert times["promoted"] == "1970-01-01T00:03:00.000Z"
    assert times["switched"] is None, "nobody writes it down"


def test_replica_that_came_after_the_promotion_dates_no_stage() -> None:
    found = {one["name"]: one for one in stages(promoted(successor(created_at=300.0, ready_at=310.0)))}
    assert (found["started"]["state"], found["started"]["at"]) == ("done", None)


def test_first_rollout_has_nothing_to_drain() -> None:
    found = states(rolling(successor(**UNREADY), good=0, strategy=""))
    assert (found["first token"], found["drained"]) == ("active", "skipped")


def test_stop_first_drains_before_it_starts() -> None:
    old = replica(draining_at=161.0, in_flight=2)
    draining = rolling(old, strategy="")
    planned_so = rolling(replica(), strategy=STOP_FIRST)
    assert [each["name"] for each in stages(planned_so)] == [each["name"] for each in stages(draining)]
    names = [each["name"] for each in stages(draining)]
    assert names == ["staged", "drained", "started", "first token", "switched", "promoted"]
    assert states(draining)["drained"] == "active"
    gone = rolling(successor(**UNREADY), strategy="")
    assert [each["name"] for each in stages(gone)] == names
    assert (states(gone)["drained"], states(gone)["first token"]) == ("done", "active")


def test_several_replicas_are_counted() -> None:
    some = [successor(2), successor(3), successor(4, **UNREADY)]
    found = rolling(replica(), *some, good=3, count=3)
    assert (states(found)["started"], detail(found, "first token")) == ("done", "2 of 3")
    assert detail(found, "switched") == "2 of 3"


def test_models_that_are_fetched_are_the_first_stage() -> None:
    spec = replace(SPEC, mounts=(Mount("hf://org/model"),))
    ((key, _),) = fetched(TINY, spec)
    wanted = state(desired(digest=NEW, spec=spec))
    for fetch, expected in ((Fetch.RUNNING, "active"), (Fetch.STAGED, "done")):
        seen = replace(observed(replica(), owned={TINY: owned()}), staging={key: Staging(fetch, 4, 9)})
        found = replace(rolling(), desired=wanted, observed=seen)
        assert states(found)["staged"] == expected
    seen = replace(seen, staging={key: Staging(Fetch.RUNNING, 4, 9)})
    assert detail(replace(found, observed=seen), "staged") == "hf://org/model: 4 of 9 bytes"


def test_blocked_rollout_waits_and_says_for_what() -> None:
    lacking = (Reason(ReasonCode.INSUFFICIENT_GPU, "needs 1 GPU, 0 of 1 free", NO_ORIGIN),)
    found = rolling(replica(), blocked=lacking)
    assert "active" not in states(found).values()
    assert (states(found)["started"], detail(found, "started")) == ("waiting", "needs 1 GPU, 0 of 1 free")


def test_rollout_that_waits_for_gpus_is_not_active() -> None:
    text = "surge: waiting for resources that are about to be freed"
    found = rolling(replica(), step=text, strategy=text)
    assert (states(found)["started"], detail(found, "started")) == ("waiting", text)


def test_suspended_rollout_waits() -> None:
    found = replace(rolling(replica(), successor(**UNREADY)), suspended=frozenset({str(TINY)}))
    assert (states(found)["first token"], detail(found, "first token")) == ("waiting", "suspended")


def rejected(code: ReasonCode, text: str, *replicas: Replica, good: int = 1) -> TargetReport:
    failed = Quarantine(TINY, NEW, Reason(code, text, Origin("hosts/a/tiny.yaml", 12)), REVISION, 190.0)
    return rolling(*replicas, good=good, health=FAILED, rejected=failed)


def test_refused_arguments_fail_before_anything_is_started() -> None:
    found = rejected(ReasonCode.INVALID_ARGUMENT, "unrecognized argument", replica())
    assert states(found) == {
        "staged": "done",
        "started": "failed",
        "first token": "skipped",
        "switched": "skipped",
        "promoted": "skipped",
        "drained": "skipped",
        "rolled back": "done",
    }
    assert detail(found, "started") == "unrecognized argument"
    assert detail(found, "rolled back") == "aaaaaaaa serves"


def test_engine_that_ended_before_it_was_ready_fails_at_its_first_token() -> None:
    found = rejected(ReasonCode.CRASHED, "the engine ended with status 1 before it was ready", replica())
    assert (states(found)["started"], states(found)["first token"]) == ("done", "failed")


def test_engine_that_ended_while_it_served_fails_at_its_promotion() -> None:
    found = states(rejected(ReasonCode.CRASHED, "the engine ended while it served"))
    assert (found["switched"], found["promoted"], found["rolled back"]) == ("done", "failed", "active")
    unsure = states(rejected(ReasonCode.CRASHED, "the engine ended"))
    assert (unsure["first token"], unsure["promoted"]) == ("unknown", "failed")
    assert unsure["drained"] == "unknown", "it may have made room"


def test_first_version_that_fails_has_nothing_to_go_back_to() -> None:
    found = states(rejected(ReasonCode.INVALID_ARGUMENT, "no", good=0))
    assert "rolled back" not in found
    crashed = states(rejected(ReasonCode.CRASHED, "the engine ended while it served", good=0))
    assert crashed["drained"] == "skipped", "there was nothing to drain"


def test_canary_waits_for_git_to_give_it_all() -> None:
    route = ServiceRoute(TINY, (Endpoint(replica().id, 20001),), (Endpoint(successor().id, 20002),), 20)
    seen = replace(observed(replica(), successor(), owned={TINY: owned()}), routes={TINY: route})
    found = report(desired=state(desired(digest=NEW, canary_percent=20)), observed=seen)
    assert (states(found)["switched"], states(found)["promoted"]) == ("done", "waiting")
    assert detail(found, "promoted") == "gets 20% of requests until git gives it all"


def test_second_version_beside_the_first_is_never_promoted() -> None:
    second = Canary(SPEC, NEW, 20)
    seen = observed(replica(), successor(**UNREADY), owned={TINY: owned()})
    found = states(report(desired=state(desired(canary=second)), observed=seen, plan=planned(verdict(health=MOVING))))
    assert list(found) == ["staged", "started", "first token", "switched"]
    assert found["first token"] == "active"


def test_restart_rolls_out_the_same_digest() -> None:
    found = {one["name"]: one for one in stages(promoted(successor(), sync=Sync.OUT_OF_SYNC, outdated=("restart",)))}
    assert found["started"]["state"] == "done", "it is not known to be older"
    assert found["promoted"]["state"] == "active"


def test_service_that_leaves_is_only_drained() -> None:
    gone = report(desired=state(), observed=observed(replica(draining_at=180.0)), plan=planned(verdict(health=MOVING)))
    assert [(one["name"], one["state"]) for one in stages(gone)] == [("drained", "active")]
    empty = Health(HealthStatus.SUSPENDED, Reason(ReasonCode.SCALED_TO_ZERO, "git asks for 0 replicas", NO_ORIGIN))
    assert stages(report(observed=observed(), plan=planned(verdict(health=empty)))) == []


def test_unreachable_target_has_only_unknown_stages() -> None:
    found = states(report(observed=Unreachable("a", 200.0, "no route"), plan=planned()))
    assert set(found.values()) == {"unknown"}
    assert len(found) == 6


# ---------------------------------------------------------------- on a cluster


def cluster(*pods: PodFacts, good: str = OLD, applied: str = NEW, **facts: Any) -> TargetReport:
    known = ProvenVersion(good, REVISION, 150.0) if good else None
    seen = ServiceFacts(ready=0, desired=1, pods=pods, promoted=known, **facts)
    view = ClusterView("a", 190.0, services={TINY: seen})
    plan = planned(verdict(sync=Sync.OUT_OF_SYNC, health=MOVING, step="its pod loads the model", applied=applied))
    return report(desired=state(desired(digest=NEW)), observed=view, plan=plan, routing=None)


OLD_POD = PodFacts("tiny-1", "Running", ready=True, created_at=90.0, started_at=95.0, ready_at=99.0)
POD = PodFacts("tiny-2", "Pending", newest=True, created_at=160.0)


def test_pod_without_a_node_holds_the_rollout_up() -> None:
    found = cluster(OLD_POD, POD, phase="Scheduling")
    assert [each["name"] for each in stages(found)][-2:] == ["drained", "promoted"]
    assert (states(found)["staged"], detail(found, "staged")) == ("waiting", "scheduling; its pod loads the model")


def test_pod_goes_through_the_stages_of_a_replica() -> None:
    assert states(cluster(OLD_POD, POD, phase="Downloading"))["staged"] == "active"
    loading = replace(POD, phase="Running", started_at=165.0)
    assert states(cluster(OLD_POD, loading, phase="Loading"))["first token"] == "active"
    ready = replace(loading, ready=True, ready_at=175.0)
    silent = cluster(OLD_POD, ready, phase="Ready", token_fault="it answers 503")
    assert (states(silent)["first token"], detail(silent, "first token")) == (
        "active",
        "it answers 503; its pod loads the model",
    )
    answered = cluster(OLD_POD, ready, phase="Ready", token_fault="")
    assert (states(answered)["switched"], states(answered)["drained"]) == ("done", "active")
    unasked = states(cluster(OLD_POD, ready, phase="Ready"))
    assert unasked["first token"] == "skipped"


def test_pods_of_the_version_before_are_none_of_the_new_one() -> None:
    waiting = states(cluster(replace(OLD_POD, newest=True), applied=OLD))
    assert (waiting["staged"], waiting["started"]) == ("active", "waiting")


def test_old_pod_that_ends_before_the_new_one_is_there_makes_room() -> None:
    ending = replace(OLD_POD, draining_at=161.0)
    found = cluster(ending)
    assert [each["name"] for each in stages(found)][:2] == ["drained", "staged"]
    assert states(found)["drained"] == "active"
    loading = replace(POD, phase="Running", started_at=165.0)
    assert next(iter(states(cluster(loading, phase="Loading")))) == "drained"
    ready = replace(loading, ready=True, ready_at=175.0)
    assert [each["name"] for each in stages(cluster(ready, phase="Ready", token_fault=""))][-2:] == [
        "drained",
        "promoted",
    ]


def test_promoted_version_on_a_cluster_is_done() -> None:
    pod = replace(POD, ready=True, started_at=100.0, ready_at=120.0)
    assert set(states(cluster(pod, good=NEW)).values()) == {"done"}


def test_line_shows_where_a_rollout_stands() -> None:
    found = rolling(replica(), successor(**UNREADY), step="starting b-2")
    line = stages_line(stages(found))
    assert line == (
        "staged (done) → started (done) → first token (active: starting b-2) → switched → promoted → drained"
    )


def test_names_and_states_are_those_of_the_documents() -> None:
    assert {one.value for one in StageState} == {"done", "active", "waiting", "failed", "skipped", "unknown"}
    assert StageName.FIRST_TOKEN.value == "first token"
