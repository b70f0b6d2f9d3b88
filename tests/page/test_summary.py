"""A daemon in one small document: what is said, and how it is read by others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import HealthStatus
from reconciler.page.summary import SCHEMA, Summary, read_summary, summary_document
from reconciler.report.status import Document
from tests.support.report_world import (
    REVISION,
    cluster,
    observed,
    replica,
    report,
    service_in,
    status_of,
    with_service,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
COUNT = st.integers(0, 10**9)


def said() -> Document:
    return summary_document(status_of(report(observed=observed(replica(), gpus=2)), cluster()))


def anything_in_its_places() -> st.SearchStrategy[Document]:
    """A body of the right form, with whatever a hostile peer puts into its fields."""
    objects = ("revision", "targets", "gpus", "services")
    keys = ("desired", "fullyApplied", "total", "reachable", "names", "leased", *HealthStatus)
    inner = st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), JSON, max_size=4)
    fields = dict.fromkeys(objects, inner | JSON) | {"version": JSON, "attention": JSON}
    return st.fixed_dictionaries({"schema": st.just(SCHEMA)}, optional=fields)


def test_summary_is_read_as_it_was_said() -> None:
    read = read_summary(json.loads(json.dumps(said())))
    assert read.document | {"schema": SCHEMA} == said()
    assert read.revision == REVISION
    assert (read.targets, read.reachable, read.names) == (2, 2, ("a", "a"))
    assert (read.leased, read.gpus) == (0, 2)
    assert read.services == {"Healthy": 1}
    assert read.attention == 0


def test_summary_says_nothing_of_peers() -> None:
    """Daemons that show each other must not ask on and on."""
    status = status_of(report())
    peers = [{"name": "b", "url": "http://b", "reachable": False, "reason": "away", "summary": said()}]
    assert summary_document(status | {"peers": peers}) == summary_document(status)


def test_summary_does_not_change_with_the_time_alone() -> None:
    later = observed(replica())
    one, other = (status_of(report(observed=later), passes=passes) for passes in (1, 2))
    assert summary_document(one) == summary_document(other | {"targets": [one["targets"][0] | {"observedAt": "x"}]})


def test_services_of_other_hosts_are_not_counted() -> None:
    status = status_of(report())
    health = service_in(status)["health"] | {"reason": "NotForThisHost"}
    assert summary_document(with_service(status, health=health))["services"] == {}


@given(body=JSON | anything_in_its_places())
def test_whatever_a_peer_sends_becomes_small_and_plain(body: Any) -> None:
    try:
        read = read_summary(body)
    except ValueError:
        return
    numbers = (read.targets, read.reachable, read.leased, read.gpus, read.attention, *(read.services or {}).values())
    assert all(number is None or (type(number) is int and 0 <= number <= 10**10) for number in numbers)
    assert set(read.services or ()) <= set(HealthStatus)
    assert len(json.dumps(read.document)) < 8_000
    texts = (read.version, read.revision, *read.names)
    assert all(text == "" or (text.isascii() and text.isprintable() and "<" not in text) for text in texts)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "not a reconciler"),
        ([], "not a reconciler"),
        ({"schema": "reconciler.status/v2"}, "not a reconciler"),
        ({"schema": SCHEMA.replace("v1", "v2")}, "version 2 of the summary"),
        ({"schema": SCHEMA.replace("v1", "v" + 99 * "9")}, "not a reconciler"),
    ],
)
def test_other_document_is_no_summary(body: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_summary(body)


def test_older_peer_says_less() -> None:
    assert read_summary({"schema": SCHEMA}) == Summary()


@given(counts=st.dictionaries(st.text(max_size=8), COUNT, max_size=5))
def test_health_that_a_newer_peer_knows_counts_as_unknown(counts: dict[str, int]) -> None:
    read = read_summary({"schema": SCHEMA, "services": counts})
    assert sum((read.services or {}).values()) == sum(counts.values())
