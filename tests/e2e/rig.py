"""One small installation for an end-to-end test: a repository, a config, a daemon, engines and a proxy, all real."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reconciler.demo.repository import Repository
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.teardown import end_workloads
from tests.support.daemon_process import DaemonProcess
from tests.support.judge import Answer, Caller, Question, Verdict, ways_to
from tests.support.load import Load
from tests.support.ports import free_port

LAYOUT = Path(__file__).parents[2] / "repo_layout"
CRASHING = Path(__file__).parent / "crashing.py"
GIB = 1 << 30

Document = dict[str, Any]


@dataclass
class Rig(DaemonProcess):
    """`memory` is what replicas may use altogether, in GiB; each asks for 2.

    `target` and `source` are further settings of these, `git` the folder of a repository that several rigs follow.
    """

    folder: Path
    python: Path
    model: Path
    memory: int = 64
    rollout: dict[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    target: Document = field(default_factory=dict)
    source: Document = field(default_factory=dict)
    git: Path | None = None
    resync: str = "60s"

    crashing_program = CRASHING

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.models = self.folder / "models"
        shutil.copytree(self.model, self.models / "tiny")
        self.make_repository()
        self.port, self.web, self.first = free_port(), free_port(), free_range()
        self.config = self.folder / "config.yaml"
        self.write_config()

    def make_repository(self) -> None:
        folder = self.git or self.folder
        self.clone = folder / "clone"
        self.repository = Repository(folder / "models.git", self.clone)
        self.repository.create(LAYOUT)
        # Many replicas on few cores: here memory alone decides what fits.
        frugal = self.read("demo/tiny.yaml").replace("cpu: '1'", "cpu: 10m")
        if frugal != self.read("demo/tiny.yaml"):
            self.write({"demo/tiny.yaml": frugal})

    @property
    def name(self) -> str:
        """The target's."""
        return str(self.target.get("name", "demo"))

    @property
    def state_dir(self) -> Path:
        """The daemon's folder, as it names it."""
        return self.folder / "state"

    @property
    def state(self) -> Path:
        """The target's folder in there, as we see it."""
        return self.state_dir / self.name

    def write_config(self, **source: object) -> None:
        """The daemon's config; `source` overrides settings of the repository."""
        rollout = {"min_ready": "0.5s", "ready_timeout": "60s", "drain_timeout": "30s", "stop_grace": "5s"}
        target = {
            "name": "demo",
            "paths": ["runtimes", "demo"],
            "engines": [{"image": "vllm/vllm-openai-cpu:*", "python": str(self.python)}],
            "volumes": {"models": str(self.models)},
            "gpus": list(self.gpus),
            "allocatable": {"memory": f"{self.memory}Gi"},
            "ports": f"{self.first}-{self.first + 40}",
            "rollout": rollout | self.rollout,
            "routing": {"listen": f"127.0.0.1:{self.port}"},
            **self.target,
        }
        settings = {
            "source": {"url": str(self.repository.origin), "interval": "5s"} | self.source | source,
            "targets": [target],
            "state_dir": str(self.state_dir),
            "web": {"listen": f"127.0.0.1:{self.web}"},
            "resync": self.resync,
            "log": {"format": "json", "level": "info"},
        }
        self.config.write_text(yaml.safe_dump(settings))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ------------------------------------------------------------ git

    def edit(self, path: str, pattern: str, replacement: str) -> str:
        """Change one line, and push. Returns `path:line: text`."""
        line = self.repository.edit(path, pattern, replacement)
        self.repository.push(f"Change {path}")
        return line

    def read(self, path: str) -> str:
        return (self.clone / path).read_text()

    def write(self, files: dict[str, str | None], subject: str = "Write files") -> str:
        """Write these files (None removes one), and push. Returns the commit."""
        for name, text in files.items():
            path = self.clone / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return self.repository.push(subject)

    # ------------------------------------------------------------ daemon

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def history(self) -> list[Document]:
        """All that happened so far, oldest first."""
        said: Document = json.loads(self.ask("history", "-o", "json", "-n", "1000").stdout)
        return list(said["entries"])

    def service(self, name: str = "tiny") -> Document | None:
        status = self.status()
        for service in status["targets"][0]["services"] if status else ():
            if service["name"] == name:
                return service
        return None

    def is_applied(self, revision: str | None = None) -> bool:
        """Is everything as the latest commit says? Of another one: was it applied, as far as it could be?"""
        status = self.status()
        if status is None:
            return False
        found = status["targets"][0]["revision"]
        wanted = revision or self.repository.head()
        return bool(found["applied"] == wanted and (revision is not None or found["fullyApplied"]))

    def converge(self, seconds: float = 120) -> None:
        self.wait("the latest commit to be applied", self.is_applied, seconds)

    # ------------------------------------------------------------ traffic, processes

    def load(self, *names: str, **options: Any) -> Load:
        ways = [way for name in names or ("tiny",) for way in ways_to("default", name)]
        options.setdefault("patience", 60.0)
        # Engines, daemon and load share two cores; a stream is under way nearly always even so.
        options.setdefault("pause", 0.05)
        return Load(self.url, ways, **options)

    def complete(self, name: str = "tiny", tokens: int = 4) -> list[Answer]:
        """One completion by each of the three ways in."""
        caller = Caller(self.url, patience=60)
        answers = [caller.ask(Question(way, tokens, stream=False)) for way in ways_to("default", name)]
        caller.close()
        return answers

    def serves(self, name: str = "tiny") -> bool:
        return all(answer.verdict is Verdict.OK for answer in self.complete(name))

    def records(self, name: str = "tiny") -> list[ReplicaRecord]:
        records = Inventory(self.state).replicas()
        return [record for record in records if record.id.service.name == name]

    def pids(self, name: str = "tiny") -> set[int]:
        return {record.process.pid for record in self.records(name) if record.process}

    def close(self) -> None:
        self.kill()
        left = end_workloads(self.settings)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, left


def free_range(length: int = 41) -> int:
    """The first of so many free ports below the ephemeral ones. Workers of xdist never meet."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    begin = 20000 + 2700 * worker + os.getpid() % 20 * 100
    for first in range(begin, begin + 700, length):
        if all(is_free(port) for port in range(first, first + length)):
            return first
    raise AssertionError("no range of free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
