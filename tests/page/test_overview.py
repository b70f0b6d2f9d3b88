"""The Overview as a document: targets, the table of services that the address asks for, and what is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.forge.remote import Remote
from reconciler.model import (
    NO_ORIGIN,
    Capacity,
    Gpu,
    GpuUse,
    Health,
    HealthStatus,
    Lease,
    Origin,
    Reason,
    ReasonCode,
    ServiceId,
    Sync,
    Unreachable,
)
from reconciler.page.links import ForgeLinks
from reconciler.page.overview import overview_document
from reconciler.page.service_table import ROWS, Query, read_query, services_table
from reconciler.report.convergence import full_name
from reconciler.report.status import Document, RefusedRevision, RevisionInfo
from reconciler.report.status_parts import NOT_FETCHED
from tests.support.report_world import (
    NEW,
    REVISION,
    SETTINGS,
    cluster,
    desired,
    observed,
    planned,
    replica,
    report,
    state,
    status_of,
    verdict,
)


def names(document: Document) -> list[str]:
    return [one["name"] for one in document["services"]["rows"]]


def overview(status: Document, **asked: str) -> Document:
    return overview_document(status, asked, {})


def many(count: int, **phases: HealthStatus) -> Document:
    """A target with so many services, all Healthy but those named."""
    ids = [ServiceId("demo", f"s{number:04}") for number in range(count)]
    verdicts = [
        verdict(
            one, health=Health(phases.get(one.name, HealthStatus.HEALTHY), Reason(ReasonCode.SERVING, "x", NO_ORIGIN))
        )
        for one in ids
    ]
    return status_of(
        report(desired=state(*map(desired, ids)), observed=observed(*map(replica, ids)), plan=planned(*verdicts))
    )


MIXED = many(4, s0001=HealthStatus.DEGRADED, s0003=HealthStatus.PROGRESSING)


# ---------------------------------------------------------------- the table


def test_keys_that_scripts_may_rely_on() -> None:
    document = overview(status_of(report(), cluster(SETTINGS)))
    assert document["schema"] == "reconciler.page.overview/v1"
    assert set(document) == {
        "schema", "daemon", "source", "attention", "targets", "query", "ignored", "services", "objects", "peers",
    }  # fmt: skip
    assert set(document["source"]) == {
        "desired", "applied", "subject", "fetchedAt", "error", "awaySince", "refused", "fullyApplied",
    }  # fmt: skip
    assert set(document["targets"][0]) == {
        "name", "kind", "version", "reachable", "isKnown", "passFailed", "reason", "observedAt", "awaySince",
        "revision", "suspended", "suspension", "drained", "cordoned", "notes", "services", "gpus",
    }  # fmt: skip
    assert set(document["services"]) == {"all", "matching", "health", "page", "pages", "addresses", "rows"}
    assert set(document["services"]["rows"][0]) == {
        "target", "namespace", "name", "displayName", "address", "inGit", "origin", "sync", "health", "suspended",
        "step", "stage", "ready", "inFlight", "liveRevision", "gpus", "needs",
    }  # fmt: skip
    assert set(document["objects"]["rows"][0]) == {
        "target", "title", "fault", "group", "kind", "namespace", "name", "origin", "sync", "health", "change",
    }  # fmt: skip


def test_service_is_chosen_by_health_and_counted_as_if_it_were_not() -> None:
    document = overview(MIXED, health="Degraded")
    assert names(document) == ["s0001"]
    assert document["services"]["health"] == {
        "Degraded": 1, "Missing": 0, "Unknown": 0, "Progressing": 1, "Suspended": 0, "Healthy": 2,
    }  # fmt: skip
    assert (document["services"]["matching"], document["services"]["all"]) == (1, 4)


def test_services_are_found_by_a_part_of_their_names() -> None:
    assert names(overview(MIXED, q="S0003")) == ["s0003"]
    assert names(overview(MIXED, q="demo/s0002")) == ["s0002"]
    assert names(overview(MIXED, q="nothing")) == []


def test_descending_health_puts_the_worst_first() -> None:
    assert names(overview(MIXED, sort="-health")) == ["s0001", "s0003", "s0000", "s0002"]
    assert names(overview(MIXED, sort="health")) == ["s0000", "s0002", "s0003", "s0001"]


def test_target_and_sync_are_asked_for_together() -> None:
    status = status_of(report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC))), report(name="b"))
    assert names(overview(status, target="a", sync="OutOfSync")) == ["tiny"]
    assert names(overview(status, target="a", sync="Unknown")) == []


@pytest.mark.parametrize("key", ["target", "health", "sync", "sort", "page"])
@pytest.mark.parametrize("value", ["<script>", "x" * 1000, "-1", "0", "--health", "\uff19"])
def test_value_that_means_nothing_is_ignored_and_said(key: str, value: str) -> None:
    document = overview(MIXED, **{key: value})
    assert document["query"] == Query().document
    (said,) = document["ignored"]
    assert said.startswith(f"{key}: ")
    assert len(said) < 150
    assert len(names(document)) == 4


def test_text_that_is_too_long_is_ignored_and_said() -> None:
    assert overview(MIXED, q="x" * 101)["ignored"] == ["q: longer than 100 characters"]


def test_page_beyond_the_last_is_the_last() -> None:
    document = overview(many(ROWS + 1), page="99")
    assert (document["services"]["page"], document["services"]["pages"], len(names(document))) == (2, 2, 1)
    assert document["services"]["addresses"]["next"] is None
    assert document["services"]["addresses"]["previous"] == "/#services"


BIG = many(2 * ROWS + 7, s0003=HealthStatus.DEGRADED, s0205=HealthStatus.DEGRADED)
QUERIES = st.builds(
    Query,
    target=st.sampled_from(["", "a"]),
    health=st.sampled_from(["", "Degraded", "Healthy"]),
    sync=st.sampled_from(["", "Synced"]),
    q=st.sampled_from(["", "s02", "demo/"]),
    sort=st.sampled_from(["name", "-name", "health", "-health", "ready", "requests", "-gpus", "sync", "target"]),
    page=st.integers(1, 4),
)


@given(QUERIES)
def test_address_of_a_query_asks_for_it_again(query: Query) -> None:
    asked = dict(parse_qsl(urlsplit(query.address(page=query.page)).query))
    assert read_query(asked, BIG) == (query, [])


def test_another_filter_begins_at_the_first_page() -> None:
    assert Query(page=3).address(health="Degraded") == "/?health=Degraded#services"
    assert Query(page=3).sorted_by("health") == "/?sort=health#services"


@given(QUERIES)
def test_pages_show_each_service_once(query: Query) -> None:
    first = services_table(BIG, replace(query, page=1))
    found = [
        one["name"]
        for page in range(first["pages"])
        for one in services_table(BIG, replace(query, page=page + 1))["rows"]
    ]
    every = {full_name(one) for one in BIG["targets"][0]["services"]}
    assert len(found) == len(set(found)) == first["matching"]
    assert {f"demo/{name}" for name in found} <= every
    if query in (Query(), replace(Query(), sort=query.sort)):
        assert len(found) == len(every)


# ---------------------------------------------------------------- rows


def test_row_shows_what_runs_and_what_is_missing() -> None:
    seen = observed(replica(in_flight=2), replica(number=2, in_flight=None), replica(number=3, in_flight=3))
    row = overview(status_of(report(observed=seen)))["services"]["rows"][0]
    assert (row["inFlight"], row["needs"], row["address"]) == (5, None, "/services/a/demo/tiny")
    unknown = overview(status_of(report(observed=observed(replica(in_flight=None)))))["services"]["rows"][0]
    assert unknown["inFlight"] is None


def test_row_shows_the_stage_of_a_rollout() -> None:
    moving = verdict(
        sync=Sync.OUT_OF_SYNC, health=Health(HealthStatus.PROGRESSING, Reason(ReasonCode.PROGRESSING, "x", NO_ORIGIN))
    )
    status = status_of(report(desired=state(desired(digest=NEW)), plan=planned(moving)))
    row = overview(status)["services"]["rows"][0]
    assert row["stage"]["state"] == "active"
    assert row["needs"] is None


# ---------------------------------------------------------------- targets


def test_daemon_that_knows_nothing_yet_says_so() -> None:
    status = status_of(
        report(desired=None, observed=None, plan=None, name="a"),
        revision=RevisionInfo(error="not fetched yet"),
        passes=0,
    )
    document = overview(status)
    assert document["daemon"]["passes"] == 0
    assert (document["targets"][0]["isKnown"], document["targets"][0]["reachable"]) == (False, False)
    assert document["attention"]["total"] == 0


def test_git_that_is_away_says_since_when() -> None:
    away = RevisionInfo(REVISION, REVISION, error="no route to host", fetched_at=180.0)
    assert overview(status_of(report(), revision=away))["source"]["awaySince"] == "1970-01-01T00:03:00.000Z"
    unasked = RevisionInfo(REVISION, REVISION, error=NOT_FETCHED)
    assert overview(status_of(report(), revision=unasked))["source"]["awaySince"] is None
    never = RevisionInfo(error="no route to host")
    assert overview(status_of(report(), revision=never))["source"]["awaySince"] == "1970-01-01T00:00:50.000Z"


def test_revision_that_is_refused_does_not_make_git_away() -> None:
    refused = RevisionInfo(REVISION, REVISION, error="not signed", refused=RefusedRevision("c" * 40, "not signed"))
    document = overview(status_of(report(), revision=refused))
    assert (document["source"]["awaySince"], document["source"]["refused"]["revision"]) == (None, "c" * 40)


def test_target_that_is_away_says_since_when() -> None:
    status = status_of(report(observed=Unreachable("a", 300.0, "no route"), reached_at=240.0))
    target = overview(status)["targets"][0]
    assert (target["reachable"], target["isKnown"]) == (False, True)
    assert target["awaySince"] == "1970-01-01T00:04:00.000Z"
    assert overview(status_of(report(reached_at=240.0)))["targets"][0]["awaySince"] is None, "it is reached now"
    assert target["services"] == {"Unknown": {"count": 1, "address": "/?target=a&health=Unknown#services"}}


def test_target_shows_its_gpus_with_who_holds_them() -> None:
    seen = replace(
        observed(replica(lease=Lease(20000, ("GPU-0",)))),
        capacity=Capacity(1, 1, (Gpu("GPU-0"),), (), {"GPU-0": GpuUse(80, 20)}),
    )
    gpus = overview(status_of(report(observed=seen)))["targets"][0]["gpus"]
    (device,) = gpus["devices"]
    assert (device["leased"], device["freeBytes"], device["leases"][0]["service"]) == (1, 20, "demo/tiny")


def test_objects_out_of_sync_stand_first() -> None:
    fine = replace(SETTINGS, object=replace(SETTINGS.object, name="aaa"))
    bad = replace(SETTINGS, sync=Sync.OUT_OF_SYNC, why="data.x differs")
    objects = overview(status_of(cluster(fine, bad)))["objects"]
    assert objects["all"] == 2
    assert [one["name"] for one in objects["rows"]] == ["settings", "aaa"]


def test_list_of_what_needs_a_person_is_short_and_counts_the_rest() -> None:
    bad: dict[str, Any] = {f"s{number:04}": HealthStatus.DEGRADED for number in range(60)}
    found = overview(many(60, **bad))["attention"]
    assert (found["total"], len(found["items"])) == (60, 50)


def test_what_needs_a_person_links_to_its_line_at_the_forge() -> None:
    broken = Reason(ReasonCode.INVALID_DOCUMENT, "unknown field", Origin("hosts/a/x.yaml", 4))
    unusable = report(desired=state(desired(problems=(broken,))), plan=planned(verdict(sync=Sync.OUT_OF_SYNC)))
    status = status_of(unusable)
    links = ForgeLinks(Remote("github", "https://api.github.com", "github.com", "team/models"))
    found = overview_document(status, {}, {}, links=links)["attention"]["items"]
    assert [one["forge"] for one in found] == [
        f"https://github.com/team/models/blob/{status['revision']['desired']}/hosts/a/x.yaml#L4"
    ]
