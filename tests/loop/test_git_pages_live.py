"""The pages of a real daemon: what a commit status links to, and what of git it shows."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.loop.test_answering import BROKEN, Rig, rig, wait

# Each runs a daemon and a server.
pytestmark = pytest.mark.slow
__all__ = ["rig"]
BASE = "https://models.example.com"


def shown(daemon_rig: Rig, address: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(*daemon_rig.daemon._web.address, timeout=30)
    connection.request("GET", address, headers={"Accept": "application/json"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def links(daemon_rig: Rig, revision: str) -> list[str]:
    asked = [one for one in daemon_rig.forge.asked if one.method == "POST" and one.path.endswith(revision)]
    return [one.body["target_url"] for one in asked]


def test_status_of_each_commit_links_to_what_became_of_it(rig: Rig) -> None:
    web = rig.settings.web.model_copy(update={"url": BASE})
    rig.settings = rig.settings.model_copy(update={"web": web})
    rig.restart()
    wait(lambda: any(one[:2] == (rig.first, "success") for one in rig.said()))
    rig.repository.write("box/tiny.yaml", BROKEN)
    broken = rig.repository.commit("Serve tiny")
    wait(lambda: any(one[:2] == (broken, "failure") for one in rig.said()))
    assert {*links(rig, broken)} == {f"{BASE}/changes/{broken}#target-box"}
    found = shown(rig, urlsplit(links(rig, broken)[-1]).path)
    assert found["commit"]["subject"] == "Serve tiny"
    assert [one["path"] for one in found["commit"]["files"]] == ["box/tiny.yaml"]
    (service,) = found["targets"][0]["plan"]["services"]
    assert service["change"] == "keep"
    assert service["reasons"][0]["file"] == "box/tiny.yaml"
    assert [one["state"] for one in found["said"]] == ["failure"]
    older = shown(rig, f"/changes/{rig.first}")
    assert (older["supersededBy"], older["targets"][0]["outcome"]["word"]) == (broken, "applied")
    revisions = [one["revision"] for one in shown(rig, "/changes")["revisions"]]
    assert revisions == [broken, rig.first]


def test_repository_shows_where_git_is_wrong_without_waiting_for_it(rig: Rig) -> None:
    rig.repository.write("box/tiny.yaml", BROKEN)
    rig.repository.write("box/not.yaml", "a: [\n")
    rig.repository.commit("Break it")
    rig.daemon.start()
    wait(lambda: rig.daemon.status()["targets"][0]["observedAt"])
    found = shown(rig, "/repository?only=findings")
    first = found["files"][0]
    assert (first["file"], first["findings"][0]["kind"]) == ("box/not.yaml", "error")
    with rig.daemon._follower.source._lock:
        assert shown(rig, "/repository")["fileCount"] == 3


def test_refused_revision_has_a_page_that_says_why(rig: Rig) -> None:
    rig.daemon.start()
    wait(lambda: any(one[:2] == (rig.first, "success") for one in rig.said()))
    rig.repository.git("commit", "--quiet", "--amend", "--message", "Rewritten")
    rewritten = rig.repository.git("rev-parse", "HEAD")
    wait(lambda: any(one[:2] == (rewritten, "failure") for one in rig.said()))
    found = shown(rig, f"/changes/{rewritten[:8]}")
    assert "does not follow from" in found["refusal"]
    assert found["commit"]["subject"] == "Rewritten"
