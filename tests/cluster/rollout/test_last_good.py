"""What is remembered of a service in its cluster, and what is applied when it falls back."""

from __future__ import annotations

import base64
import json
import random
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.rollout.additions import Additions, laid_on
from reconciler.cluster.rollout.last_good import (
    MOST_READ,
    FailedTry,
    LastGood,
    RecordTooLarge,
    ServiceRecord,
    kept_runtime,
    read_secret,
    restored,
    secret_of,
)
from reconciler.model import NO_ORIGIN, Origin, Quarantine, Reason, ReasonCode, ServiceId
from tests.cluster.rollout.test_drain import merged, runtime, service

ID = ServiceId("default", "tiny")
LINE = Origin("tiny.yaml", 3)
WHY = Reason(ReasonCode.CRASHED, "the engine ended", LINE)


_GOOD = LastGood("d1", service(), kept_runtime(runtime()), "r1", 5.0, LINE)


def good(**parts: Any) -> LastGood:
    return replace(_GOOD, **parts)


# ---------------------------------------------------------------- properties

texts = st.text(max_size=8)
reasons = st.builds(Reason, st.sampled_from(ReasonCode), texts, st.sampled_from([LINE, NO_ORIGIN]))
quarantines = st.builds(Quarantine, st.just(ID), texts, reasons, texts, st.floats(0, 9), st.lists(texts).map(tuple))
additions = st.builds(
    Additions,
    st.none() | st.just({"type": "Recreate"}),
    st.lists(texts, max_size=2).map(tuple),
    st.none() | st.just({"sleep": {"seconds": 3}}),
    st.none() | st.integers(1, 9),
    texts,
)
records = st.builds(
    ServiceRecord,
    st.just(ID),
    st.none() | st.builds(lambda more, body: good(additions=more, body=body), additions, st.dictionaries(texts, texts)),
    st.lists(quarantines, max_size=3).map(tuple),
    st.none() | st.builds(FailedTry, texts, reasons, st.floats(0, 9), st.integers(1, 9)),
    st.lists(st.floats(0, 99), max_size=3).map(tuple),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: ServiceRecord) -> None:
    secret = secret_of(record, "reconciler", "prod")
    assert read_secret(secret) == record
    assert secret_of(read_secret(secret), "reconciler", "prod") == secret


@given(st.lists(quarantines, max_size=20))
def test_a_record_keeps_few_quarantines_and_the_newest(given: list[Quarantine]) -> None:
    record = ServiceRecord(ID, good())
    known: dict[str, Quarantine] = {}
    for number, each in enumerate(given):
        known[each.digest] = replace(each, at=good().at + number)
        record = record.with_quarantines(known.values())
        assert record.quarantine_of(each.digest) is not None
    assert len(record.quarantines) <= 8
    assert not record.promoted(good(digest="d2")).quarantines


@given(st.binary(max_size=40))
def test_what_is_no_record_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(ValueError, match="holds no record of a service"):
        read_secret({"metadata": {"name": "x"}, "data": {"record": base64.b64encode(data).decode()}})


# ---------------------------------------------------------------- examples


def packed(document: Any) -> dict[str, Any]:
    data = zlib.compress(json.dumps(document).encode())
    return {"metadata": {"name": "x"}, "data": {"record": base64.b64encode(data).decode()}}


@pytest.mark.parametrize(
    "secret",
    [{}, {"data": None}, {"data": {"record": 3}}, packed([9, {}]), packed({}), packed([1, {"service": 4}]), packed([])],
    ids=repr,
)
def test_an_odd_secret_is_no_record(secret: Any) -> None:
    with pytest.raises(ValueError, match="holds no record of a service"):
        read_secret(secret)


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="larger than"):
        read_secret(packed([1, "x" * (MOST_READ + 1)]))


def test_what_is_wrong_in_a_record_is_not_shown() -> None:
    with pytest.raises(ValueError, match="ValidationError") as error:
        read_secret(packed([1, {"service": {"namespace": "default", "name": "tiny"}, "starts": ["hunter2"]}]))
    assert "hunter2" not in str(error.value)


def test_codes_of_other_versions_are_understood() -> None:
    record = ServiceRecord(ID, quarantines=(Quarantine(ID, "d", WHY, "r", 1.0),))
    secret = secret_of(record, "reconciler", "prod")
    version, document = json.loads(zlib.decompress(base64.b64decode(secret["data"]["record"])))
    document["quarantines"][0]["reason"]["code"] = "OfTomorrow"
    assert read_secret(packed([version, document])).quarantines[0].reason.code is ReasonCode.UNKNOWN_REASON


def test_a_version_that_is_too_large_is_refused_with_its_size() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(1 << 20)).decode()
    body = service({"env": [{"name": "X", "value": noise}]})
    with pytest.raises(RecordTooLarge, match="bytes compressed, and 524,288 can be kept"):
        secret_of(ServiceRecord(ID, good(body=body)), "reconciler", "prod")


def test_a_record_is_a_secret_of_ours() -> None:
    secret = secret_of(ServiceRecord(ID, good()), "reconciler", "prod")
    assert secret["kind"] == "Secret"
    assert secret["metadata"]["namespace"] == "reconciler"
    assert secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "reconciler"
    other = secret_of(ServiceRecord(ServiceId("default", "other")), "reconciler", "prod")
    assert other["metadata"]["name"] != secret["metadata"]["name"]


def test_a_runtime_is_kept_without_what_the_cluster_writes() -> None:
    live = runtime()
    live["metadata"] |= {
        "uid": "u",
        "managedFields": [],
        "labels": {"x": "y"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"},
    }
    assert kept_runtime(live) == {
        **{key: live[key] for key in ("apiVersion", "kind", "spec")},
        "metadata": {"name": "vllm", "namespace": "default", "annotations": {"a": "b"}},
    }


def test_a_service_falls_back_to_the_runtime_as_it_was() -> None:
    before, edited = runtime(), runtime("vllm/vllm-openai:v0.21.0")
    version = good(additions=Additions(arguments=("--shutdown-timeout=9",)))
    copy, more = restored(version, edited)
    assert copy is not None
    pod = merged(dict(laid_on(version.body, more)), dict(copy))
    assert pod == merged(dict(laid_on(version.body, version.additions)), before)


def test_a_runtime_that_did_not_change_needs_no_copy() -> None:
    assert restored(good(additions=Additions(runtime="vllm-1")), runtime()) == (None, Additions())
    assert restored(good(runtime=None), None) == (None, Additions())


def test_a_runtime_that_was_deleted_comes_back_as_a_copy() -> None:
    copy, more = restored(good(), None)
    assert copy is not None
    assert more.runtime == copy["metadata"]["name"]


def test_the_same_version_of_a_later_commit_is_the_same() -> None:
    assert good().is_same(good(revision="r2", at=9.0, origin=Origin("tiny.yaml", 4)))
    assert not good().is_same(good(digest="d2"))
    assert not good().is_same(good(body=service(minReplicas=3)))
    assert not good().is_same(replace(good(), additions=Additions(grace_seconds=3)))


def test_starts_are_the_last_few() -> None:
    record = ServiceRecord(ID)
    for seconds in range(9):
        record = record.started(float(seconds))
    assert record.starts == (4.0, 5.0, 6.0, 7.0, 8.0)
