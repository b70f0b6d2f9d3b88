"""A real Gitea says that something was pushed: git is asked at once, and not once for every one who says so."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.forge_rig import SECRET, SEQS, ForgeRig, MakeForgeRig

pytestmark = pytest.mark.forge
_MANY = 300


@pytest.fixture
def rig(make_forge_rig: MakeForgeRig) -> ForgeRig:
    """A host that polls once an hour, and is told of pushes."""
    rig = make_forge_rig()
    rig.start()
    rig.converge()
    return rig


def said_by_webhook(rig: ForgeRig, secret: str = SECRET) -> int:
    """The status of the answer to one that says that main was pushed."""
    repository = {"full_name": rig.forge.path, "clone_url": rig.forge.url}
    body = json.dumps({"ref": "refs/heads/main", "repository": repository}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Gitea-Event": "push", "X-Gitea-Signature": signature, "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{rig.web}/webhooks/gitea", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def metric(rig: ForgeRig, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{rig.web}/metrics", timeout=20) as answer:
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


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
