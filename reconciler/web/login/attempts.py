"""How often somebody may give a wrong token: who guesses is not told any more whether the guess was right."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

MOST_WRONG = 30
WINDOW_SECONDS = 60.0
_MOST_SOURCES = 4096


class Attempts:
    """Wrong tokens by where they came from. For one thread."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """So long nothing is compared that comes from there; 0: go on."""
        began, count = self._wrong.get(_source(address), (0.0, 0))
        left = began + WINDOW_SECONDS - time.monotonic()
        return max(0.0, left) if count >= MOST_WRONG else 0.0

    def note_wrong(self, address: str) -> None:
        source, now = _source(address), time.monotonic()
        began, count = self._wrong.pop(source, (now, 0))
        self._wrong[source] = (began, count + 1) if now - began < WINDOW_SECONDS else (now, 1)
        while len(self._wrong) > _MOST_SOURCES:
            self._wrong.popitem(last=False)


def _source(address: str) -> str:
    """Who has one address of IPv6 has 2^64 of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and not found.ipv4_mapped:
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)
