"""Which pages a change in the status document concerns."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.model import ServiceId
from reconciler.report.status import Document
from reconciler.web.pages.topics import digests, topic_of
from tests.support.report_world import (
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
    with_service,
)

OTHER = ServiceId("demo", "other")
TINY, OTHER_PAGE = "/services/a/demo/tiny", "/services/a/demo/other"
EVERYTHING = {"/", "/changes", "/repository", "/gpus", TINY, OTHER_PAGE}


def two_services() -> Document:
    both = report(
        desired=state(desired(), desired(OTHER)),
        observed=observed(replica(), replica(OTHER), gpus=1),
        plan=planned(verdict(), verdict(OTHER)),
    )
    return status_of(both, cluster(SETTINGS))


def changed(before: Document, after: Document) -> set[str]:
    old, new = digests(before), digests(after)
    return {topic for topic in old | new if old.get(topic) != new.get(topic)}


def with_target(status: Document, **fields: Any) -> Document:
    first, *others = status["targets"]
    return status | {"targets": [first | fields, *others]}


@pytest.mark.parametrize(
    ("fields", "pages"),
    [
        ({"ready": "0/1"}, {"/", OTHER_PAGE}),
        ({"replicas": []}, {"/", OTHER_PAGE, "/gpus"}),
        ({"sync": "OutOfSync"}, {"/", OTHER_PAGE, "/changes", "/repository"}),
        ({"warnings": [{"code": "X"}]}, {"/", OTHER_PAGE, "/changes", "/repository"}),
    ],
)
def test_change_of_a_service_concerns_its_page_and_what_sums_up(fields: Document, pages: set[str]) -> None:
    status = two_services()
    assert changed(status, with_service(status, **fields)) == pages


@pytest.mark.parametrize("fields", [{"reachable": False}, {"suspended": True}, {"lastError": "denied"}])
def test_change_of_a_target_concerns_all_pages(fields: Document) -> None:
    status = two_services()
    assert changed(status, with_target(status, **fields)) == EVERYTHING


def test_new_commit_concerns_all_pages_but_the_gpus() -> None:
    status = two_services()
    after = status | {"revision": status["revision"] | {"subject": "More"}}
    assert changed(status, after) == EVERYTHING - {"/gpus"}


def test_what_runs_beside_the_passes_concerns_what_sums_up() -> None:
    status = two_services()
    assert changed(status, status | {"forge": {"waiting": 3}}) == {"/", "/changes", "/repository"}


def test_other_daemon_concerns_the_overview_unless_it_was_only_asked_again() -> None:
    peer = {"name": "b", "reachable": True, "observedAt": "2030-01-01T00:00:00.000Z"}
    status = two_services() | {"peers": [peer]}
    assert changed(status, status | {"peers": [peer | {"reachable": False}]}) == {"/"}
    assert not changed(status, status | {"peers": [peer | {"observedAt": "2030-01-01T00:01:00.000Z"}]})


def test_pass_that_changed_nothing_concerns_no_page() -> None:
    status = two_services()
    after = with_target(status, observedAt="2030-01-01T00:00:00.000Z")
    after |= {
        "daemon": status["daemon"] | {"passes": 99},
        "revision": status["revision"] | {"fetchedAt": "2030-01-01T00:00:00.000Z"},
    }
    assert not changed(status, after)


def test_topic_of_a_service_is_the_address_of_its_page() -> None:
    status = with_service(two_services(), name="a b/ü")
    assert "/services/a/demo/a%20b%2F%C3%BC" in digests(status)


def test_all_pages_of_changes_are_one_topic() -> None:
    assert [topic_of(path) for path in ("/", "/changes", "/changes/4f1c", "/gpus", TINY)] == [
        "/",
        "/changes",
        "/changes",
        "/gpus",
        TINY,
    ]
