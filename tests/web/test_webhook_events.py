"""What payloads say, whatever their types are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.web.webhooks.events import Event, What, read_event
from tests.web.webhook_senders import REPOSITORY, SECRETS, kind_of, pull_request, push

MAIN = "refs/heads/main"
KINDS = sorted({kind_of(name) for name in SECRETS})
ODD: tuple[Any, ...] = (None, True, 5, -1.5, "", "x" * 10_000, [], {}, [None], {"a": None}, [[]], "\ud800")


def read(kind: str, headers: dict[str, str], payload: Any) -> Event:
    return read_event(kind, {name.lower(): value for name, value in headers.items()}, json.dumps(payload).encode())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ref", [MAIN, "refs/tags/v1.2.0", "refs/heads/feature/a"])
def test_push_names_repository_and_ref(kind: str, ref: str) -> None:
    assert read(kind, *push(kind, ref=ref)) == Event(What.PUSH, REPOSITORY, (ref,))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "generic"])
def test_pull_request_names_its_repository(kind: str) -> None:
    assert read(kind, *pull_request(kind)) == Event(What.PULL_REQUEST, REPOSITORY)


SERVER = {"slug": "models", "project": {"key": "acme"}}


def test_push_of_bitbucket_server_names_all_its_refs() -> None:
    changes = [{"ref": {"id": MAIN, "type": "BRANCH"}}, {"ref": {"id": "refs/tags/v1"}}]
    found = read("bitbucket", {"X-Event-Key": "repo:refs_changed"}, {"repository": SERVER, "changes": changes})
    assert found == Event(What.PUSH, REPOSITORY, (MAIN, "refs/tags/v1"))


def test_pull_request_of_bitbucket_server_is_about_where_it_goes() -> None:
    payload = {"pullRequest": {"toRef": {"repository": SERVER}, "fromRef": {"repository": {"slug": "fork"}}}}
    assert read("bitbucket", {"X-Event-Key": "pr:opened"}, payload) == Event(What.PULL_REQUEST, REPOSITORY)


def test_deleted_branch_of_bitbucket_is_named() -> None:
    said, payload = push("bitbucket")
    change = payload["push"]["changes"][0]
    change["new"], change["old"] = None, change["new"]
    assert read("bitbucket", said, payload).refs == (MAIN,)


@pytest.mark.parametrize("kind", ["github", "gitea"])
def test_new_tag_and_branch_get_their_full_names(kind: str) -> None:
    header = "X-GitHub-Event" if kind == "github" else "X-Gitea-Event"
    for kind_of_ref, prefix in (("branch", "refs/heads/"), ("tag", "refs/tags/"), (None, "")):
        found = read(kind, {header: "create"}, {"ref": "v1", "ref_type": kind_of_ref})
        assert found.refs == ((f"{prefix}v1",) if prefix else ())


@pytest.mark.parametrize(
    ("kind", "headers", "payload"),
    [
        ("github", {"X-GitHub-Event": "ping"}, {"zen": "Keep it logically awesome."}),
        ("github", {"X-GitHub-Event": "issue_comment"}, {"action": "created"}),
        ("github", {"X-GitHub-Event": "status"}, {"state": "success"}),
        ("gitea", {"X-Gitea-Event": "issue_comment"}, {"action": "edited", "is_pull": True}),
        ("gitea", {"X-Gitea-Event": "status"}, {}),
        ("gitlab", {}, {"object_kind": "note"}),
        ("gitlab", {}, {"object_kind": "pipeline"}),
        ("gitlab", {}, {"event_name": "user_create"}),
        ("bitbucket", {"X-Event-Key": "diagnostics:ping"}, {"test": True}),
        ("bitbucket", {"X-Event-Key": "pullrequest:comment_created"}, {}),
        ("bitbucket", {"X-Event-Key": "repo:commit_status_updated"}, {}),
    ],
)
def test_pings_and_our_own_comments_and_statuses_concern_nobody(
    kind: str, headers: dict[str, str], payload: Any
) -> None:
    assert read(kind, headers, payload) == Event(What.OTHER)


@pytest.mark.parametrize("kind", KINDS)
def test_event_without_a_name_counts_as_a_push(kind: str) -> None:
    assert read(kind, {}, {}) == Event(What.PUSH)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
@pytest.mark.parametrize("kind", KINDS)
def test_body_that_is_no_object_is_unreadable(kind: str, body: bytes) -> None:
    assert read_event(kind, {}, body) == Event(What.UNREADABLE)


# ---------------------------------------------------------------- whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
EVENT_NAMES = ("push", "create", "pull_request", "repo:push", "repo:refs_changed", "pr:opened", "ping", "", "ü")
KEYS = (
    "repository",
    "project",
    "ref",
    "ref_type",
    "push",
    "changes",
    "new",
    "old",
    "pullRequest",
    "toRef",
    "full_name",
)
likely = st.recursive(
    json_values | st.just(MAIN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(kind=st.sampled_from(KINDS), name=st.sampled_from(EVENT_NAMES), payload=likely | json_values)
def test_any_json_is_understood_without_an_error(kind: str, name: str, payload: Any) -> None:
    headers = dict.fromkeys(("x-github-event", "x-gitea-event", "x-event-key"), name)
    found = read_event(kind, headers, json.dumps(payload).encode())
    assert len(found.repository) < 1_000
    assert all(ref for ref in found.refs)


@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=300))
def test_any_bytes_are_understood_without_an_error(kind: str, body: bytes) -> None:
    read_event(kind, {}, body)


def damaged(payload: Any) -> Iterator[Any]:
    """The payload with one value at a time of another type, or gone."""
    if not isinstance(payload, dict | list):
        return
    for key in list(payload) if isinstance(payload, dict) else range(len(payload)):
        for odd in ODD:
            yield replaced(payload, key, odd)
        if isinstance(payload, dict):
            yield {name: value for name, value in payload.items() if name != key}
        for inner in damaged(payload[key]):
            yield replaced(payload, key, inner)


def replaced(payload: Any, key: Any, value: Any) -> Any:
    copied = payload.copy()
    copied[key] = value
    return copied


def survives(kind: str, headers: dict[str, str], payload: Any) -> int:
    count = 0
    for one in damaged(payload):
        found = read(kind, headers, one)
        assert isinstance(found, Event)
        # What is no text is taken for no other repository or reference, but for none.
        assert found.repository in ("", REPOSITORY, "\ud800")
        assert set(found.refs) <= {MAIN, "\ud800", "refs/heads/\ud800"}
        count += 1
    return count


def test_cve_2025_59531_bitbucket_field_of_another_type_is_survived() -> None:
    """Argo CD ended when a field of Bitbucket Server's was no list."""
    payload = {"repository": SERVER, "changes": [{"ref": {"id": MAIN}}], "links": {"clone": "none"}}
    found = list(damaged(payload))
    for one in found:
        assert isinstance(read("bitbucket", {"X-Event-Key": "repo:refs_changed"}, one), Event)
    assert survives("bitbucket", *push("bitbucket")) > 50
    assert len(found) > 50


def test_cve_2025_59537_field_that_is_null_is_survived() -> None:
    """Argo CD ended when Gogs' repository was null."""
    for kind in KINDS:
        assert survives(kind, *push(kind)) > 15


def test_cve_2025_59538_list_without_an_element_is_survived() -> None:
    """Argo CD ended when Azure's list of updates was empty."""
    for payload in ({"push": {"changes": []}}, {"changes": []}, {"changes": [[]]}, {"push": []}):
        for kind in KINDS:
            assert read(kind, {"X-Event-Key": "repo:push"}, payload).refs == ()


# ---------------------------------------------------------------- GitHub's own examples and schemas


def octokit(file: str) -> Any:
    path = Path(os.environ.get("RECONCILER_TEST_OCTOKIT") or "/nonexistent", file)
    if not path.is_file():
        pytest.skip("no webhooks of GitHub: run tests/run.sh once, or set RECONCILER_TEST_OCTOKIT")
    return json.loads(path.read_text())


def examples_of(name: str) -> list[Any]:
    return [
        example for event in octokit("webhook-examples.json") if event["name"] == name for example in event["examples"]
    ]


def count_valid(definition: str, payloads: list[Any]) -> int:
    """How many of them are exactly what GitHub sends today; a few examples are older."""
    from jsonschema import Draft7Validator

    definitions = octokit("webhooks.json")["definitions"]
    validator = Draft7Validator({"$ref": f"#/definitions/{definition}", "definitions": definitions})
    return sum(map(validator.is_valid, payloads))


def test_pushes_of_github_are_understood() -> None:
    found = examples_of("push")
    for example in found:
        expected = Event(What.PUSH, example["repository"]["full_name"], (example["ref"],))
        assert read("github", {"X-GitHub-Event": "push"}, example) == expected
    assert count_valid("push$event", found) >= 5


def test_new_refs_of_github_are_understood() -> None:
    found = examples_of("create")
    for example in found:
        prefix = {"branch": "refs/heads/", "tag": "refs/tags/"}[example["ref_type"]]
        expected = Event(What.PUSH, example["repository"]["full_name"], (prefix + example["ref"],))
        assert read("github", {"X-GitHub-Event": "create"}, example) == expected
    assert count_valid("create$event", found) >= 3


def test_pull_requests_of_github_are_understood() -> None:
    found = examples_of("pull_request")
    for example in found:
        expected = Event(What.PULL_REQUEST, example["repository"]["full_name"])
        assert read("github", {"X-GitHub-Event": "pull_request"}, example) == expected
    for action in ("opened", "synchronize"):
        assert count_valid(f"pull_request${action}", [each for each in found if each["action"] == action]) >= 1


def test_all_other_events_of_github_concern_nobody() -> None:
    others = [
        event for event in octokit("webhook-examples.json") if event["name"] not in ("push", "create", "pull_request")
    ]
    assert "ping" in {event["name"] for event in others}
    for event in others:
        for example in event["examples"]:
            assert read("github", {"X-GitHub-Event": event["name"]}, example) == Event(What.OTHER)


@pytest.mark.slow
def test_damaged_pushes_of_github_are_survived() -> None:
    for example in examples_of("push"):
        for one in damaged(example):
            assert isinstance(read("github", {"X-GitHub-Event": "push"}, one), Event)
