"""Exit codes of `plan` and `diff`, as `--help` promises them: the real command line and git, engines in name only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reconciler.report.planned import has_faults
from tests.loop.test_config_rollout import breaking
from tests.support.git_repository import Repository
from tests.support.light_rig import make_engine

ENTRY = Path(sys.executable).with_name("reconciler")
HOST = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec: {}\n"
RUNTIME = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: vllm}
spec:
  supportedModelFormats: [{name: vLLM, autoSelect: true}]
  containers:
  - name: kserve-container
    image: light:1
    command: [python, -m, vllm.entrypoints.openai.api_server]
    args: [--port=8080, --model=/mnt/models, "--served-model-name={{.Name}}"]
    resources: {requests: {cpu: 10m, memory: 16Mi}}
"""
SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: tiny}
spec:
  predictor:
    model:
      modelFormat: {name: vLLM}
      runtime: vllm
      storageUri: pvc://models/tiny
      resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: "1", memory: 1Gi}}
"""
CACHE = "apiVersion: serving.kserve.io/v1alpha1\nkind: LocalModelCache\nmetadata: {name: m}\nspec: {model: a}\n"


class Desk:
    """A repository, a host's config, and the command line that is asked about both."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "repository")
        self.config = folder / "config.yaml"
        self.models = folder / "models"
        (self.models / "tiny").mkdir(parents=True)
        (self.models / "tiny" / "config.json").write_text("{}")
        self.configure(make_engine(folder / "engine"))

    def configure(self, python: Path) -> None:
        target = {
            "name": "box",
            "paths": ["runtimes", "hosts/box"],
            "kind": "process",
            "engines": [{"image": "light:*", "python": str(python)}],
            "volumes": {"models": str(self.models)},
            "gpus": [],
        }
        whole = {
            "source": {"url": str(self.repository.path)},
            "targets": [target],
            "state_dir": str(self.config.parent / "state"),
            "web": {"listen": "127.0.0.1:0"},
        }
        self.config.write_text(yaml.safe_dump(whole))

    def commit(self, **files: str) -> None:
        places = {"host": "hosts/box/host.yaml", "vllm": "runtimes/vllm.yaml", "tiny": "hosts/box/tiny.yaml"}
        for name, text in ({"host": HOST, "vllm": RUNTIME} | files).items():
            self.repository.write(places.get(name, f"hosts/box/{name}.yaml"), text)
        self.repository.commit()

    def __call__(self, command: str) -> tuple[int, str]:
        argv = [str(ENTRY), command, "--config", str(self.config)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "plan", "diff", "said"),
    [
        ({}, 0, 0, "Nothing to do"),
        ({"tiny": SERVICE}, 0, 1, "1 create"),
        ({"tiny": SERVICE, "vllm": RUNTIME + "labels: {}\n"}, 1, 1, "runtimes/vllm.yaml:12"),
        ({"tiny": SERVICE.replace("runtime: vllm", "runtime: vlm")}, 1, 1, "not usable"),
        ({"tiny": SERVICE, "vllm": RUNTIME.replace("light:1", "other:1")}, 1, 1, "Blocked"),
        ({"more": CACHE}, 1, 0, "hosts/box/more.yaml:4"),
        ({"more": "kind: InferenceService\n  a: [\n"}, 1, 0, "hosts/box/more.yaml:2"),
    ],
)
def test_plan_exits_with_1_for_what_will_not_happen(
    desk: Desk, files: dict[str, str], plan: int, diff: int, said: str
) -> None:
    desk.commit(**files)
    code, text = desk("plan")
    assert said in text
    assert code == plan, text
    code, text = desk("diff")
    assert code == diff, text


@pytest.mark.slow
def test_plan_exits_with_1_for_rejected_arguments(desk: Desk, tmp_path: Path) -> None:
    desk.configure(breaking(tmp_path / "breaking", asked=True))
    desk.commit(tiny=SERVICE)
    code, text = desk("plan")
    assert "! default/tiny (hosts/box/tiny.yaml:1): rejected" in text
    assert "1 rejected" in text
    assert (code, desk("diff")[0]) == (1, 1)


@pytest.mark.parametrize("change", ["keep", "rejected", "blocked"])
def test_plan_with_a_service_that_is_at_fault_has_faults(change: str) -> None:
    target = {"reachable": True, "unreadable": [], "refused": [], "objects": [], "services": [{"change": "create"}]}
    assert not has_faults({"targets": [target]})
    assert has_faults({"targets": [target, target | {"services": [{"change": "none"}, {"change": change}]}]})
    assert has_faults({"targets": [target, target | {"reachable": False}]})
