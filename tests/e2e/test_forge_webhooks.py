"""A real Gitea says that something was pushed: git is asked at once, and not once for every one who says so."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.forge_rig import SEQS, ForgeRig, MakeForgeRig, metric, said_by_webhook

pytestmark = pytest.mark.forge
_MANY = 300


@pytest.fixture
def rig(make_forge_rig: MakeForgeRig) -> ForgeRig:
    """A host that polls once an hour, and is told of pushes."""
    rig = make_forge_rig()
    rig.start()
    rig.converge()
    return rig


def fetches(rig: ForgeRig) -> float:
    return metric(rig, "reconciler_source_fetch_duration_seconds_count")


def test_push_is_fetched_though_the_next_poll_is_an_hour_away(rig: ForgeRig) -> None:
    rig.edit(rig.manifest, SEQS, "--max-num-seqs=7")
    rig.converge()


def test_push_to_another_branch_asks_nothing_of_git(rig: ForgeRig) -> None:
    before = fetches(rig)
    rig.git_here("push", "--quiet", "origin", "HEAD:refs/heads/other")
    rig.wait("Gitea's webhook", lambda: metric(rig, r'reconciler_webhook_requests_total\{[^}]*"other_ref"[^}]*\}'))

    assert fetches(rig) == before


def test_burst_of_webhooks_asks_git_at_most_once_a_second(rig: ForgeRig) -> None:
    before, began = fetches(rig), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: said_by_webhook(rig), range(_MANY)))
    rig.wait("git to be asked", lambda: fetches(rig) > before)

    assert set(answers) == {202}
    assert fetches(rig) - before <= time.monotonic() - began + 1


def test_webhook_with_another_secret_is_refused_and_asks_nothing(rig: ForgeRig) -> None:
    before = fetches(rig)

    assert said_by_webhook(rig, "another secret") == 403
    assert fetches(rig) == before
