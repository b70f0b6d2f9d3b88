"""A target on the tests' control plane: a repository, a config, and passes over them in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reconciler.config.settings import Settings
from reconciler.loop import preview, sync
from reconciler.report.planned import plan_document
from tests.controlplane.api import Api
from tests.controlplane.control_plane import ControlPlane
from tests.support.git_repository import git

Document = dict[str, Any]
CLUSTER = "apiVersion: reconciler/v1alpha1\nkind: Cluster\nmetadata: {name: prod}\n"


@dataclass
class ClusterRig:
    """One target, `prod`, whose documents go to `namespace` where they name none. `target` are further
    settings of it, `others` of the daemon."""

    folder: Path
    plane: ControlPlane
    namespace: str
    target: Document = field(default_factory=dict)
    others: Document = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository = self.folder / "git"
        self.repository.mkdir(parents=True)
        self._git("init", "-q", "-b", "main")
        self.push({"prod/cluster.yaml": CLUSTER})
        self.config = self.folder / "config.yaml"
        self.write_config()

    def write_config(self, **target: Any) -> None:
        """The config, with these settings of the target changed."""
        self.target |= target
        settings = {
            "source": {"url": str(self.repository), "branch": "main"},
            "state_dir": str(self.folder / "state"),
            "web": {"listen": "127.0.0.1:0"},
            "targets": [self.target_settings],
            **self.others,
        }
        self.config.write_text(yaml.safe_dump(settings))

    @property
    def target_settings(self) -> Document:
        return {
            "name": "prod",
            "kind": "kubernetes",
            "paths": ["prod"],
            "kubeconfig": str(self.plane.kubeconfig),
            "namespace": self.namespace,
            "default_namespace": self.namespace,
            "qps": 0,
            "rollout": {"min_ready": "200ms"},
            **self.target,
        }

    @property
    def settings(self) -> Settings:
        return Settings.load(self.config)

    @property
    def api(self) -> Api:
        return self.plane.api

    def push(self, files: dict[str, str | None], subject: str = "Change", trailer: str = "") -> str:
        """Commit these files (None removes one). Returns the commit."""
        for name, text in files.items():
            path = self.repository / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self._git("add", "-A")
        message = f"{subject}\n\n{trailer}" if trailer else subject
        self._git("commit", "-q", "-m", message)
        return self._git("rev-parse", "HEAD")

    def sync(self, seconds: float = 30) -> Document:
        """Passes until all is in sync, or nothing moves any more. The status."""
        return sync(self.settings, seconds, lambda _: None)

    def plan(self) -> Document:
        """What would be done next, of this target."""
        found = preview(self.settings, None, None, lambda _: None)
        target: Document = plan_document(found.status, found.plans)["targets"][0]
        return target

    def changes(self) -> dict[str, str]:
        """Of the plan: what happens to which object, by kind and name."""
        return {f"{one['kind']}/{one['name']}": one["change"] for one in self.plan()["objects"]}

    def writes(self) -> list[str]:
        """What we wrote since the last call: verb, resource and name; leases are left out."""
        requests = [each for each in self.plane.requests() if each.user_agent.startswith("reconciler")]
        written = [each for each in requests if each.writes or each.dry_run]
        return [f"{each.verb} {each.resource}/{each.name}" for each in written if each.resource != "leases"]

    def _git(self, *arguments: str) -> str:
        # Not as a hook or `git bisect` has it: GIT_DIR would make it another repository's.
        return git(self.repository, *arguments)


def config_map(name: str, **data: str) -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
