"""A host that follows a repository on a Gitea, is told of pushes by its webhook, and answers on its commits."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reconciler.demo.repository import RemoteRepository, Repository, git
from tests.e2e.rig import LAYOUT, Document, Rig
from tests.forge.gitea.account import ForgeRepository
from tests.support.light_rig import make_engine

SECRET = "a secret that both sides know"
SEQS = r"--max-num-seqs=\d+"


@dataclass
class ForgeRig(Rig):
    """`ssh`: git goes over ssh. `told`: it is told of pushes, and polls once an hour; else it polls every second.

    `answers` are further settings of `forge`.
    """

    forge: ForgeRepository = field(kw_only=True)
    ssh: bool = False
    told: bool = True
    answers: Document = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = self.target.setdefault("name", "gpu-1")
        self.target = {"paths": ["runtimes", name], "allow_root": True} | self.target
        super().__post_init__()
        if self.told:
            self.forge.add_webhook(f"http://127.0.0.1:{self.web}/webhooks/gitea", SECRET)

    def make_repository(self) -> None:
        owner = self.forge.owner
        self.git_token = self.secret("git-token", owner.token)
        self.token = owner.new_token()
        self.token_file = self.secret("forge-token", self.token)
        self.webhook_secret = self.secret("webhook-secret", SECRET)
        self.clone = self.folder / "clone"
        self.repository = Repository(
            RemoteRepository(self.forge.url, self.git_token, ca_file=owner.gitea.ca_file), self.clone
        )
        self.repository.create(LAYOUT)
        if self.ssh:
            self.ssh_key = owner.add_ssh_key(self.folder)
            ssh = f"ssh -F none -i {self.ssh_key} -o IdentitiesOnly=yes -o UserKnownHostsFile={owner.gitea.known_hosts}"
            self.git_here("config", "core.sshCommand", ssh)
            self.git_here("remote", "set-url", "origin", self.forge.ssh_url)
        if not (self.clone / self.manifest).exists():
            frugal = self.read("demo/tiny.yaml").replace("cpu: '1'", "cpu: 10m")
            host = self.read("demo/host.yaml").replace("name: demo", f"name: {self.name}")
            self.write({self.manifest: frugal, f"{self.name}/host.yaml": host})

    @property
    def manifest(self) -> str:
        """Of its one service."""
        return f"{self.name}/tiny.yaml"

    def roll(self, number: int, load_seconds: int = 0) -> str:
        """Push a change that replaces the replica, whose engine takes so long to come up. Returns the commit."""
        service = yaml.safe_load(self.read(self.manifest))
        model = service["spec"]["predictor"]["model"]
        model["env"] = [{"name": "ROUND", "value": str(number)}]
        model["args"] = [each for each in model["args"] if not each.startswith("--load-seconds")]
        model["args"] += [f"--load-seconds={load_seconds}"]
        return self.write({self.manifest: yaml.safe_dump(service)}, f"Begin round {number}")

    def secret(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def write_config(self, **source: object) -> None:
        super().write_config(**self._source(), **source)
        config = yaml.safe_load(self.config.read_text())
        if self.told:
            webhook = {"name": "gitea", "kind": "gitea", "secret_file": str(self.webhook_secret)}
            config["web"]["webhooks"] = [webhook]
        gitea = self.forge.owner.gitea
        forge = {"kind": "gitea", "token_file": str(self.token_file), "ca_file": str(gitea.ca_file)}
        if self.ssh:
            forge |= {"url": gitea.url, "repository": self.forge.path}
        config["forge"] = forge | self.answers
        self.config.write_text(yaml.safe_dump(config))

    def _source(self) -> Document:
        gitea = self.forge.owner.gitea
        often = {"interval": "1h" if self.told else "1s"}
        if self.ssh:
            keys = {"ssh_key_file": str(self.ssh_key), "known_hosts_file": str(gitea.known_hosts)}
            return often | {"url": self.forge.ssh_url} | keys
        files = {"token_file": str(self.git_token), "ca_file": str(gitea.ca_file)}
        return often | {"url": self.forge.url, "username": self.forge.owner.name} | files

    # ------------------------------------------------------------ git and the forge

    def git_here(self, *arguments: str) -> str:
        return git("-C", str(self.clone), *arguments, options=self.repository.origin.options)

    @property
    def context(self) -> str:
        return f"reconciler/{self.name}"

    def states(self, revision: str, context: str = "") -> list[str]:
        """Of all statuses that the commit got, oldest first."""
        wanted = context or self.context
        return [each["status"] for each in self.forge.statuses(revision) if each["context"] == wanted]

    def turns(self, revision: str) -> list[str]:
        """The states that followed each other."""
        return [state for state, _ in itertools.groupby(self.states(revision))]

    def answer(self, revision: str, *states: str, context: str = "", seconds: float = 60) -> Document:
        """The status of the commit once it is one of these."""

        def found() -> Document | None:
            latest = self.forge.status(revision, context or self.context)
            return latest if latest.get("status") in states else None

        what = f"{' or '.join(states)} on {revision[:8]}"
        latest: Document = self.wait(what, found, seconds)
        return latest


def light_parts(folder: Path) -> dict[str, Any]:
    """`python` and `model` of a rig whose engines are engines in name only: up in 30 ms, content with everything."""
    model = folder / "light-model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return {"python": make_engine(folder / "light-engine"), "model": model}


def said_by_webhook(rig: ForgeRig, secret: str = SECRET) -> int:
    """The status of the answer to one that says that main was pushed."""
    repository = {"full_name": rig.forge.path, "clone_url": rig.forge.url}
    body = json.dumps({"ref": "refs/heads/main", "repository": repository}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Gitea-Event": "push", "X-Gitea-Signature": signature, "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{rig.web}/webhooks/gitea", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def metric(rig: ForgeRig, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{rig.web}/metrics", timeout=20) as answer:
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


MakeForgeRig = Callable[..., ForgeRig]


def forge_rigs(folder: Path, forge: ForgeRepository) -> Iterator[MakeForgeRig]:
    """For a fixture: what the rigs started ends with it."""
    rigs: list[ForgeRig] = []

    def make(**options: Any) -> ForgeRig:
        place = folder / f"f{len(rigs)}"
        rigs.append(ForgeRig(place / "rig", **(light_parts(place) | {"forge": forge} | options)))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
