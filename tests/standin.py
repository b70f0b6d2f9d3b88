"""A process that behaves as badly as an engine can. Stands in where a test is about processes, not about models.

    standin.py [--port N] [--ignore-term] [--child KIND]... [--shared-memory] [--exit CODE]

Children: `plain` as any child; `escaped` in a session of its own, with nothing open; `bare` with an empty environment
and nothing open, known only by its session; `titled` whose environment is gone but who writes to our log.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

SLEEP = [sys.executable, "-IS", "-c", "import time; time.sleep(600)"]
CLOSED = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "tiny"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def spawn(kind: str) -> int:
    if kind == "escaped":
        return subprocess.Popen(SLEEP, start_new_session=True, **CLOSED).pid
    if kind == "bare":
        return subprocess.Popen(SLEEP, env={}, **CLOSED).pid
    if kind == "titled":
        return subprocess.Popen(SLEEP, env={}, start_new_session=True, stdin=subprocess.DEVNULL).pid
    return subprocess.Popen(SLEEP).pid


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child", action="append", default=[])
    parser.add_argument("--shared-memory", action="store_true")
    parser.add_argument("--exit", type=int)
    options, _ = parser.parse_known_args()
    print(json.dumps({"children": [spawn(kind) for kind in options.child]}), flush=True)
    if options.shared_memory:
        memory = SharedMemory(create=True, size=4096)
        # As when the whole group is killed: nobody is left to unlink it.
        resource_tracker.unregister(f"/{memory.name}", "shared_memory")
        print(json.dumps({"shared_memory": memory.name}), flush=True)
    if options.exit is not None:
        print("bad things happened", flush=True)
        os._exit(options.exit)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_term else lambda *_: os._exit(0))
    print("up", flush=True)
    if options.port:
        ThreadingHTTPServer(("127.0.0.1", options.port), Answer).serve_forever()
    time.sleep(600)


if __name__ == "__main__":
    main()
