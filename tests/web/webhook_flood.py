"""A flood of webhooks from a process of its own: believed and refused ones, malformed ones and large ones."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import random
import threading
from collections import Counter
from contextlib import suppress

from reconciler.web.webhooks.routes import MOST_BYTES
from tests.web.webhook_senders import SECRETS, Address, push, signature

_THREADS = 16
# It has the form of a signature, so all of it is read before it is refused.
_LARGE = b"x" * (MOST_BYTES - 1)


class Flood:
    """Sends so many requests, and counts the answers; `none` are connections that the server gave to others."""

    def __init__(self, address: Address, count: int) -> None:
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_run, args=(address, count, other))
        self._process.start()

    @property
    def is_over(self) -> bool:
        return self._pipe.poll()

    def wait(self) -> Counter[str]:
        """Answers by status."""
        found: Counter[str] = self._pipe.recv()
        self._process.join()
        return found


def _run(address: Address, count: int, pipe: object) -> None:
    answers: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_send_many, args=(address, count // _THREADS, number, answers))
        for number in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(answers)  # type: ignore[attr-defined]


def _send_many(address: Address, count: int, seed: int, answers: Counter[str]) -> None:
    random_ = random.Random(seed)
    connection = http.client.HTTPConnection(*address, timeout=60)
    for number in range(count):
        name, body, headers = _request(random_, is_large=number % 50 == 49)
        said = "none"
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", f"/webhooks/{name}", body, headers)
            response = connection.getresponse()
            response.read()
            said = str(response.status)
        if said == "none":
            connection.close()
        with _counting:
            answers[said] += 1
    connection.close()


_counting = threading.Lock()


def _request(random_: random.Random, *, is_large: bool) -> tuple[str, bytes, dict[str, str]]:
    name = random_.choice(sorted(SECRETS))
    said, payload = push(name)
    body = json.dumps(payload).encode()
    if is_large:
        return name, _LARGE, said | signature(name, body)  # Of another body.
    match random_.randrange(5):
        case 0:
            return name, body, said
        case 1:
            return name, body, said | signature(name, body + b"?", None if name != "gitlab" else "guessed")
        case 2:
            return "nobody", body, said
        case _:
            return name, body, said | signature(name, body)
