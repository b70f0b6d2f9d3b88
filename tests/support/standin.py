"""A process that behaves as badly as an engine can. Stands in where a test is about processes, not about models.

    standin.py [--port N | --uds PATH] [--ignore-term] [--child KIND]... [--shared-memory [NAME]] [--exit CODE]

More flags may stand in the environment, as STANDIN. Children: `plain` as any child; `escaped` in a session of its own,
with nothing open; `bare` with an empty environment and nothing open, known only by its session; `titled` whose
environment is gone but who writes to our log.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

SLEEP = [sys.executable, "-IS", "-c", "import time; time.sleep(600)"]


def spawn(kind: str) -> int:
    closed = subprocess.DEVNULL
    if kind == "escaped":
        return subprocess.Popen(SLEEP, start_new_session=True, stdin=closed, stdout=closed, stderr=closed).pid
    if kind == "bare":
        return subprocess.Popen(SLEEP, env={}, stdin=closed, stdout=closed, stderr=closed).pid
    if kind == "titled":
        return subprocess.Popen(SLEEP, env={}, start_new_session=True, stdin=closed).pid
    return subprocess.Popen(SLEEP).pid


def share_memory(name: str) -> str:
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    global memory  # mapped as long as we live
    memory = SharedMemory(name or None, create=True, size=4096)
    # As when the whole group is killed: nobody is left to unlink it.
    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
    return memory.name


def listen(port: int | None, path: str) -> socket.socket:
    if not path:
        return socket.create_server(("127.0.0.1", port))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def serve(listener: socket.socket) -> None:
    """Enough of a server for every question that it is asked."""
    while True:
        client, _ = listener.accept()
        words = client.recv(65536).split(b" ", 2)
        if len(words) < 3:
            # Whoever only looks whether somebody listens asks nothing.
            client.close()
            continue
        body = b'{"data":[{"id":"chat"}],"choices":[{"finish_reason":"length"}]}'
        if words[1] == b"/metrics":
            body = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
        client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int)
    parser.add_argument("--uds", default="")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child", action="append", default=[])
    parser.add_argument("--shared-memory", nargs="?", const="")
    parser.add_argument("--exit", type=int)
    words = [*sys.argv[1:], *shlex.split(os.environ.pop("STANDIN", ""))]
    options, _ = parser.parse_known_args(words)
    print(json.dumps({"children": [spawn(kind) for kind in options.child]}), flush=True)
    if options.shared_memory is not None:
        print(json.dumps({"shared_memory": share_memory(options.shared_memory)}), flush=True)
    if options.exit is not None:
        print("ValueError: bad things happened", flush=True)
        os._exit(options.exit)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_term else lambda *_: os._exit(0))
    print("up", flush=True)
    if options.port or options.uds:
        serve(listen(options.port, options.uds))
    time.sleep(600)


if __name__ == "__main__":
    main()
