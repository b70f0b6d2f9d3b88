"""Conditions and modelStatus as KServe reports them, computed from what a host sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import Routing
from reconciler.kserve.status import (
    FailureInfo,
    KServeCondition,
    ObservedService,
    conditions,
    failed_because,
    invalid_because,
    model_status,
)
from reconciler.model import Routed
from reconciler.report.kserve_status import kserve_status, observed_service
from tests.support.report_world import (
    NEW,
    desired,
    owned,
    rejection,
    replica,
    report,
    service_in,
    state,
    status_of,
    verdict,
)

SERVING = ObservedService(
    desired=1, ready=1, updated=1, alive=1, served=True, routed=True, ready_since=110.0, started_at=100.0
)
UNKNOWN_RUNTIME = invalid_because("RuntimeNotRecognized", "No ServingRuntimes … with the name: nope")
CRASHED = failed_because("CUDA out of memory", 1)


def words(seen: ObservedService) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in conditions(seen)}


# What a real KServe 0.20 answered in each of these situations, where it says the same of a host.
@pytest.mark.parametrize(
    ("situation", "seen", "ready", "predictor", "transition", "active", "target"),
    [
        ("nothing started yet", ObservedService(1), ("False", "Predictor ingress not created"), ("False", ""),
         "InProgress", "", "Pending"),
        ("fetching the model", ObservedService(1, is_loading=True),
         ("False", "Predictor ingress not created"), ("False", ""),
         "InProgress", "", "Loading"),
        ("starting", ObservedService(1, alive=1), ("False", "Predictor ingress not created"),
         ("False", "MinimumReplicasUnavailable"), "InProgress", "", "Pending"),
        ("serving", SERVING, ("True", ""), ("True", "NewReplicaSetAvailable"), "UpToDate", "Loaded", "Loaded"),
        ("ready, but not behind the proxy yet", replace(SERVING, routed=False),
         ("False", "Predictor ingress not created"), ("True", "NewReplicaSetAvailable"),
         "InProgress", "Loaded", "Pending"),
        ("an update comes up beside the old one", replace(SERVING, updated=0, alive=2), ("True", ""),
         ("True", "MinimumReplicasAvailable"), "InProgress", "Loaded", "Pending"),
        ("an update failed, the old one serves", replace(SERVING, updated=0, failure=CRASHED), ("True", ""),
         ("True", "MinimumReplicasAvailable"), "BlockedByFailedLoad", "Loaded", "FailedToLoad"),
        ("the first try failed", ObservedService(1, failed=1, failure=CRASHED),
         ("False", "Predictor ingress not created"),
         ("False", "MinimumReplicasUnavailable"), "BlockedByFailedLoad", "", "FailedToLoad"),
        ("more replicas wanted than ready", replace(SERVING, desired=3, alive=3),
         ("False", "Predictor ingress not created"), ("False", "MinimumReplicasUnavailable"),
         "InProgress", "Loaded", "Pending"),
        ("an unusable document from the start", ObservedService(0, invalid=UNKNOWN_RUNTIME),
         ("Unknown", ""), ("Unknown", ""),
         "InvalidSpec", "", "FailedToLoad"),
        ("an unusable document while the old one serves", replace(SERVING, invalid=UNKNOWN_RUNTIME), ("True", ""),
         ("True", "NewReplicaSetAvailable"), "InvalidSpec", "Loaded", "FailedToLoad"),
        ("no replicas wanted", ObservedService(0),
         ("True", ""), ("True", "NewReplicaSetAvailable"), "InProgress", "", "Pending"),
    ],
)  # fmt: skip
def test_status_reads_as_kserve_s(
    situation: str,
    seen: ObservedService,
    ready: tuple[str, str],
    predictor: tuple[str, str],
    transition: str,
    active: str,
    target: str,
) -> None:
    found, model = words(seen), model_status(seen)
    assert (found["Ready"], found["PredictorReady"]) == (ready, predictor)
    assert model["transitionStatus"] == transition
    assert model["states"] == {"activeModelState": active, "targetModelState": target}


def test_stopped_service_says_so_in_every_condition() -> None:
    seen = replace(SERVING, desired=0, is_stopped=True)
    assert words(seen) == {
        "IngressReady": ("False", "Stopped"),
        "PredictorReady": ("False", "Stopped"),
        "Ready": ("False", "Stopped"),
        "Stopped": ("True", ""),
    }
    assert model_status(seen) == {"transitionStatus": ""}


def test_failure_info_has_kserve_s_words_and_the_exit_code() -> None:
    assert model_status(ObservedService(1, invalid=UNKNOWN_RUNTIME))["lastFailureInfo"] == {
        "reason": "RuntimeNotRecognized",
        "message": "Waiting for runtime to become available",
    }
    assert model_status(ObservedService(1, failure=CRASHED))["lastFailureInfo"] == {
        "reason": "ModelLoadFailed",
        "message": "CUDA out of memory",
        "exitCode": 1,
    }
    assert invalid_because("UnsupportedField", "a transformer").reason == "InvalidPredictorSpec"


counts = st.integers(0, 4)
failures = st.none() | st.builds(FailureInfo, st.just("ModelLoadFailed"), st.text(max_size=3), st.none() | counts)


@st.composite
def sights(draw: st.DrawFn) -> ObservedService:
    ready = draw(counts)
    return ObservedService(
        desired=draw(counts),
        ready=ready,
        updated=draw(st.integers(0, ready)),
        alive=ready + draw(counts),
        failed=draw(counts),
        is_stopped=draw(st.booleans()),
        is_loading=draw(st.booleans()),
        served=ready > 0 or draw(st.booleans()),
        routed=draw(st.booleans()),
        invalid=draw(st.none() | st.just(UNKNOWN_RUNTIME)),
        failure=draw(failures),
        ready_since=draw(st.none() | st.floats(0, 9)),
    )


@given(sights())
def test_ready_is_the_conjunction_of_predictor_and_ingress(seen: ObservedService) -> None:
    found = {each.type: each.status for each in conditions(seen)}
    both = {found["PredictorReady"], found["IngressReady"]}
    expected = "True" if both == {"True"} else "Unknown" if both == {"Unknown"} else "False"
    assert found["Ready"] == expected
    assert [each.type for each in conditions(seen)] == sorted(found)


@given(sights())
def test_states_and_transition_agree(seen: ObservedService) -> None:
    model = model_status(seen)
    target = model.get("states", {}).get("targetModelState")
    expected = {
        "": None,
        "InvalidSpec": "FailedToLoad",
        "BlockedByFailedLoad": "FailedToLoad",
        "UpToDate": "Loaded",
    }
    if model["transitionStatus"] == "InProgress":
        assert target in ("Pending", "Loading")
    else:
        assert target == expected[model["transitionStatus"]]
    if model["transitionStatus"] == "UpToDate":
        assert KServeCondition("Stopped", "False") in conditions(seen)
        assert {each.type: each.status for each in conditions(seen)}["Ready"] == "True"
    assert ("lastFailureInfo" in model) == (model["transitionStatus"] in ("InvalidSpec", "BlockedByFailedLoad"))


# ---------------------------------------------------------------- in the status document


def test_document_tells_url_conditions_and_model_status() -> None:
    service = service_in(status_of(report()))
    assert service["url"] == "http://tiny-demo.example.com:8080"
    assert service["modelStatus"]["transitionStatus"] == "UpToDate"
    ready = next(each for each in service["conditions"] if each["type"] == "Ready")
    assert ready == {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:01:50Z"}


def test_time_of_a_condition_is_when_the_last_wanted_replica_became_ready() -> None:
    replicas = [replica(number=n, ready_at=at) for n, at in ((1, 130.0), (2, 120.0), (3, 140.0))]
    found = kserve_status(desired(), observed_service(desired(replicas=2), replicas, owned(), verdict(), 2), Routing())
    times = {each["type"]: each.get("lastTransitionTime") for each in found["conditions"]}
    assert times["PredictorReady"] == "1970-01-01T00:02:10Z"


def test_rejected_update_is_a_failed_load_beside_a_service_that_serves() -> None:
    tree = {"desired": state(desired(digest=NEW)), "plan": None}
    found = kserve_status(
        desired(),
        observed_service(desired(digest=NEW), [replica()], owned(), verdict(rejected=rejection()), 1),
        Routing(),
    )
    assert found["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert {each["type"]: each["status"] for each in found["conditions"]}["Ready"] == "True"
    assert service_in(status_of(report(**tree)))["conditions"] == []


def test_stopped_service_has_no_url() -> None:
    stopped = desired(replicas=0, stopped=True)
    service = service_in(status_of(report(desired=state(stopped))))
    assert (service["url"], service["modelStatus"]) == ("", {"transitionStatus": ""})


def test_service_that_is_not_behind_the_proxy_yet_is_not_ready() -> None:
    found = kserve_status(
        desired(), observed_service(desired(), [replica(routed=Routed.ABSENT)], None, verdict(), 1), Routing()
    )
    assert {each["type"]: each["status"] for each in found["conditions"]}["Ready"] == "False"
