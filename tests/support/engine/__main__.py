"""`python -m tests.support.engine`: keep a preloaded interpreter for all test runs on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal

from tests.support.engine.fixtures import find_place, hold

if __name__ == "__main__":
    place = find_place()
    with contextlib.closing(hold(place)), contextlib.suppress(KeyboardInterrupt):
        print(f"python: {place.python}\nmodel:  {place.model}", flush=True)
        signal.pause()
