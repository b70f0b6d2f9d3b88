"""What the demo says while it runs: acts, and facts with the seconds since it began."""

from __future__ import annotations

import time
from typing import TextIO

_LONG_SILENCE = 15.0


class Narrator:
    """Writes to one stream at once, also where that is a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = time.monotonic()
        self._last = ""
        self._said_at = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def act(self, title: str) -> None:
        """A new part of the story."""
        self._say(f"\n==> {title}")
        self._last = ""

    def tell(self, text: str) -> None:
        """One fact of it."""
        self._say(f"{self.elapsed:6.0f} s  {text}")

    def progress(self, text: str, figures: str = "") -> None:
        """As tell(), but only when there is something new to say, or nothing was said for long."""
        if text and (text != self._last or self.elapsed - self._said_at > _LONG_SILENCE):
            self._last = text
            self.tell(f"{text}  [{figures}]" if figures else text)

    def block(self, text: str) -> None:
        """Lines to be copied, or another program's output."""
        self._say("".join(f"          {line}\n" for line in text.splitlines()).rstrip("\n"))

    def _say(self, text: str) -> None:
        self._said_at = self.elapsed
        print(text, file=self._stream, flush=True)
