"""A constant load of streams and keep-alive requests, and the count of what became of each.

The end-to-end tests run it while something changes; `lost 0` is the promise that it checks.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.support.judge import Answer, Caller, Question, Verdict, Way

# So few different reasons are kept: a broken proxy can invent a new one for each request.
_MOST_REASONS = 20
_WAIT_WHEN_REFUSED = 0.2


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of all requests so far. `refused` were told to come back later and did; they are never lost.

    Times are milliseconds over good answers; `first_token_*` over streams. `refused_ms` is the longest time that one
    request was turned away for, from its first refusal to its answer.
    """

    ok: int = 0
    refused: int = 0
    lost: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    first_token_p50_ms: float = 0.0
    first_token_p99_ms: float = 0.0
    refused_ms: float = 0.0

    @property
    def requests(self) -> int:
        """Requests with an outcome; one that was refused and then answered is one request."""
        return self.ok + self.lost

    def __str__(self) -> str:
        refused = f", refused {self.refused} (longest {self.refused_ms / 1000:.1f} s)" if self.refused else ""
        reasons = "".join(f"\n  lost {count}: {reason}" for reason, count in self.reasons.items())
        return f"requests {self.requests}, lost {self.lost}{refused}{reasons}"


@dataclass(slots=True)
class _Counts:
    """Guarded by the load's lock."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    longest_refusal: float = 0.0


@dataclass(slots=True)
class Load:
    """`streams` and `posts` clients, each on a connection of its own, taking `ways` in turn without a break.

    `patience` is the longest silence in seconds before a request counts as frozen, and so as lost; `pause` the rest
    between two requests of one client. Use it as a context manager, or start() and stop().
    """

    url: str
    ways: Sequence[Way]
    streams: int = 2
    posts: int = 2
    stream_tokens: int = 48
    post_tokens: int = 8
    patience: float = 60.0
    pause: float = 0.01
    _counts: _Counts = field(default_factory=_Counts, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)

    def start(self) -> Load:
        """Begin; returns at once."""
        for number in range(self.streams + self.posts):
            thread = threading.Thread(target=self._client, args=(number,), name=f"load-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def stop(self) -> Tally:
        """Let running requests finish, each judged like all others, and return the final count."""
        self._stopping.set()
        # A client may be waiting for a frozen connection, and a refused one tries once more.
        deadline = time.monotonic() + 2 * self.patience + 5
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        hanging = sum(thread.is_alive() for thread in self._threads)
        for _ in range(hanging):
            self._note(Answer(Verdict.LOST, "still no end of the answer when the load was over"))
        self._threads.clear()
        return self.tally()

    def tally(self) -> Tally:
        """The count so far."""
        with self._lock:
            counts = self._counts
            return Tally(
                ok=counts.verdicts[Verdict.OK],
                refused=counts.verdicts[Verdict.REFUSED],
                lost=counts.verdicts[Verdict.LOST],
                reasons=dict(counts.reasons),
                p50_ms=_percentile(counts.seconds, 50),
                p99_ms=_percentile(counts.seconds, 99),
                first_token_p50_ms=_percentile(counts.firsts, 50),
                first_token_p99_ms=_percentile(counts.firsts, 99),
                refused_ms=counts.longest_refusal * 1000,
            )

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _client(self, number: int) -> None:
        caller = Caller(self.url, self.patience)
        is_stream = number < self.streams
        for turn in itertools.count(number):
            way = self.ways[turn % len(self.ways)]
            tokens = self.stream_tokens if is_stream else self.post_tokens
            self._ask(caller, Question(way, tokens, is_stream, f"hello world {turn}"))
            if self._stopping.wait(self.pause):
                break
        caller.close()

    def _ask(self, caller: Caller, question: Question) -> None:
        """Ask until there is an outcome. When the load is over a refused client goes away; nothing of it is lost."""
        refused_at: float | None = None
        while True:
            answer = caller.ask(question)
            self._note(answer)
            if answer.verdict is not Verdict.REFUSED:
                break
            refused_at = refused_at or time.monotonic()
            if self._stopping.wait(_WAIT_WHEN_REFUSED):
                break
        if refused_at is not None:
            self._note_refusal(time.monotonic() - refused_at)

    def _note(self, answer: Answer) -> None:
        with self._lock:
            counts = self._counts
            counts.verdicts[answer.verdict] += 1
            if answer.verdict is Verdict.OK:
                counts.seconds.append(answer.seconds)
                if answer.first is not None:
                    counts.firsts.append(answer.first)
            elif answer.verdict is Verdict.LOST:
                known = answer.reason in counts.reasons or len(counts.reasons) < _MOST_REASONS
                counts.reasons[answer.reason if known else "other reasons"] += 1

    def _note_refusal(self, seconds: float) -> None:
        with self._lock:
            self._counts.longest_refusal = max(self._counts.longest_refusal, seconds)


def _percentile(seconds: list[float], percent: int) -> float:
    """Milliseconds; 0 without values."""
    if len(seconds) < 2:
        return round(sum(seconds) * 1000, 1)
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000, 1)
