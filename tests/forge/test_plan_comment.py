"""What a pull request is told of a plan: facts, in Markdown that nothing of the pull request can break."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reconciler.forge.comments import MOST_CHARACTERS, merge
from reconciler.forge.messages import MOST_DESCRIPTION, CommitState
from reconciler.forge.outbox import Outbox
from reconciler.forge.plan_comment import (
    code,
    failed_plan,
    is_concerned,
    plan_section,
    plan_status,
)
from reconciler.model import ObjectChange, ObjectId, Origin, Reason, ReasonCode, Sync
from reconciler.report.planned import plan_document
from tests.support.report_world import REVISION, SETTINGS, cluster, status_of

Document = dict[str, Any]


def service(name: str = "granite", change: str = "change", **fields: Any) -> Document:
    """A service of a plan's document."""
    found: Document = {
        "namespace": "team",
        "name": name,
        "inGit": True,
        "origin": f"services/{name}.yaml:7",
        "digest": "b" * 16,
        "liveDigest": "a" * 16,
        "strategy": "",
        "outdated": [],
        "headline": "starting",
        "actions": [],
        "warnings": [],
        "fit": None,
        "differences": [],
        "gpus": {"now": 1, "then": 1},
        "change": change,
    }
    return found | fields


def difference(name: str = "--max-model-len", before: Any = "4096", after: Any = "8192", line: int = 31) -> Document:
    return {"path": ["args", name], "before": before, "after": after, "file": "services/granite.yaml", "line": line}


def target(*services: Document, **fields: Any) -> Document:
    found: Document = {
        "name": "gpu-1",
        "kind": "host",
        "reachable": True,
        "reason": "",
        "revision": {"desired": REVISION},
        "suspended": False,
        "cordoned": None,
        "drained": None,
        "deletions": {"held": None, "approvals": []},
        "unreadable": [],
        "refused": [],
        "notes": [],
        "gpus": {"total": 8, "leased": 4, "devices": []},
        "actions": [],
        "objects": [],
        "services": list(services),
    }
    return found | fields


def said(found: Document) -> str:
    return plan_section(found, 7).text


SURGE = "surge: start new, switch, drain old"
STOP_FIRST = (
    "stop-first: drain old, stop it, start new; not enough resources for both (1 GPU is free); nothing serves for at "
    "most 30 s while running requests end, then about 45 s, as last time, while it starts"
)


def test_restart_is_told_with_its_field_line_gpus_and_no_downtime() -> None:
    found = target(
        service(strategy=SURGE, differences=[difference()]), service("quiet", "none"), gpus={"total": 8, "leased": 2}
    )
    assert "#### `gpu-1`: 1 restart, 1 unchanged" in said(found)
    cell = "`--max-model-len: 4096 → 8192 (services/granite.yaml:31)`"
    assert f"| `team/granite` | restart, surge | {cell} | 1 |" in said(found)
    assert "**GPUs**: 2, as now, of 8; 6 free then" in said(found)
    assert "**Downtime**: none; each new version is ready before the old one goes" in said(found)
    status = plan_status(found)
    assert (status.context, status.state) == ("reconciler/gpu-1/plan", CommitState.SUCCESS)
    assert status.description == "1 restart, 1 unchanged"


def test_stop_first_tells_the_downtime_that_is_known() -> None:
    known = said(target(service(strategy=STOP_FIRST)))
    assert "| restart, stop-first |" in known
    assert "then about 45 s, as last time, while it starts`" in known
    unknown = STOP_FIRST.replace("about 45 s, as last time, while", "an unknown time while")
    assert "then until the new one is ready`" in said(target(service(strategy=unknown)))


def test_new_and_deleted_services_change_the_gpus() -> None:
    found = target(
        service("new", "create", liveDigest="", gpus={"now": 0, "then": 4}),
        service("old", "delete", digest="", gpus={"now": 1, "then": 0}),
    )
    assert "#### `gpu-1`: 1 drained and stopped, 1 start" in said(found)
    assert "**GPUs**: 1 → 4, of 8; 1 free then" in said(found)
    assert plan_status(found).description == "1 drained and stopped, 1 start; GPUs: 1 → 4, of 8; 1 free then"
    more = target(service("new", "create", gpus={"now": 0, "then": 6}))
    assert "**GPUs**: 0 → 6, of 8; 2 more than there are" in said(more)


def test_relabelled_service_is_no_restart() -> None:
    found = target(service(actions=[{"action": "relabel", "services": ["team/granite"]}]))
    assert "| change without a restart |" in said(found)
    assert "Downtime" not in said(found)


def test_rejected_argument_fails_with_its_line() -> None:
    why = "rejected bbbbbbbb: services/granite.yaml:31: --max-modle-len: unknown, did you mean --max-model-len?"
    found = target(service(change="rejected", headline=why))
    assert f"- `team/granite: {why.removeprefix('rejected bbbbbbbb: ')}`" in said(found)
    status = plan_status(found)
    assert status.state is CommitState.FAILURE
    assert status.description.startswith(
        "1 rejected: team/granite: services/granite.yaml:31: --max-modle-len: unknown, did"
    )
    assert len(status.description) <= MOST_DESCRIPTION


def test_unreachable_target_is_unknown_and_never_no_change() -> None:
    found = target(reachable=False, reason="disk away", services=[])
    assert "unknown" in said(found)
    assert "no change" not in said(found)
    assert plan_section(found, 7, only_concerned=True).text
    assert (plan_status(found).state, plan_status(found).description) == (CommitState.ERROR, "unknown: disk away")


def test_revision_that_cannot_be_planned_is_told_on_both() -> None:
    status, section = failed_plan(REVISION, "gpu-1", 7, "cannot be read: too\nlarge")
    assert (status.state, status.description) == (CommitState.ERROR, "no plan: cannot be read: too large")
    assert "**unknown**: `cannot be read: too large`" in section.text


def test_target_that_is_not_concerned_writes_nothing_where_asked_so() -> None:
    found = target(service(change="none"), service("other", "elsewhere"))
    assert not is_concerned(found)
    assert plan_section(found, 7, only_concerned=True).text == ""
    assert "#### `gpu-1`: no change" in said(found)
    assert plan_status(found).description == "no change"


def test_deletions_that_need_an_approval_are_named() -> None:
    held = {"hash": "abc", "reasons": ["3 of 4 services would be deleted"], "subjects": ["team/a"], "gpus": 3}
    text = said(target(deletions={"held": held, "approvals": []}))
    assert "**Deletions that a person must approve**" in text
    assert "- `3 of 4 services would be deleted` (3 GPUs)\n- `team/a`" in text


def test_arguments_that_no_engine_was_asked_about_are_named() -> None:
    found = target(service(), actions=[{"action": "ask_preflight", "services": ["team/granite"]}])
    assert "The engine checks the arguments of `team/granite` only when this is merged." in said(found)


def test_objects_of_a_cluster_are_listed_with_what_happens() -> None:
    changed = replace(
        SETTINGS,
        sync=Sync.OUT_OF_SYNC,
        change=ObjectChange.CHANGE,
        why="git changed it",
        lines=("data.a: 1 → 2",),
    )
    refused = replace(
        changed,
        object=ObjectId("", "ConfigMap", "team", "other"),
        reasons=(Reason(ReasonCode.REJECTED, "the webhook says no", Origin("a.yaml", 7)),),
    )
    known = cluster(changed, refused)
    assert known.desired
    assert known.plan
    document = plan_document(status_of(known), [(known.desired, known.observed, known.plan)])  # type: ignore[list-item]
    (found,) = document["targets"]
    assert "- changed: `ConfigMap team/settings (a.yaml:1)`: `data.a: 1 → 2`" in said(found)
    assert "- `ConfigMap team/other: a.yaml:7: the webhook says no`" in said(found)
    assert plan_status(found).state is CommitState.FAILURE


def test_many_services_are_cut_with_their_number() -> None:
    found = target(*(service(f"s-{number:03}", strategy=SURGE) for number in range(170)))
    assert "| … and 120 more | | | |" in said(found)
    assert len(said(found)) < 60_000


# ---------------------------------------------------------------- what others write

SIGNS = [*"ab1|`*_[]()<>!@#&;\\\n\r\t~:/-. ", "<!--", "-->", "\u2028", "\x1b[2J", "\u202e", "```"]
NASTY = st.lists(st.sampled_from(SIGNS), max_size=30).map("".join)
LINKS = st.sampled_from(
    [
        "![x](https://evil/x.png)",
        "<img src=x>",
        "@team",
        "[a](javascript:x)",
        "https://evil.example",
        "| a |",
        "</table>",
    ]
)
TEXT = st.one_of(NASTY, LINKS, st.tuples(NASTY, LINKS, NASTY).map("".join))


def test_longest_plan_fits_into_the_outbox(tmp_path: Path) -> None:
    """Otherwise it would be refused there, and those behind it with it."""
    long = '\\"' * 400
    services = [
        service(f"{number}{long}", differences=[difference(long, long, long)] * 9, strategy=long, warnings=[])
        for number in range(99)
    ]
    section = plan_section(target(*services), 7)
    assert MOST_CHARACTERS < len(section.text) <= 40_000
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.put([section], 1.0) == 1
    outbox.close()


def tokens(markdown: str) -> list[Token]:
    found = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    return [each for token in found for each in (token, *(token.children or ()))]


@settings(max_examples=60)
@given(TEXT, TEXT, TEXT, TEXT)
def test_text_of_others_stays_text(name: str, message: str, value: str, file: str) -> None:
    found = target(
        service(name, strategy=STOP_FIRST, differences=[difference(value, message, value) | {"file": file}]),
        service(message, "rejected", headline=message, warnings=[{"message": value, "file": file, "line": 3}]),
        notes=[{"message": message, "file": None, "line": None}],
        unreadable=[{"message": value, "file": file, "line": 1}],
        deletions={"held": {"hash": "a", "reasons": [message], "subjects": [name], "gpus": 1}, "approvals": []},
    )
    plain = target(
        service("n", strategy=STOP_FIRST, differences=[difference("v", "m", "v") | {"file": "f"}]),
        service("m", "rejected", headline="m", warnings=[{"message": "v", "file": "f", "line": 3}]),
        notes=[{"message": "m", "file": None, "line": None}],
        unreadable=[{"message": "v", "file": "f", "line": 1}],
        deletions={"held": {"hash": "a", "reasons": ["m"], "subjects": ["n"], "gpus": 1}, "approvals": []},
    )
    # The very same structure as of harmless text: no link, image or HTML more, no cell, list or heading less.
    inert = [
        (each.type, each.tag, each.content if each.type in ("text", "html_inline") else "")
        for each in tokens(said(found))
    ]
    assert inert == [
        (each.type, each.tag, each.content if each.type in ("text", "html_inline") else "")
        for each in tokens(said(plain))
    ]
    whole = merge("", plan_section(found, 7))
    assert whole.count("<!-- reconciler: ") == 3


@given(TEXT)
def test_status_is_one_short_line_of_any_text(message: str) -> None:
    for found in (target(service(change="blocked", headline=message * 9)), target(reachable=False, reason=message * 9)):
        description = plan_status(found).description
        assert len(description) <= MOST_DESCRIPTION
        assert len(description.splitlines()) == 1


@pytest.mark.parametrize("secret", ["hf_" + "a" * 30, "https://user:geheim@host/x"])
def test_secrets_are_hidden(secret: str) -> None:
    found = target(service(change="blocked", headline=secret, differences=[difference(after=secret)]))
    for text in (said(found), plan_status(found).description, code(secret)):
        assert secret not in text


def test_same_plan_gives_the_same_text() -> None:
    found = target(service(strategy=SURGE), service("b", "create"))
    assert said(found) == said(copy.deepcopy(found))
