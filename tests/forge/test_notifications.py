"""What is told of targets and services: only changes, faults at once, their end once it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.forge import NotificationSettings
from reconciler.forge.messages import Notification
from reconciler.forge.notifications import WELL as FINE
from reconciler.forge.notifications import NotifiableState, Notifier, due, facts, is_for, notification, seen
from reconciler.model import Health, HealthStatus, ReasonCode, Unreachable, progress
from reconciler.model.approvals import JudgedDeletions
from reconciler.model.guard import Deletion, Guard
from reconciler.report.status import Document, RefusedRevision, RevisionInfo
from reconciler.report.status_parts import NOT_FETCHED
from tests.support.report_world import (
    REVISION,
    observed,
    planned,
    rejection,
    report,
    status_of,
    verdict,
)

LONG = 1000.0
AWAY = Unreachable("a", 200.0, "connection refused")


def health(phase: HealthStatus, code: ReasonCode = ReasonCode.CRASH_LOOP_BACKOFF) -> Health:
    return Health(phase, progress(code, "0 of 1 replicas serve"))


def with_health(phase: HealthStatus, code: ReasonCode = ReasonCode.CRASH_LOOP_BACKOFF, **fields: Any) -> Document:
    return status_of(report(plan=planned(verdict(health=health(phase, code), **fields))))


WELL = status_of(report())
DEGRADED = with_health(HealthStatus.DEGRADED)
REJECTED = status_of(report(plan=planned(verdict(rejected=rejection()))))
UNREACHABLE = status_of(report(observed=AWAY))
GONE = status_of(report(desired=None, observed=observed(), plan=planned()))


class Teller:
    """What the loop does, with a clock that the test moves."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.at = 0.0
        self._since: Mapping[str, tuple[str, float]] = {}

    def look(self, status: Document, after: float = 0.0) -> list[NotifiableState]:
        self.at += after
        now = facts(status, [about for about, state in self.told.items() if state != FINE])
        self._since = seen(self._since, now, self.at)
        found = due(now, self._since, self.told, self.at)
        self.told |= {fact.about: fact.state for fact in found}
        return found

    def events(self, status: Document, after: float = 0.0) -> list[str]:
        return [fact.event for fact in self.look(status, after) if fact.severity == "error"]


def receiver(**fields: Any) -> NotificationSettings:
    return NotificationSettings(name="ops", url_file="/secret", **fields)


def test_what_is_well_and_was_never_told_of_stays_untold():
    assert Teller().events(WELL, LONG) == []


@pytest.mark.parametrize(
    ("fault", "lasts", "begins", "ends"),
    [
        (DEGRADED, 0.0, "service.degraded", "service.healthy"),
        (with_health(HealthStatus.MISSING), 60.0, "service.degraded", "service.healthy"),
        (REJECTED, 0.0, "service.rejected", "service.accepted"),
        (UNREACHABLE, 60.0, "target.unreachable", "target.recovered"),
        (status_of(report(pass_error="no space left")), 60.0, "target.failed", "target.recovered"),
        (
            status_of(report(), revision=RevisionInfo(desired=REVISION, applied=REVISION, error="no route to host")),
            60.0,
            "source.failed",
            "source.recovered",
        ),
    ],
)
def test_fault_is_told_once_and_its_end_once(fault: Document, lasts: float, begins: str, ends: str):
    teller = Teller()
    at_once = teller.events(fault)
    assert at_once == ([] if lasts else [begins])
    assert [*at_once, *teller.events(fault, lasts), *teller.events(fault, LONG)] == [begins]
    assert [*teller.events(WELL), *teller.events(WELL, LONG), *teller.events(WELL, LONG)] == [ends]


def test_source_that_was_not_asked_yet_is_no_fault():
    assert "source" not in facts(status_of(report(), revision=RevisionInfo(error=NOT_FETCHED)))
    assert facts(status_of(report(), revision=RevisionInfo(error="no route")))["source"].event == "source.failed"


def test_refused_revision_is_not_called_unreadable():
    refused = RefusedRevision("c" * 40, "cccccccccccc is not verified: it is not signed")
    info = RevisionInfo(desired=REVISION, error=refused.reason, refused=refused)
    text = facts(status_of(report(), revision=info))["source"].text
    assert text.startswith(f"the newest revision is refused: {refused.reason}")
    away = replace(info, error="no route to host")
    assert facts(status_of(report(), revision=away))["source"].text.startswith("git cannot be read: no route")


def test_held_deletions_are_told_with_what_approves_them():
    why = progress(ReasonCode.APPROVAL_REQUIRED, "all of its services would go")
    held = JudgedDeletions(held=Guard("0123456789abcdef", (why,), (Deletion("demo/tiny"),)))
    teller = Teller()
    (fact,) = teller.look(status_of(report(plan=replace(planned(verdict()), deletions=held))))[:1]
    assert fact.event == "deletions.held"
    assert "reconciler approve 0123456789abcdef" in fact.text
    assert teller.events(WELL) == ["deletions.released"]


def test_flapping_service_is_told_of_once_until_it_stays_up():
    teller = Teller()
    events = [event for _ in range(50) for status in (DEGRADED, WELL) for event in teller.events(status, 30.0)]
    assert events == ["service.degraded"]
    assert teller.events(WELL, LONG) == ["service.healthy"]


def test_unreachable_target_tells_nothing_of_its_services():
    teller = Teller()
    teller.look(DEGRADED)
    assert teller.events(UNREACHABLE, LONG) == []
    assert teller.events(UNREACHABLE, LONG) == ["target.unreachable"]
    assert teller.told["health/a/demo/tiny"] == "faulty"


@pytest.mark.parametrize("status", [DEGRADED, GONE, UNREACHABLE])
def test_cluster_that_another_daemon_acts_on_is_not_told_of(status: Document):
    (target,) = status["targets"]
    waiting = status | {"targets": [target | {"notes": [{"code": "NotLeader"}]}]}
    teller = Teller()
    assert teller.look(waiting) == []
    teller.look(DEGRADED)
    assert teller.look(waiting, LONG) == []


def test_deleted_service_ends_its_fault():
    teller = Teller()
    teller.look(DEGRADED)
    assert teller.events(GONE, LONG) == ["service.deleted"]
    assert teller.events(DEGRADED) == ["service.degraded"]


def test_removed_target_ends_what_was_told_of_it():
    teller = Teller()
    teller.look(DEGRADED)
    teller.look(UNREACHABLE)
    teller.look(UNREACHABLE, LONG)
    removed = WELL | {"targets": []}
    assert sorted(teller.events(removed, LONG)) == ["service.deleted", "target.removed"]
    assert teller.events(removed, LONG) == []


def test_service_that_nothing_serves_for_its_rejection_is_told_once():
    code = rejection().reason.code
    status = with_health(HealthStatus.DEGRADED, code, rejected=rejection())
    (fact,) = [fact for fact in Teller().look(status) if fact.severity == "error"]
    assert fact.event == "service.rejected"
    assert "it is Degraded: unrecognized argument --max-modle-len (hosts/a/tiny.yaml:12)" in fact.text


def test_rejection_says_that_the_last_good_version_serves():
    assert "4f1c2ab0 is rejected, the last good version serves" in facts(REJECTED)["rejected/a/demo/tiny"].text


def test_applied_revision_is_told_once_for_information():
    teller = Teller()
    assert [fact.event for fact in teller.look(WELL)] == ["revision.applied"]
    assert teller.look(WELL, LONG) == []
    assert not is_for(facts(WELL)["applied/a"], receiver(severity="error"))
    assert is_for(facts(WELL)["applied/a"], receiver(severity="info"))


@pytest.mark.parametrize(
    ("pattern", "matches"), [("*/*", True), ("demo/*", True), ("*/ti*", True), ("prod/*", False), ("*/t", False)]
)
def test_services_are_chosen_by_namespace_and_name(pattern: str, matches: bool):
    assert is_for(facts(DEGRADED)["health/a/demo/tiny"], receiver(services=(pattern,))) is matches


def test_what_concerns_no_service_is_told_whatever_the_pattern():
    assert is_for(facts(UNREACHABLE)["target/a"], receiver(services=("prod/*",)))


def test_text_is_one_line_without_secrets():
    fact = NotifiableState(
        "source", "failed", "source.failed", "git: https://me:hunter2@example.com\nfake: line " + "x" * 2000
    )
    sent = notification(fact, "ops", daemon="host", at="2026-01-01T00:00:00.000Z")
    assert "hunter2" not in sent.text
    assert "\n" not in sent.text
    assert len(sent.text) == 1000
    assert sent.source == "/daemons/host"


@given(st.lists(st.tuples(st.sampled_from([WELL, DEGRADED, REJECTED, UNREACHABLE, GONE]), st.floats(0, 400))))
def test_what_was_told_last_is_true_once_all_has_lasted(steps: list[tuple[Document, float]]):
    teller = Teller()
    for status, after in steps:
        before = dict(teller.told)
        for fact in teller.look(status, after):
            assert before.get(fact.about, "") != fact.state
    teller.look(WELL)
    teller.look(WELL, LONG)
    assert all(state == "" for about, state in teller.told.items() if not about.startswith("applied/"))


@given(st.lists(st.tuples(st.sampled_from([WELL, DEGRADED]), st.floats(0, 290)), max_size=60))
def test_service_is_told_of_at_most_twice_in_five_minutes(steps: list[tuple[Document, float]]):
    teller, times = Teller(), []
    for status, after in steps:
        times += [teller.at for event in teller.events(status, after) if event.startswith("service.")]
    assert all(third - first >= 300 for first, third in zip(times, times[2:], strict=False))


def test_each_receiver_is_told_what_it_has_not_heard():
    receivers = (receiver(), NotificationSettings(name="prod", url_file="/x", services=("prod/*",)))
    notifier = Notifier(receivers, "host", "https://box")
    said: list[Notification] = []
    for status, at in ((DEGRADED, 0.0), (UNREACHABLE, 10.0), (UNREACHABLE, 100.0), (WELL, 110.0), (WELL, 1000.0)):
        said += notifier.due(status, said, at)
    events = [(one.receiver, one.event) for one in said]
    assert events == [
        ("ops", "service.degraded"),
        ("ops", "target.unreachable"),
        ("prod", "target.unreachable"),
        ("ops", "target.recovered"),
        ("ops", "service.healthy"),
        ("prod", "target.recovered"),
    ]
    assert said[0].at == "1970-01-01T00:00:00.000Z"
    assert said[0].url.startswith(f"https://box/services/{said[0].target}/")
    assert said[1].url == "https://box/"
