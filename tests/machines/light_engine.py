"""An engine in name only, for machines with many replicas: a server of 10 MB that is up in 30 ms.

Asked about arguments, it accepts them; started, it answers all that a replica is asked.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

VERDICT = {"parsed": "as it is", "gpus": 0, "errors": [], "warnings": []}


def values(flag: str) -> list[str]:
    """What follows a flag, in either way to write it."""
    found: list[str] = []
    for at, word in enumerate(sys.argv):
        if word.startswith(f"{flag}="):
            found.append(word.partition("=")[2])
        elif word == flag:
            rest = sys.argv[at + 1 :]
            end = next((n for n, each in enumerate(rest) if each.startswith("-")), len(rest))
            found += rest[:end]
    return found


def answer(path: str) -> bytes:
    if path == "/metrics":
        return b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
    names = [{"id": name} for name in values("--served-model-name")]
    return json.dumps({"data": names, "choices": [{"finish_reason": "length"}]}).encode()


def listen() -> socket.socket:
    """As vLLM does: with SO_REUSEPORT on a port, which it binds before it loads its model and listens on afterwards."""
    path = values("--uds")
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    if not path:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(path[0] if path else ("127.0.0.1", int(values("--port")[0])))
    time.sleep(float((values("--load-seconds") or ["0"])[0]))
    listener.listen(64)
    return listener


def read_request(client: socket.socket) -> bytes:
    """With its body: who closes a Unix socket with something unread in it takes back its answer."""
    request = client.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
    while left > 0 and (more := client.recv(left)):
        left -= len(more)
    return request


def serve() -> None:
    listener = listen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        client, _ = listener.accept()
        with client:
            client.settimeout(2)
            words = read_request(client).split(b" ", 2)
            if len(words) > 1:
                body = answer(words[1].decode())
                client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


if __name__ == "__main__":
    if any("preflight_probe" in word for word in sys.argv):
        print(json.dumps(VERDICT))
    else:
        serve()
