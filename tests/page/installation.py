"""What people look at in the tests of the page: a real daemon with a service that serves, one that says hostile things
and one that its engine refuses, all from a repository whose last commit is hostile, too.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import yaml

from reconciler.host.workload import home_of
from tests.e2e.rig import Rig
from tests.support.engine.fixtures import find_place
from tests.support.nvml.driver import GIB, Driver

OPERATOR, VIEWER = "the-token-of-an-operator", "the-token-of-a-viewer"
SECRET = "hf_abcdefghijklmnopqrst"
SCRIPT = "<script>document.title = 'broken'</script>"
BIDI, ANSI = "\u202egnp.exe\u2069", "\x1b[31mred\x1b[0m"
SUBJECT = f"Serve {SCRIPT} {BIDI} {ANSI} <img src=x onerror=alert(1)>"
LAST_LINE = "that was all of it"
LOG = "\n".join(("long " * 200_000, SCRIPT, BIDI, ANSI, f"\0\x07HF_TOKEN={SECRET}", LAST_LINE, ""))
REFUSED = f"--max-model-len={SCRIPT}"


class Site(Rig):
    """An installation whose page people log in to. `driver` has its GPUs."""

    driver: Driver
    has_peers: ClassVar[bool] = False

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.web}"

    @property
    def operator(self) -> dict[str, Any]:
        """What makes a visitor an operator."""
        return {"extra_http_headers": {"Authorization": f"Bearer {OPERATOR}"}}

    def start(self, *, crashing: bool = False) -> None:
        """With the driver of the GPUs."""
        with mock.patch.dict(os.environ, self.driver.env()):
            super().start(crashing=crashing)

    def write_config(self, **source: object) -> None:
        """Two people may log in. Of two other daemons one is this one, once more, and one is away."""
        super().write_config(**source)
        config = yaml.safe_load(self.config.read_text())
        auth = {"tokens": [_token("ada", OPERATOR), _token("bob", VIEWER)]}
        token = self.folder / "viewer"
        token.write_text(VIEWER)
        token.chmod(0o600)
        peers = [
            {"name": "itself", "url": self.address, "token_file": str(token)},
            {"name": "away", "url": "http://127.0.0.1:9", "token_file": str(token)},
        ]
        config["web"] |= {"url": self.address, "auth": auth, "peers": peers if self.has_peers else []}
        self.config.write_text(yaml.safe_dump(config))

    def is_healthy(self, name: str) -> bool:
        service = self.service(name)
        return service is not None and (service["sync"], service["health"]["status"]) == ("Synced", "Healthy")

    def is_rejected(self, name: str) -> bool:
        return bool((self.service(name) or {}).get("rejected"))

    def manifest(self, name: str, fraction: str, *changes: tuple[str, str]) -> str:
        """Of a service like `tiny` on a part of a GPU, with these texts replaced."""
        text = self.read("demo/tiny.yaml").replace("cpu: 10m", "cpu: 10m\n          nvidia.com/gpu: 1")
        text = text.replace("name: tiny\n", f"name: {name}\n")
        text = text.replace("  annotations:\n", f'  annotations:\n    reconciler/gpu-memory-fraction: "{fraction}"\n')
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return text

    def share_cache(self) -> None:
        """vLLM looks at each model class once, for 8 s, and keeps what it saw."""
        (target,) = self.settings.targets
        known = find_place().folder / "vllm-cache"
        for folder in (self.state_dir, self.state):
            folder.mkdir(mode=0o700)
        for engine in target.engines:
            if known.is_dir():
                shutil.copytree(known, Path(home_of(self.state, engine)) / ".cache" / "vllm", dirs_exist_ok=True)


class Installation(Site):
    """`tiny` serves, `loud` serves and writes hostile lines into its log, `wrong` has an argument that is refused.

    To delete two of them needs approval. Of three GPUs one is ours, one has MIG parts, and of one somebody else uses
    most.
    """

    has_peers = True

    def __init__(self, folder: Path, python: Path, model: Path) -> None:
        self.driver = Driver(folder / "gpus", gpus=3)
        self.driver.partition(self.driver.uuids[1], "1g.6gb", "2g.12gb")
        self.driver.hold(self.driver.uuids[2], os.getpid(), 20 * GIB, listed=True)
        (folder / "log").write_text(LOG)
        say = f"cat {shlex.quote(str(folder / 'log'))} >&2"
        engines = [
            {"image": "vllm/vllm-openai-cpu:*", "python": str(python)},
            {"image": "example.com/loud:*", "python": str(wrap(python, folder / "loud", say))},
        ]
        target = {"engines": engines, "gpus": "auto", "prune": {"max_services": 1}}
        super().__init__(folder / "rig", python, model, rollout={"min_ready": "2s"}, target=target)
        refused = yaml.safe_dump(REFUSED).splitlines()[0].strip("'")
        runtime = self.read("runtimes/vllm-cpu.yaml").replace("vllm/vllm-openai-cpu:v0.32.0", "example.com/loud:1")
        files = {
            "demo/tiny.yaml": self.manifest("tiny", "0.3"),
            "demo/loud.yaml": self.manifest("loud", "0.3", ("vllm-cpu", "vllm-loud")),
            "demo/wrong.yaml": self.manifest("wrong", "0.3", ("--max-model-len=256", refused)),
            "runtimes/vllm-loud.yaml": runtime.replace("name: vllm-cpu", "name: vllm-loud"),
        }
        self.hostile_revision = self.write(files, SUBJECT)
        self.share_cache()

    def settle(self) -> None:
        """Wait until all is as this repository can be."""
        self.wait("two to serve", lambda: all(self.is_healthy(name) for name in ("tiny", "loud")))
        self.wait("one to be refused", lambda: self.is_rejected("wrong"))


def wrap(python: Path, folder: Path, command: str) -> Path:
    """An interpreter that does the same as another one, but runs this command of a shell before it serves."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").symlink_to((python.parents[1] / "lib").resolve())
    shutil.copyfile(python.parents[1] / "pyvenv.cfg", folder / "pyvenv.cfg")
    wrapper = folder / "bin" / "python"
    case = f'case "$*" in *api_server*) {command} ;; esac'
    wrapper.write_text(f'#!/bin/sh\n{case}\nexec {shlex.quote(str(python))} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _token(name: str, token: str) -> dict[str, Any]:
    role = "operator" if token == OPERATOR else "viewer"
    return {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "role": role}
