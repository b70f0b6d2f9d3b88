"""Other daemons on the Overview: what stands first, what they have together, and what a person reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.page.peers import ROWS, peers_document
from reconciler.page.rendering import render
from reconciler.page.summary import SCHEMA, read_summary
from reconciler.report.status import Document

NOW = 1_790_000_000.0
AT = "2026-09-21T14:13:20.000Z"


def peer(name: str, attention: int | None = 0, **fields: Any) -> Document:
    said = {
        "schema": SCHEMA,
        "version": "1.2.3",
        "revision": {"desired": "4f1c2ab" + 33 * "0", "fullyApplied": True},
        "targets": {"total": 2, "reachable": 2, "names": ["gpu-1", "gpu-2"]},
        "services": {"Healthy": 3, "Degraded": 1},
        "gpus": {"leased": 5, "total": 8},
        "attention": attention,
    }
    known = {"reachable": True, "reason": "", "since": None, "observedAt": AT, "summary": read_summary(said).document}
    return {"name": name, "url": f"https://{name}.example.com", **known, **fields}


def away(name: str, **fields: Any) -> Document:
    return peer(name, reachable=False, since=AT, reason="timeout: no answer within 10 s", **fields)


def never(name: str) -> Document:
    return away(name, observedAt=None, summary=None)


def shown(*peers: Document, **asked: str) -> Document:
    document = peers_document(peers, asked)
    assert document is not None
    return document


def names(document: Document) -> list[str]:
    return [row["name"] for row in document["rows"]]


def html(document: Document) -> str:
    return re.sub(r"\s+", " ", render("_peers", peers=document, now=NOW))


def test_what_nobody_knows_and_what_needs_a_person_stands_first() -> None:
    document = shown(peer("a"), peer("b", 2), away("d"), peer("c", 7), never("e"), peer("f", None))
    assert names(document) == ["d", "e", "c", "b", "a", "f"]
    assert document["away"] == 2


def test_sums_count_what_those_that_are_away_said_last() -> None:
    document = shown(peer("a", 1), away("b"), never("c"))
    assert document["sum"] == {
        "services": {"Healthy": 6, "Degraded": 2},
        "gpus": {"leased": 10, "total": 16},
        "attention": 1,
    }


def test_part_of_a_name_or_an_address_chooses() -> None:
    peers = (peer("paris-1"), peer("paris-2"), peer("rome-1"))
    assert names(shown(*peers, peer="Paris", peers="name")) == ["paris-1", "paris-2"]
    assert names(shown(*peers, peer="rome-1.example")) == ["rome-1"]
    assert shown(*peers, peer="nowhere")["rows"] == []


@pytest.mark.parametrize("sort", ["attention", "name", "services", "gpus", "revision"])
@given(data=st.data())
def test_every_sort_shows_each_one_once(sort: str, data: st.DataObject) -> None:
    made = data.draw(st.lists(st.sampled_from([peer, away, never]), max_size=6))
    peers = [make(f"p{number}") for number, make in enumerate(made)]
    document = peers_document(peers, {"peers": sort})
    assert sorted(names(document) if document else []) == [one["name"] for one in peers]


def test_unknown_sort_and_endless_text_are_bounded() -> None:
    document = shown(peer("a"), peers="drop table", peer=10_000 * "x")
    assert document["query"] == {"peer": 100 * "x", "peers": "attention"}


def test_thousand_are_summed_up_and_the_first_are_shown() -> None:
    document = shown(*(peer(f"gpu-{number}") for number in range(1000)))
    assert (document["matching"], len(document["rows"])) == (1000, ROWS)
    assert document["sum"]["gpus"]["total"] == 8000
    assert f"{1000 - ROWS} more" in html(document)


def test_daemon_without_peers_shows_none() -> None:
    assert peers_document((), {}) is None


def test_row_leads_to_its_own_daemon() -> None:
    text = html(shown(peer("b", 2, url="https://b.example.com/models/")))
    assert '<a href="https://b.example.com/models/" rel="noreferrer">b</a>' in text
    assert f'href="https://b.example.com/models/changes/4f1c2ab{33 * "0"}"' in text
    assert "<td>5 of 8</td>" in text
    assert "gpu-1, gpu-2" in text


def test_daemon_that_is_away_is_unknown_since_a_time() -> None:
    text = html(shown(away("b")))
    assert "Unknown" in text
    assert re.search(r"since <time datetime=.2026-09-21T14:13:20Z", text)
    assert "timeout: no answer within 10 s" in text
    assert "<td>5 of 8</td>" in text
    assert "never" in html(shown(never("c")))


def test_text_of_an_error_is_no_markup() -> None:
    assert "<script>" not in html(shown(away("b") | {"reason": "TLS: <script>alert(1)</script>"}))


@given(
    said=st.dictionaries(
        st.sampled_from(["version", "revision", "targets", "services", "gpus", "attention"]),
        st.none() | st.integers() | st.dictionaries(st.sampled_from(["total", "leased", "names"]), st.integers()),
    )
)
def test_whatever_a_peer_says_is_shown(said: Document) -> None:
    summary = read_summary({"schema": SCHEMA} | said).document
    assert "b.example.com" in html(shown(peer("b", summary=summary), away("c", summary=summary)))
