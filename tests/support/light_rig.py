"""A rig whose replicas are child processes that are engines in name only: up in 30 ms, and content with everything."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from reconciler.host.inventory import ReplicaRecord, UnreadableRecord
from tests.e2e.rig import Rig

ENGINE = Path(__file__).parents[1] / "machines" / "light_engine.py"


def make_engine(folder: Path, version: str = "") -> Path:
    """An interpreter; with a version, one of an environment that has a vLLM of it."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {ENGINE} "$@"\n')
    python.chmod(0o755)
    if version:
        (folder / "pyvenv.cfg").touch()
        install(folder, version)
    return python


def install(folder: Path, version: str) -> None:
    """Another vLLM in the same environment."""
    site = folder / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    for old in site.glob("vllm-*.dist-info"):
        old.rmdir()
    (site / f"vllm-{version}.dist-info").mkdir()


class LightRig(Rig):
    """`configure` changes the config as an operator does, and has the daemon read it again where one runs."""

    def __init__(self, folder: Path, **options: Any) -> None:
        model = folder / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        super().__init__(folder / "rig", make_engine(folder / "engine"), model, resync="5s", **options)
        small = self.read("demo/tiny.yaml").replace("memory: 2Gi", "memory: 16Mi")
        self.write({"demo/tiny.yaml": small})

    def configure(self, **target: Any) -> None:
        config = yaml.safe_load(self.config.read_text())
        config["targets"][0] |= target
        self.write_targets(config["targets"])

    def write_targets(self, targets: list[dict[str, Any]]) -> None:
        config = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(config | {"targets": targets}))

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = yaml.safe_load(self.config.read_text())["targets"]
        return found

    def reload(self) -> None:
        """Tell the daemon to read its config, and wait until it follows it, or refused it."""
        assert self.process is not None

        def read() -> int:
            words = self.words(10_000)
            return words.count('"daemon_started"') + words.count('"config_rejected"')

        before = read()
        self.process.send_signal(1)
        self.wait("the config to be read", lambda: read() > before)

    def records(self, name: str = "tiny") -> list[ReplicaRecord]:
        while True:
            # One may be going just now.
            with suppress(UnreadableRecord):
                return super().records(name)

    def is_settled(self, name: str = "tiny") -> bool:
        service = self.service(name)
        return service is not None and (service["sync"], service["health"]["status"], service["step"]) == (
            "Synced",
            "Healthy",
            "",
        )

    def settle(self, name: str = "tiny") -> None:
        self.wait(f"{name} to be as git says", lambda: self.is_applied() and self.is_settled(name), 60)

    @contextmanager
    def requests(self) -> Iterator[list[int]]:
        """The codes of requests that are sent one after the other meanwhile; 0 where none came."""
        codes: list[int] = []
        done = threading.Event()
        thread = threading.Thread(target=self._send, args=(codes, done))
        thread.start()
        try:
            yield codes
        finally:
            done.set()
            thread.join()

    def _send(self, codes: list[int], done: threading.Event) -> None:
        body = json.dumps({"model": "tiny", "prompt": "hi", "max_tokens": 1})
        while not done.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request("POST", "/default/tiny/v1/completions", body, {"Content-Type": "application/json"})
                codes.append(connection.getresponse().status)
            except OSError:
                codes.append(0)
            finally:
                connection.close()

    def serves_now(self) -> bool:
        """Does a request get an answer?"""
        with self.requests() as codes:
            while not codes:
                time.sleep(0.01)
        return codes[0] == 200
