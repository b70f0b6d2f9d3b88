"""The Overview and the page of GPUs over HTTP: what stands on them, and that texts from outside are only text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from reconciler.model import (
    NO_ORIGIN,
    ByHand,
    Capacity,
    ForeignProcess,
    Gpu,
    GpuUse,
    Health,
    HealthStatus,
    Lease,
    Reason,
    ReasonCode,
    ServiceId,
    Sync,
    Unreachable,
)
from reconciler.report.status import RevisionInfo
from reconciler.web.server import WebSide
from tests.support.report_world import (
    REVISION,
    SETTINGS,
    cluster,
    desired,
    observed,
    planned,
    rejection,
    replica,
    report,
    state,
    status_of,
    verdict,
)
from tests.web.fake_loop import FakeLoop
from tests.web.test_pages import get

HOSTILE = '<script>alert(1)</script>" onload="x \x1b[31m\u202e'


def test_overview_shows_what_needs_a_person_and_where(web: WebSide, loop: FakeLoop):
    loop.document = status_of(report(plan=planned(verdict(sync=Sync.OUT_OF_SYNC, rejected=rejection()))))
    _, text = get(web, "/")
    assert "Needs a person (1)" in text
    assert "unrecognized argument --max-modle-len" in text
    assert "hosts/a/tiny.yaml:12" in text
    assert 'href="/services/a/demo/tiny"' in text


def test_overview_of_what_is_well_says_that_nothing_needs_a_person(web: WebSide):
    _, text = get(web, "/")
    assert "Nothing does." in text
    assert 'class="needs"' not in text


def test_long_list_of_what_needs_a_person_is_folded(web: WebSide, loop: FakeLoop):
    bad = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed", NO_ORIGIN))
    ids = [ServiceId("demo", f"s{number}") for number in range(60)]
    loop.document = status_of(
        report(desired=state(*map(desired, ids)), plan=planned(*(verdict(one, health=bad) for one in ids)))
    )
    _, text = get(web, "/")
    shown, folded = text[text.index('class="needs"') : text.index('id="targets"')].split("<summary>38 more</summary>")
    assert (shown.count("<li>"), folded.count("<li>")) == (12, 38)
    assert "11 more are not listed" in folded, "tiny runs, too"


def test_overview_of_a_daemon_without_a_pass_says_so(web: WebSide, loop: FakeLoop):
    loop.document = status_of(
        report(desired=None, observed=None, plan=None, name="a"),
        revision=RevisionInfo(error="not fetched yet"),
        passes=0,
    )
    _, text = get(web, "/")
    assert "Nothing is known yet" in text
    assert "Not observed yet" in text
    assert "There are no services" not in text


def test_overview_says_since_when_git_is_away(web: WebSide, loop: FakeLoop):
    loop.document = status_of(report(), revision=RevisionInfo(REVISION, REVISION, error="no route", fetched_at=180.0))
    _, text = get(web, "/")
    assert re.search(r'Git cannot be read since <time datetime="1970-01-01T00:03:00Z"[^>]*>[^<]* UTC</time>\.', text)


def test_overview_says_since_when_a_target_is_away(web: WebSide, loop: FakeLoop):
    loop.document = status_of(report(observed=Unreachable("a", 300.0, "no route"), reached_at=240.0))
    for path in ("/", "/gpus"):
        _, text = get(web, path)
        assert re.search(r'Unknown since <time datetime="1970-01-01T00:04:00Z"[^>]*>[^<]* UTC</time>:\s+no route', text)


def test_overview_of_a_stuck_daemon_says_that_it_may_be_old(web: WebSide, loop: FakeLoop):
    loop.age = 1e6
    assert "what is shown may be old" in get(web, "/")[1]


def test_services_are_filtered_by_the_address(web: WebSide, loop: FakeLoop):
    bad = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, "crashed", NO_ORIGIN))
    loop.document = status_of(report(), report(name="b", plan=replace(planned(verdict(health=bad)), target="b")))
    _, text = get(web, "/?health=Degraded&q=TINY&sort=-health", "application/json")
    assert json.loads(text)["services"]["matching"] == 1
    _, text = get(web, "/?health=Degraded&sort=-health")
    assert "<option selected>Degraded</option>" in text
    assert 'aria-sort="descending"' in text
    assert '<input type="hidden" name="sort" value="-health">' in text


def test_value_that_means_nothing_is_said_as_text(web: WebSide):
    response, text = get(web, "/?health=%3Cscript%3E&page=%00&sort=x&q=%22%3E")
    assert response.status == 200
    assert "Ignored: health: there is no “&lt;script&gt;”" in text
    assert 'value="&#34;&gt;"' in text


def test_texts_from_outside_are_only_text(web: WebSide, loop: FakeLoop):
    said = Health(HealthStatus.DEGRADED, Reason(ReasonCode.CRASH_LOOP_BACKOFF, HOSTILE, NO_ORIGIN))
    hostile = (ForeignProcess(7, HOSTILE, 1),)
    seen = replace(
        observed(replica(lease=Lease(1, ("GPU-0",)))),
        capacity=Capacity(1, 1, (Gpu("GPU-0", HOSTILE, 9),), (), {"GPU-0": GpuUse(9, 8, hostile)}),
    )
    one = report(
        desired=state(desired(display_name=HOSTILE)),
        observed=seen,
        plan=planned(verdict(health=said, step=HOSTILE)),
        suspended=frozenset({"*"}),
        suspensions={"*": ByHand(HOSTILE, 1.0, HOSTILE, 9.0)},
        drained=ByHand(HOSTILE, 1.0, HOSTILE, None),
    )
    loop.document = status_of(
        one,
        cluster(replace(SETTINGS, sync=Sync.OUT_OF_SYNC, why=HOSTILE)),
        revision=RevisionInfo(REVISION, "", HOSTILE, HOSTILE),
    )
    for path in ("/", "/gpus"):
        response, text = get(web, path)
        assert response.status == 200
        assert "&lt;script&gt;" in text
        assert not re.search('<script>|\x1b|\u202e|" onload="', text)


@pytest.mark.parametrize("path", ["/", "/gpus"])
def test_same_state_gives_the_same_json(web: WebSide, path: str):
    first, text = get(web, path, "application/json")
    again, _ = get(web, path, "application/json", {"If-None-Match": first.headers["etag"]})
    assert json.loads(text)["schema"].startswith("reconciler.page.")
    assert again.status == 304


def test_gpus_show_leases_memory_and_processes_of_others(web: WebSide, loop: FakeLoop):
    gpu = Gpu("GPU-0", "NVIDIA H200", 140 << 30)
    use = GpuUse(139 << 30, 100 << 30, (ForeignProcess(77, "train.py", 3 << 30),))
    seen = replace(observed(replica(lease=Lease(1, ("GPU-0",)))), capacity=Capacity(1, 1, (gpu,), (), {"GPU-0": use}))
    loop.document = status_of(report(observed=seen))
    _, text = get(web, "/gpus")
    assert 'href="/services/a/demo/tiny"' in text
    assert "train.py" in text
    assert "(pid 77)" in text
    assert "100.0 GiB" in text
    _, text = get(web, "/")
    assert re.search("3.0 GiB</data> used by 1 other process<", text)
