"""What is kept of a kind is true once the watch has told of everything, in whatever order answers and events arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.api.errors import Expired
from reconciler.cluster.api.kept import Kept
from reconciler.model.objects import KubeObject, ObjectId


def an_object(name: str, version: int, uid: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "resourceVersion": str(version), "uid": uid}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


@dataclass(frozen=True)
class Event:
    """One write on the server, as a watch tells of it."""

    found: KubeObject
    is_gone: bool

    @property
    def version(self) -> int:
        return int(self.found["metadata"]["resourceVersion"])


def history(steps: list[tuple[str, bool]]) -> list[Event]:
    """Writes to a few names: each creates, changes, or deletes what is there."""
    there: dict[str, str] = {}
    events = []
    for version, (name, delete) in enumerate(steps, start=11):
        if name not in there:
            there[name] = f"uid-{version}"
            delete = False
        events.append(Event(an_object(name, version, there[name]), delete))
        if delete:
            del there[name]
    return events


def state(events: list[Event]) -> dict[ObjectId, KubeObject]:
    found: dict[ObjectId, KubeObject] = {}
    for event in events:
        id = ObjectId.of(event.found)
        found.pop(id, None)
        if not event.is_gone:
            found[id] = event.found
    return found


def tell(kept: Kept, event: Event) -> None:
    kept.tell(str(event.version), event.found, is_gone=event.is_gone)


def answer(kept: Kept, event: Event) -> None:
    """The answer to the write, if it was ours."""
    if event.is_gone:
        kept.drop(ObjectId.of(event.found), event.found["metadata"]["uid"])
    else:
        kept.put(event.found)


steps = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12)


@given(steps, st.data())
def test_all_told_is_the_truth_whenever_answers_came(given_steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    events = history(given_steps)
    listed = data.draw(st.integers(0, len(events)))
    kept = Kept()
    kept.replace(state(events[:listed]).values(), str(10 + listed))
    told = listed
    answers = data.draw(st.lists(st.integers(0, max(0, len(events) - 1)), max_size=8))
    for index in answers:
        # An answer comes after its write, and the watch may be anywhere.
        told_until = data.draw(st.integers(told, len(events)))
        for event in events[told:told_until]:
            tell(kept, event)
        told = told_until
        if events:
            answer(kept, events[index])
    for event in events[told:]:
        tell(kept, event)
    assert kept.seen() == state(events)
    assert kept.version == str(10 + len(events))


@given(steps, st.data())
def test_nothing_older_than_what_was_told_is_ever_shown(
    given_steps: list[tuple[str, bool]], data: st.DataObject
) -> None:
    events = history(given_steps)
    kept = Kept()
    kept.replace((), "10")
    for count, event in enumerate(events, start=1):
        tell(kept, event)
        for index in data.draw(st.lists(st.integers(0, count - 1), max_size=3)):
            if not events[index].is_gone:
                kept.put(events[index].found)
        assert kept.seen() == state(events[:count])


def test_seen_objects_do_not_change_and_are_copied_once() -> None:
    kept = Kept()
    kept.replace((an_object("a", 1, "u"),), "5")
    before = kept.seen()
    assert kept.seen() is before
    assert kept.tell("6", an_object("b", 6, "v"))
    assert len(before) == 1
    assert len(kept.seen()) == 2


def test_own_answer_is_news_once_and_its_event_is_not() -> None:
    kept = Kept()
    kept.replace((), "5")
    kept.put(an_object("a", 6, "u"))
    assert len(kept.seen()) == 1
    assert not kept.tell("6", an_object("a", 6, "u"))


def test_late_deletion_of_its_predecessor_leaves_a_new_object() -> None:
    kept = Kept()
    kept.replace([an_object("a", 5, "old")], "5")
    kept.put(an_object("a", 7, "new"))
    kept.tell("6", an_object("a", 6, "old"), is_gone=True)
    assert [found["metadata"]["uid"] for found in kept.seen().values()] == ["new"]


def test_nothing_is_put_before_a_list_or_with_unknown_labels() -> None:
    kept = Kept()
    kept.put(an_object("a", 6, "u"))
    kept.replace((), "5")
    kept.put(an_object("a", 6, "u"), is_new_allowed=False)
    assert not kept.seen()


def test_history_that_goes_back_is_listed_again() -> None:
    kept = Kept()
    kept.replace((an_object("a", 9, "u"),), "9")
    with pytest.raises(Expired):
        kept.tell("8")
    kept.relist()
    assert kept.version == ""
    kept.replace((an_object("b", 3, "v"),), "3")
    assert [id.name for id in kept.seen()] == ["b"]
