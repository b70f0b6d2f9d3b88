"""Counts of requests that outlive the daemon and the proxy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from reconciler.loop.recorder import Recorder
from reconciler.model import (
    AskPreflight,
    Desired,
    Drain,
    EnsureProxy,
    Observed,
    Outcome,
    Result,
    ServiceId,
    Stop,
)
from reconciler.report.history import History
from reconciler.report.requests import NONE, Fate, RequestCounts, RequestTally
from reconciler.report.text import status_blocks
from reconciler.web.metrics import Metrics
from tests.support.report_world import (
    NEW,
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
)


def tally(folder: Path) -> RequestTally:
    return RequestTally(folder / "requests.json")


def refused(folder: Path) -> int:
    return tally(folder).counts()[TINY].total["refused"]


def test_refusals_grow_with_what_one_proxy_counts(tmp_path: Path):
    counted = tally(tmp_path)
    for seen in (2, 2, 5):
        counted.take_refused("envoy 1", {"demo/tiny": seen})
    assert refused(tmp_path) == 5


def test_refusals_survive_daemon_and_proxy(tmp_path: Path):
    tally(tmp_path).take_refused("envoy 1", {"demo/tiny": 5})
    tally(tmp_path).take_refused("envoy 1", {"demo/tiny": 7})
    assert refused(tmp_path) == 7
    tally(tmp_path).take_refused("envoy 2", {"demo/tiny": 1})
    tally(tmp_path).take_refused("envoy 2", {})
    assert refused(tmp_path) == 8


def test_requests_for_closed_paths_are_counted_over_restarts(tmp_path: Path):
    tally(tmp_path).take_refused("envoy 1", {}, 5)
    tally(tmp_path).take_refused("envoy 1", {}, 7)
    tally(tmp_path).take_refused("envoy 2", {"demo/tiny": 1}, 2)
    counted = tally(tmp_path)
    assert counted.closed_paths() == 9
    status = status_of(report(desired=state(desired()), closed_paths=counted.closed_paths()))
    assert status["targets"][0]["closedPathRequests"] == 9
    assert b'reconciler_closed_path_requests_total{target="a"} 9.0' in Metrics().text(status)


def test_request_that_was_cut_is_not_refused_as_well(tmp_path: Path):
    counted = tally(tmp_path)
    counted.take_refused("envoy 1", {"demo/tiny": 1})
    counted.add(TINY, Fate.LOST, 3)
    counted.take_refused("envoy 1", {"demo/tiny": 1})
    counted.take_refused("envoy 1", {"demo/tiny": 3})
    counted.take_refused("envoy 1", {"demo/tiny": 7})
    assert counted.counts()[TINY].total == {"drained": 0, "lost": 3, "refused": 4}


def test_rollout_counts_begin_anew_with_each_digest(tmp_path: Path):
    counted = tally(tmp_path)
    counted.follow([desired()], "1")
    counted.add(TINY, Fate.LOST, 3)
    counted.follow([desired()], "2")
    assert counted.counts()[TINY].rollout["lost"] == 3
    counted.follow([desired(digest=NEW)], "3")
    counted.add(TINY, Fate.DRAINED, 2)
    found = tally(tmp_path).counts()[TINY]
    assert (found.revision, found.digest) == ("3", NEW)
    assert (found.total, found.rollout) == ({**NONE, "lost": 3, "drained": 2}, {**NONE, "drained": 2})


def test_counts_of_a_service_that_is_gone_go_too(tmp_path: Path):
    counted = tally(tmp_path)
    counted.follow([desired(), desired(ServiceId("demo", "gone"))], "1")
    counted.follow([desired()], "2")
    assert set(tally(tmp_path).counts()) == {TINY}


def test_nothing_is_written_while_nothing_changes(tmp_path: Path):
    counted = tally(tmp_path)
    counted.follow([desired()], "1")
    counted.take_refused("envoy 1", {"demo/tiny": 5})
    written = (tmp_path / "requests.json").stat()
    counted.follow([desired()], "2")
    counted.take_refused("envoy 1", {"demo/tiny": 5})
    counted.add(TINY, Fate.LOST, 0)
    now = (tmp_path / "requests.json").stat()
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_spoilt_or_missing_file_costs_only_the_numbers(tmp_path: Path):
    for text in ("", "{", "[]", '{"proxy": 1, "seen": [], "services": {}}', '{"services": {"demo/tiny": {}}}'):
        (tmp_path / "requests.json").write_text(text)
        counted = tally(tmp_path)
        assert counted.counts() == {}
        counted.add(TINY, Fate.LOST, 1)
        assert json.loads((tmp_path / "requests.json").read_text())["services"]["demo/tiny"]["total"]["lost"] == 1


def test_file_that_cannot_be_written_stops_nothing(tmp_path: Path):
    counted = RequestTally(tmp_path / "gone" / "requests.json")
    counted.add(TINY, Fate.LOST, 1)
    assert counted.counts()[TINY].total["lost"] == 1


def test_drains_and_cuts_are_counted_once(tmp_path: Path):
    counted = tally(tmp_path)
    recorder = Recorder("a", History(tmp_path / "state.db"), Metrics(), counted)

    def pass_over(one, *actions) -> None:
        results = tuple(Result(action, Outcome.DONE) for action in actions)
        recorder.record(state(desired()), observed(one), planned(), results, 0.1)

    serving = replica(at_proxy=5)
    pass_over(serving, Drain(serving.id, "superseded"))
    draining = replace(serving, draining_at=120.0, at_proxy=0, most_in_flight=3)
    pass_over(draining, Stop(serving.id, "drained"))
    pass_over(replace(draining, stopping_at=130.0), Stop(serving.id, "still there", force=True))
    assert counted.counts()[TINY].total == {"drained": 5, "lost": 0, "refused": 0}
    cut = replica(number=2, draining_at=120.0, most_in_flight=4)
    pass_over(cut, Stop(cut.id, "deadline", cut=3))
    assert counted.counts()[TINY].total == {"drained": 6, "lost": 3, "refused": 0}


def test_services_and_replicas_that_are_gone_leave_nothing_in_memory(tmp_path: Path):
    recorder = Recorder("a", History(tmp_path / "state.db"), Metrics(), tally(tmp_path))
    serving, wanted = replica(at_proxy=5), desired()
    ask = AskPreflight(TINY, wanted.digest, SPEC, wanted.origin, "before it is started")
    done = Result(EnsureProxy("it is down"), Outcome.DONE)

    def pass_over(services: tuple[Desired, ...], seen: Observed, *results: Result) -> tuple[bool, ...]:
        recorder.record(replace(state(), services=services), seen, planned(), results, 0.1)
        return tuple(map(bool, (recorder._draining, recorder._asked, recorder._last_errors)))

    failed = Result(Stop(serving.id, "superseded"), Outcome.FAILED, "no room")
    pass_over((wanted,), observed(serving), failed, Result(Drain(serving.id, "superseded"), Outcome.DONE))
    assert pass_over((wanted,), observed(serving), Result(ask, Outcome.DONE)) == (True, True, True)
    assert pass_over((wanted,), observed(serving), done) == (True, True, True)
    assert pass_over((wanted,), observed(), done) == (False, True, True)
    assert pass_over((), observed(owned={TINY: owned()}), done) == (False, True, True)
    assert pass_over((), observed(), done) == (False, False, False)


def test_status_shows_all_and_those_of_the_rollout():
    counts = RequestCounts({"drained": 7, "lost": 2, "refused": 3}, {"drained": 4, "lost": 0, "refused": 1}, NEW, "abc")
    status = status_of(report(requests={TINY: counts}))
    assert service_in(status)["requests"] == {
        "drained": 7,
        "lost": 2,
        "refused": 3,
        "rollout": {"drained": 4, "lost": 0, "refused": 1, "revision": "abc"},
    }
    assert "  demo/tiny: 4 drained, 0 lost, 1 refused" in list(status_blocks(status))
    assert not [line for line in status_blocks(status_of(report())) if "drained" in str(line)]
