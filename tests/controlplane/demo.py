"""The story of a cluster, told on the control plane of the tests: applied, refused, rolled back, drained and deleted.

usage: python -m tests.controlplane.demo [--once]

The API server is real, and so are Deployments, scheduling and the daemon. KServe's controller and the kubelet are
played: no container runs, and no model answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from reconciler.config.settings import Settings
from reconciler.demo.narrator import Narrator
from reconciler.web.client import DaemonClient, NoDaemon
from tests.controlplane.control_plane import ControlPlane, find_programs
from tests.controlplane.kserve.installation import KServe
from tests.controlplane.nodes import make_node
from tests.support.ports import free_port

Document = dict[str, Any]
ROOT = Path(__file__).parents[2]
SERVICE = "default/chat"
RUNTIME: Document = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "vllm"},
    "spec": {
        "supportedModelFormats": [{"name": "vLLM"}],
        "containers": [
            {
                "name": "kserve-container",
                "image": "vllm/vllm-openai:v0.32.0",
                "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
                "args": ["--port=8080", "--model=/mnt/models", "--served-model-name={{.Name}}"],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            }
        ],
    },
}
CLUSTER = {"apiVersion": "reconciler/v1alpha1", "kind": "Cluster", "metadata": {"name": "prod"}}
_LONGEST = 120.0


class Failed(Exception):
    """Something was not as promised."""


def service(*args: str, outcome: str = "", replicas: object = 1) -> Document:
    """The model of the story."""
    model = {
        "modelFormat": {"name": "vLLM"},
        "runtime": "vllm",
        "args": list(args),
        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "1", "memory": "2Gi"}},
    }
    marks = {"annotations": {"fake-kubelet/outcome": outcome}} if outcome else {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "chat", "annotations": {"serving.kserve.io/autoscalerClass": "none"}},
        "spec": {"predictor": {"minReplicas": replicas, **marks, "model": model}},
    }


class Story:
    """One repository, one daemon, one cluster with one GPU to spare."""

    def __init__(self, folder: Path, plane: ControlPlane, say: Narrator) -> None:
        self.repository, self.say, self.plane, self.folder = folder / "git", say, plane, folder
        self.repository.mkdir()
        self._git("init", "-q", "-b", "main")
        self.config = folder / "config.yaml"
        target = {
            "name": "prod",
            "kind": "kubernetes",
            "paths": ["prod"],
            "kubeconfig": str(plane.kubeconfig),
            # Impatient, so that a demo does not take long: 30 s are better where it matters.
            "rollout": {"min_ready": "2s"},
        }
        listen = f"127.0.0.1:{free_port()}"
        self.page = f"http://{listen}"
        settings = {
            "source": {"url": str(self.repository), "branch": "main", "interval": "1s"},
            "state_dir": str(folder / "state"),
            "web": {"listen": listen, "url": self.page},
            "targets": [target],
        }
        self.config.write_text(yaml.safe_dump(settings))
        self.daemon: subprocess.Popen[bytes] | None = None

    def tell(self) -> None:
        self._applied()
        self._nothing_to_do()
        self._refused()
        self._rolled_back()
        self._deleted()

    def _applied(self) -> None:
        self.say.act("A commit becomes objects on the cluster")
        files = {"prod/cluster.yaml": CLUSTER, "prod/runtime.yaml": RUNTIME, "prod/chat.yaml": service("--seed=1")}
        revision = self.push("Serve chat", files)
        self._start()
        self.say.tell(f"the daemon runs; its page: {self.page} (open it now: each step below moves there as well)")
        self.wait("the service to be promoted", lambda status: _is_applied(status, revision))
        self.say.tell(f"{SERVICE} is {self._now()['health']['status']}, {self._now()['ready']} ready")

    def _nothing_to_do(self) -> None:
        self.say.act("Passes with nothing to do write nothing")
        self.plane.requests()
        self.ask("sync")
        self.ask("sync")
        written = [each for each in self.plane.requests() if each.user_agent.startswith("reconciler")]
        written = [each for each in written if (each.writes or each.dry_run) and each.resource != "leases"]
        self.say.tell(f"{len(written)} writes and dry runs, by the API server's audit log")
        if written:
            raise Failed(f"it wrote {written}")

    def _refused(self) -> None:
        self.say.act("A commit that KServe would not take is refused, at its line")
        revision = self.push("Ask for many", {"prod/chat.yaml": service("--seed=2", replicas="many")})
        self.wait("the commit to be refused", lambda status: _problem(status, revision))
        problem = self._now()["problems"][0]
        self.say.tell(f"refused: {problem['file']}:{problem['line']}: {problem['message']}")
        if self._now()["ready"] != "1/1":
            raise Failed("what served has to go on serving")

    def _rolled_back(self) -> None:
        self.say.act("A commit whose pods crash is rolled back, and not tried again")
        revision = self.push("Crash", {"prod/chat.yaml": service("--seed=3", outcome="crash")})
        self.wait("the last good version to be back", lambda status: _is_rolled_back(status, revision))
        rejected = self._now()["rejected"]
        self.say.tell(f"rejected {rejected['digest'][7:15]}: {rejected['reason']}")
        self.say.tell(f"live: {self._now()['liveDigest'][7:15]}, {self._now()['ready']} ready")

    def _deleted(self) -> None:
        self.say.act("What git drops is stopped, drained and deleted")
        revision = self.push("Remove chat", {"prod/chat.yaml": None})
        self.wait("the service to be gone", lambda status: _is_applied(status, revision))
        self.say.tell("git and the cluster agree")

    # ------------------------------------------------------------ means

    def push(self, subject: str, files: dict[str, Document | None]) -> str:
        """Commit these documents; None removes one. Returns the commit."""
        for name, document in files.items():
            path = self.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if document is None:
                path.unlink()
            else:
                path.write_text(yaml.safe_dump(document, sort_keys=False))
        self._git("add", "-A")
        self._git("-c", "user.name=demo", "-c", "user.email=demo@example.com", "commit", "-q", "-m", subject)
        self.say.tell(f"git push: {subject}")
        return self._git("rev-parse", "HEAD")

    def wait(self, what: str, is_so: Callable[[Document], object]) -> None:
        """Raises Failed when it does not become so."""
        deadline = time.monotonic() + _LONGEST
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None:
                if is_so(status):
                    return
                services = status["targets"][0]["services"]
                self.say.progress("; ".join(one["step"] for one in services if one["step"])[:160])
            time.sleep(0.2)
        raise Failed(f"no end of waiting for {what}:\n{json.dumps(self.status(), indent=1)}\n{self._log()}")

    def status(self) -> Document | None:
        with suppress(NoDaemon, OSError):
            return DaemonClient(Settings.load(self.config).socket_path, timeout=5).status()
        return None

    def ask(self, *arguments: str) -> None:
        argv = [sys.executable, "-m", "reconciler", *arguments, "--config", str(self.config)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, cwd=ROOT)

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(30)

    def _start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            argv = [sys.executable, "-m", "reconciler", "run", "--config", str(self.config)]
            self.daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)

    def _now(self) -> Document:
        status = self.status()
        if status is None:
            raise Failed(f"the daemon ended:\n{self._log()}")
        found: Document = status["targets"][0]["services"][0]
        return found

    def _log(self) -> str:
        return "\n".join((self.folder / "daemon.log").read_text(errors="replace").splitlines()[-40:])

    def _git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.repository), *arguments]
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.strip()


def _is_applied(status: Document, revision: str) -> bool:
    found = status["targets"][0]["revision"]
    return bool(found["applied"] == revision and found["fullyApplied"])


def _problem(status: Document, revision: str) -> bool:
    services = status["targets"][0]["services"]
    return bool(status["revision"]["desired"] == revision and services and services[0]["problems"])


def _is_rolled_back(status: Document, revision: str) -> bool:
    services = status["targets"][0]["services"]
    if status["revision"]["desired"] != revision or not services or not services[0]["rejected"]:
        return False
    one = services[0]
    return bool(one["health"]["status"] == "Healthy" and one["ready"] == "1/1" and one["liveDigest"] != one["digest"])


def main() -> int:
    say = Narrator(sys.stdout)
    say.act("A Kubernetes control plane, with one node of two GPUs")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-cluster-demo-")))
        plane = ControlPlane(folder / "plane", find_programs())
        stack.callback(plane.close)
        for name in ("default", "reconciler"):
            with suppress(Exception):
                plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        plane.api.create(make_node("gpu-1", 2))
        stack.enter_context(KServe(plane))
        say.tell(f"it runs; KUBECONFIG={plane.kubeconfig}")
        story = Story(folder, plane, say)
        stack.callback(story.close)
        try:
            story.tell()
        except Failed as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        say.act(f"Everything as promised, in {say.elapsed:.0f} s")
        if "--once" not in sys.argv:
            say.tell("it goes on until Ctrl-C")
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
