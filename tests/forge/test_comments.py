"""The comment of a pull request: sections of many targets in one text, written by daemons that know nothing of each
other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.errors import Retryable
from reconciler.forge import comments
from reconciler.forge.comments import HEAD, MARK, MOST_CHARACTERS, MOST_SECTIONS, MOVED, NOTHING, deliver, merge
from reconciler.forge.http import LoginRefused
from reconciler.forge.messages import Comment, CommentSection

NAMES = st.sampled_from(["a", "a-1", "b", "gpu-1", "gpu-10", "gpu-2", "z"])
TEXTS = st.text(st.sampled_from("ab|<!-> \n\r"), max_size=60).map(lambda text: f"x{text}x")
SECTIONS = st.builds(CommentSection, st.just(7), NAMES, TEXTS)


def body_of(*sections: CommentSection) -> str:
    body = ""
    for each in sections:
        body = merge(body, each)
    return body


def part(body: str, name: str) -> str:
    """The bytes of one section."""
    start, end = f"<!-- reconciler: target {name} -->\n", f"\n<!-- reconciler: end {name} -->"
    return body.partition(start)[2].partition(end)[0]


def names(body: str) -> list[str]:
    lines = [line for line in body.splitlines() if line.startswith("<!-- reconciler: target ")]
    return [line.split()[3] for line in lines]


@given(st.lists(SECTIONS, max_size=6), SECTIONS)
def test_merge_leaves_all_other_sections_as_they_are(before: list[CommentSection], section: CommentSection) -> None:
    body = body_of(*before)
    after = merge(body, section)
    assert [part(after, name) for name in names(body) if name != section.target] == [
        part(body, name) for name in names(body) if name != section.target
    ]
    assert after.startswith(HEAD)
    assert names(after) == sorted({*names(body), section.target})


@given(st.lists(SECTIONS, max_size=6), SECTIONS)
def test_merge_twice_changes_nothing_more(before: list[CommentSection], section: CommentSection) -> None:
    once = merge(body_of(*before), section)
    assert merge(once, section) == once


@given(st.lists(SECTIONS, min_size=2, max_size=6, unique_by=lambda each: each.target), st.randoms())
def test_merge_in_any_order_gives_one_comment(sections: list[CommentSection], random: object) -> None:
    shuffled = list(sections)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert body_of(*sections) == body_of(*shuffled)


@given(st.lists(SECTIONS, max_size=6), NAMES)
def test_merge_of_no_text_takes_the_section_out(before: list[CommentSection], name: str) -> None:
    body = body_of(*before)
    after = merge(body, CommentSection(7, name, ""))
    assert names(after) == [each for each in names(body) if each != name]
    assert names(after) or after == NOTHING


@given(st.lists(SECTIONS, min_size=1, max_size=6), SECTIONS)
def test_merge_knows_its_section_with_other_line_ends(before: list[CommentSection], section: CommentSection) -> None:
    body = body_of(*before, section).replace("\n", "\r\n")
    assert merge(body, section) == body


def test_merge_text_cannot_end_its_section() -> None:
    body = body_of(CommentSection(7, "b", "mine"))
    hostile = "x\n<!-- reconciler: end a -->\n<!-- reconciler: target b -->\nforged\n<!-- reconciler: end b -->"
    after = merge(body, CommentSection(7, "a", hostile))
    assert names(after) == ["a", "b"]
    assert part(after, "b") == "mine"
    assert "forged" in part(after, "a")


def test_merge_beyond_so_many_sections_only_counts() -> None:
    body = body_of(*(CommentSection(7, f"host-{number:03}", "plan") for number in range(MOST_SECTIONS + 3)))
    assert len(names(body)) == MOST_SECTIONS
    assert "… and 3 more targets" in body
    assert merge(body, CommentSection(7, f"host-{MOST_SECTIONS:03}", "plan again")) == body
    fewer = merge(body, CommentSection(7, f"host-{MOST_SECTIONS:03}", ""))
    assert "… and 2 more targets" in fewer
    # One that has its section keeps it, and one that is not concerned any more makes room.
    assert part(merge(body, CommentSection(7, "host-000", "other")), "host-000") == "other"
    room = merge(merge(body, CommentSection(7, "host-000", "")), CommentSection(7, "host-051", "plan"))
    assert "host-051" in names(room)
    assert "… and 2 more targets" in room


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=5))
@example([180, 180, 3135, 27_945])
def test_merge_never_exceeds_what_a_forge_takes(lengths: list[int]) -> None:
    sections = [
        CommentSection(7, f"t{at}", "a line of text\n" * (length // 15 + 1)) for at, length in enumerate(lengths)
    ]
    body = body_of(*sections)
    assert len(body) <= MOST_CHARACTERS
    assert body_of(*sections, *sections) == body_of(*sections, *sections, *sections)


class Board:
    """The comments of one pull request, as a forge keeps them."""

    name = "a forge"

    def __init__(self, *found: Comment) -> None:
        self.found = list(found)
        self.writes = 0

    def comments(self, number: int) -> tuple[Comment, ...]:
        assert number == 7
        return tuple(self.found)

    def add_comment(self, number: int, body: str) -> None:
        self.writes += 1
        self.found.append(Comment(f"c{len(self.found)}", body, is_ours=True))

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        self.writes += 1
        at = next(at for at, each in enumerate(self.found) if each.id == comment)
        self.found[at] = Comment(comment, body, self.found[at].is_ours)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "_PAUSE", 0.0)


def put(board: Board, section: CommentSection) -> None:
    deliver(board, section)  # type: ignore[arg-type]


def test_deliver_makes_one_comment_and_edits_it_only_for_news() -> None:
    board = Board(Comment("1", "Nice!", is_ours=False))
    for section in (CommentSection(7, "a", "plan"), CommentSection(7, "b", "plan"), CommentSection(7, "a", "plan")):
        put(board, section)
    assert len(board.found) == 2
    assert board.writes == 2
    assert names(board.found[1].body) == ["a", "b"]


def test_deliver_of_no_text_makes_no_comment() -> None:
    board = Board()
    put(board, CommentSection(7, "a", ""))
    assert board.found == []


def test_deliver_leaves_a_strangers_comment_with_our_mark_alone() -> None:
    forged = Comment("1", body_of(CommentSection(7, "a", "all is fine")), is_ours=False)
    board = Board(forged)
    put(board, CommentSection(7, "a", "it restarts"))
    assert board.found[0] == forged
    assert part(board.found[1].body, "a") == "it restarts"


def test_deliver_prefers_its_own_to_a_comment_of_unknown_author() -> None:
    board = Board(Comment("1", MARK), Comment("2", MARK, is_ours=True))
    put(board, CommentSection(7, "a", "plan"))
    assert [names(each.body) for each in board.found] == [[], ["a"]]


class Strangers(Board):
    """It does not tell whose a comment is, and lets nobody edit others'. Ours are `c1` and so on."""

    def __init__(self, *found: Comment) -> None:
        super().__init__(*found)
        self.refused = 0

    def comments(self, number: int) -> tuple[Comment, ...]:
        return tuple(Comment(each.id, each.body) for each in self.found)

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        if not comment.startswith("c"):
            self.refused += 1
            raise LoginRefused("403")
        super().edit_comment(number, comment, body)


def test_deliver_finds_its_own_among_comments_that_it_may_not_edit() -> None:
    board = Strangers(*(Comment(str(at), body_of(CommentSection(7, "a", "forged"))) for at in range(9)))
    for text in ("plan", "plan", "another plan"):
        put(board, CommentSection(7, "a", text))
    assert len(board.found) == 10
    assert part(board.found[-1].body, "a") == "another plan"
    assert all(part(each.body, "a") == "forged" for each in board.found[:-1])


def test_deliver_of_a_comment_that_is_ours_tells_who_refuses_it() -> None:
    board = Strangers(Comment("1", MARK))
    board.comments = lambda number: tuple(board.found)  # type: ignore[method-assign]
    board.found = [Comment("1", MARK, is_ours=True)]
    with pytest.raises(LoginRefused):
        put(board, CommentSection(7, "a", "plan"))


class Altering(Board):
    """It keeps less of a text than was written."""

    def comments(self, number: int) -> tuple[Comment, ...]:
        return tuple(replace(each, body=each.body.replace("é", "e")) for each in self.found)


def test_deliver_does_not_edit_again_what_the_forge_altered() -> None:
    board = Altering()
    put(board, CommentSection(7, "a", "café"))
    assert board.writes == 2
    assert part(board.found[0].body, "a") == "café"


def test_deliver_moves_into_the_first_of_two_comments_made_at_once() -> None:
    first, second = body_of(CommentSection(7, "a", "plan")), body_of(CommentSection(7, "b", "plan"))
    board = Board(Comment("1", first, is_ours=True), Comment("2", second, is_ours=True))
    put(board, CommentSection(7, "b", "plan"))
    assert names(board.found[0].body) == ["a", "b"]
    assert board.found[1].body == MOVED


class Late(Board):
    """It does not show yet what was written."""

    def comments(self, number: int) -> tuple[Comment, ...]:
        return ()


def test_deliver_makes_no_second_comment_where_the_first_shows_late() -> None:
    board = Late()
    put(board, CommentSection(7, "a", "plan"))
    assert board.writes == 1


class Contended(Board):
    """Another daemon overwrites what was written, so many times."""

    def __init__(self, times: int, *found: Comment) -> None:
        super().__init__(*found)
        self.times = times

    def edit_comment(self, number: int, comment: str, body: str) -> None:
        before = self.found[0].body
        super().edit_comment(number, comment, body)
        if self.times:
            self.times -= 1
            self.found[0] = Comment(comment, merge(before, CommentSection(7, "b", f"plan {self.times}")), is_ours=True)


def test_deliver_puts_a_section_back_that_another_daemon_overwrote() -> None:
    board = Contended(2, Comment("1", HEAD, is_ours=True))
    put(board, CommentSection(7, "a", "plan"))
    assert names(board.found[0].body) == ["a", "b"]


def test_deliver_gives_up_for_now_where_others_never_stop() -> None:
    board = Contended(1000, Comment("1", HEAD, is_ours=True))
    with pytest.raises(Retryable, match="others edit its comment"):
        put(board, CommentSection(7, "a", "plan"))
