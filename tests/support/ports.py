"""Ports for tests."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below the ephemeral ones, which the kernel may give to any connection meanwhile; a part for every worker of xdist.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
_NUMBERS = itertools.cycle(random.sample(range(10000 + 2500 * _WORKER, 12500 + 2500 * _WORKER), 2500))


def free_port() -> int:
    """A port that is free now, and that this process gave to no other caller."""
    return next(number for number in _NUMBERS if _is_free(number))


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
