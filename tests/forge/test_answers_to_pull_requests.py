"""Whom a plan answers, and in how many messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import SettingsError
from reconciler.forge.messages import CommentSection, CommitState, CommitStatus, Deployment, PullRequest
from reconciler.forge.pull_requests import (
    answers_to,
    answers_without_plan,
    find_pull_request,
    pull_request_of,
    send,
)
from tests.forge.test_comments import Board, names
from tests.forge.test_plan_comment import REVISION, service, target

PULLS = (PullRequest(7, REVISION, "main", is_trusted=True), PullRequest(8, "b" * 40, "main", is_trusted=True))


class Forge(Board):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        return PULLS if base == "main" else ()

    def set_status(self, status: CommitStatus) -> None:
        self.told.append(status)

    def set_deployment(self, deployment: Deployment) -> None:
        self.told.append(deployment)


@pytest.mark.parametrize(
    "variables",
    [
        {"GITHUB_REF": "refs/pull/7/merge"},
        {"GITHUB_REF": "refs/heads/x", "CI_MERGE_REQUEST_IID": "7"},
        {"BITBUCKET_PR_ID": "7"},
        {"SYSTEM_PULLREQUEST_PULLREQUESTID": "7"},
        {"CI_COMMIT_PULL_REQUEST": "7"},
        {"CHANGE_ID": "7"},
    ],
)
def test_number_is_told_by_the_variables_of_a_ci(variables: dict[str, str]) -> None:
    assert pull_request_of(variables) == 7


@given(st.dictionaries(st.sampled_from(["GITHUB_REF", "CI_MERGE_REQUEST_IID", "CHANGE_ID"]), st.text()))
def test_number_is_a_number_whatever_the_variables_hold(variables: dict[str, str]) -> None:
    found = pull_request_of(variables)
    assert found is None or 0 <= found < 10**12


def test_number_is_found_by_the_newest_commit() -> None:
    forge: Any = Forge()
    assert find_pull_request(forge, "main", REVISION) == 7
    for base, revision in (("main", "c" * 40), (None, REVISION)):
        with pytest.raises(SettingsError, match="name it: --pull-request N"):
            find_pull_request(forge, base, revision)


def test_each_target_gets_a_status_and_a_section() -> None:
    plan = {"targets": [target(service()), target(service(change="none"), name="gpu-2")]}
    found = list(answers_to(plan, 7, url="https://x"))
    assert [type(one) for one in found] == [CommitStatus, CommentSection] * 2
    urls = [one.url for one in found if isinstance(one, CommitStatus)]
    assert urls == [f"https://x/changes/{REVISION}#target-{name}" for name in ("gpu-1", "gpu-2")]


def test_host_of_a_fleet_that_nothing_changes_on_takes_its_section_out() -> None:
    status, found = answers_to({"targets": [target(service(change="none"))]}, 7, group="fleet")
    assert found == CommentSection(7, "gpu-1", "")
    assert isinstance(status, CommitStatus)
    assert status.context == "reconciler/fleet/gpu-1/plan"
    (only,) = answers_without_plan(REVISION, ["gpu-1"], 7, "too large", group="fleet")
    assert isinstance(only, CommitStatus)


def test_messages_are_sent_one_after_the_other() -> None:
    forge: Any = Forge()
    send(forge, answers_without_plan(REVISION, ["gpu-1", "gpu-2"], 7, "too large"))
    assert [one.state for one in forge.told if isinstance(one, CommitStatus)] == [CommitState.ERROR] * 2
    assert names(forge.found[0].body) == ["gpu-1", "gpu-2"]
