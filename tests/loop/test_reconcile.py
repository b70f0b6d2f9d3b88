"""When the next pass is due, after a pass over a target that does as it likes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings, Settings
from reconciler.engines.launch import Launch
from reconciler.errors import Retryable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.loop.deletions import DeletionGuard
from reconciler.loop.host_wing import HostWing
from reconciler.loop.once import has_acted
from reconciler.loop.reconcile import Reconciler
from reconciler.loop.recorder import Recorder
from reconciler.loop.wiring import make_folder, make_history
from reconciler.model import (
    Action,
    Desired,
    Fetch,
    File,
    Observed,
    Snapshot,
    Staging,
    Start,
    Stop,
    Unreachable,
    Unstage,
)
from reconciler.report.convergence import convergence_of
from reconciler.report.status import DaemonInfo, RevisionInfo, build_status
from reconciler.state.approvals import Approvals
from reconciler.state.cordon import Cordon
from reconciler.state.suspension import HostDrain, Suspension
from reconciler.web.metrics import Metrics
from tests.support.simulation import Host
from tests.support.world import record

HOST = """
apiVersion: reconciler/v1alpha1
kind: Host
metadata: {name: box}
spec: {}
"""
RUNTIME = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: vllm, namespace: default}
spec:
  supportedModelFormats: [{name: vLLM, autoSelect: true}]
  containers:
    - name: kserve-container
      image: vllm:1
      command: [python, -m, vllm.entrypoints.openai.api_server]
      args: [--seed=1]
"""
SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: NAME, namespace: default}
spec: {predictor: {model: {runtime: vllm, modelFormat: {name: vLLM}, storageUri: "pvc://models/x"}}}
"""


class Target:
    """A simulated host. Starts of `broken`, and of digests in `refused`, fail, and files cannot be deleted."""

    name = "box"

    def __init__(self) -> None:
        self.host = Host()
        self.refused: set[str] = set()
        self.failing: set[type] = set()
        self.proven = ""
        self.away = False
        self.start_really: Callable[[], None] | None = None

    def observe(self, wanted: tuple[Desired, ...]) -> Observed | Unreachable:
        return Unreachable(self.name, self.host.now, "no route") if self.away else self.host.observe()

    def preflight(self, wanted: tuple[Desired, ...], observed: Observed) -> Observed:
        return observed

    def perform(self, action: Action) -> None:
        if isinstance(action, Start) and (action.replica.service.name == "broken" or action.digest in self.refused):
            raise Retryable("no luck")
        if isinstance(action, Start) and self.start_really and action.digest != self.proven:
            self.start_really()
        if type(action) in self.failing:
            raise Retryable("no luck")
        if isinstance(action, Unstage):
            raise Retryable("the disk is read-only")
        self.host.perform(action)

    def close(self) -> None: ...


def make_reconciler(folder: Path, drain: HostDrain | None = None) -> tuple[Reconciler, Target]:
    settings = Settings.model_validate(
        {
            "source": {"url": "/x"},
            "state_dir": str(folder / "state"),
            "targets": [
                {
                    "name": "box",
                    "paths": ["box"],
                    "engines": [{"image": "*", "python": "/usr/bin/python3"}],
                    "volumes": {"models": str(folder)},
                }
            ],
        }
    )
    make_folder(settings)
    history, target = make_history(settings), Target()
    own: HostSettings = settings.targets[0]
    recorder = Recorder("box", history, Metrics())
    suspension, cordon = Suspension(folder / "suspended.json"), Cordon(folder / "cordon.json")
    deletions = DeletionGuard(own.prune.limits, Approvals(folder / "approvals.json"), recorder)
    wing = HostWing(own, target)
    return Reconciler(own, wing, history, suspension, cordon, recorder, deletions, drain=drain), target


def snapshot(*names: str, revision: str = "a" * 40, seed: int = 1) -> Snapshot:
    texts = {
        "box/host.yaml": "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec: {}\n",
        "box/r.yaml": RUNTIME.replace("--seed=1", f"--seed={seed}"),
    }
    texts |= {f"box/{name}.yaml": SERVICE.replace("NAME", name) for name in names}
    return Snapshot(revision, tuple(File(path, f"{path} {seed}", text.encode()) for path, text in texts.items()))


def test_what_fails_does_not_hold_up_the_others(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    wanted = snapshot("broken", "fine")
    served_after = None
    for number in range(40):
        one_pass = reconciler.run_pass(wanted)
        assert one_pass.again_in is not None
        target.host.now += max(one_pass.again_in, 0.02)
        if served_after is None and target.host.serving("fine"):
            served_after = (number, target.host.now)
    reconciler.close()
    assert served_after is not None
    # Preflight and start take 3 simulated seconds.
    assert served_after[1] < 1000 + 10
    assert one_pass.again_in == 30.0


def test_target_that_is_away_keeps_when_it_was_last_reached(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    reconciler.run_pass(snapshot("fine"))
    reached = reconciler.report.reached_at
    assert reached == target.host.now
    target.away = True
    target.host.now += 60
    for _ in range(2):
        reconciler.run_pass(snapshot("fine"))
        assert reconciler.report.reached_at == reached
    reconciler.fail("a bug", 0.1)
    reconciler.close()
    assert reconciler.report.reached_at == reached


def test_failed_start_is_not_tried_sooner_by_a_new_daemon(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    for _ in range(30):
        one_pass = reconciler.run_pass(snapshot("broken"))
        target.host.now += max(one_pass.again_in or 0, 0.02)
    (before,) = reconciler.failures.now()
    reconciler.close()
    again, other = make_reconciler(tmp_path)
    other.host = target.host
    assert again.failures.now() == (before,)
    target.host.now = before.at + 1
    assert not again.run_pass(snapshot("broken")).plan.actions
    again.retry("default/broken")
    assert [type(action) for action in again.run_pass(snapshot("broken")).plan.actions] == [Start]
    again.close()


@pytest.mark.parametrize("blamed", [True, False], ids=["variable_of_200_kB", "interpreter_gone"])
def test_rollout_whose_process_cannot_be_started_brings_the_last_good_back(tmp_path: Path, blamed: bool):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    target.host.ports = 1
    gone = tmp_path / "python"
    gone.symlink_to(tmp_path / "its-base-is-gone")
    supervisor = ProcessSupervisor(Inventory(tmp_path / "real"), Gpus(()))
    words = (sys.executable,) if blamed else (str(gone),)
    launch = Launch(words, {"BUNDLE": "x" * 200_000} if blamed else {}, str(tmp_path / "tmp"))
    while not target.host.owned or not next(iter(target.host.owned.values())).promoted:
        one_pass = reconciler.run_pass(snapshot("fine"))
        target.host.now += max(one_pass.again_in or 0, 0.02)
    (good,) = (one.digest for one in target.host.replicas.values())
    target.proven, target.start_really = good, lambda: supervisor.start(record(), launch)
    newer, until = snapshot("fine", seed=2, revision="2" * 40), target.host.now + 40
    down = 0.0
    while target.host.now < until:
        one_pass = reconciler.run_pass(newer)
        pause = max(one_pass.again_in or 0, 0.02)
        target.host.now += pause
        down += 0 if target.host.serving("fine") else pause
    assert [one.digest for one in target.host.serving("fine")] == [good]
    # Preflight does not count; drain, the failed start, and the start of the last good one do.
    assert down < 12
    (failure,) = reconciler.failures.now()
    assert failure.tries == 1
    assert ("BUNDLE" if blamed else "engines[].python") in failure.error
    (verdict,) = one_pass.plan.verdicts.values()
    assert bool(verdict.rejected) == blamed
    assert bool(verdict.blocked) != blamed
    reconciler.close()


def test_stop_that_always_fails_becomes_a_fault_that_ends_a_sync(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    wanted = snapshot("fine")
    while not target.host.serving("fine"):
        one_pass = reconciler.run_pass(wanted)
        target.host.now += max(one_pass.again_in or 0, 0.02)
    target.failing = {Stop}
    for _ in range(200):
        one_pass = reconciler.run_pass(snapshot(revision="b" * 40))
        target.host.now += max(one_pass.again_in or 0, 0.02)
        status = build_status(
            revision=RevisionInfo("b" * 40), targets=[reconciler.report], daemon=DaemonInfo("", 0.0, 1, passes=1)
        )
        if convergence_of(status).settled and not has_acted(reconciler.report):
            break
    reconciler.close()
    assert convergence_of(status).failed
    assert any("stop" in fault and "no luck" in fault for fault in convergence_of(status).faults)


def test_files_that_cannot_be_deleted_hold_up_nobody(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    target.host.staging["0" * 16] = Staging(Fetch.STAGED)
    wanted = snapshot("fine")
    while not target.host.owned or not next(iter(target.host.owned.values())).promoted:
        one_pass = reconciler.run_pass(wanted)
        assert one_pass.again_in is not None
        target.host.now += max(one_pass.again_in, 0.02)
    reconciler.close()
    assert one_pass.plan.verdicts
    assert {verdict.health.reason.code for verdict in one_pass.plan.verdicts.values()} <= {"Progressing", "Serving"}
    # Preflight, start and trust take 33 simulated seconds.
    assert target.host.now < 1000 + 36


def test_pass_that_did_something_is_soon_followed_by_one_that_sees_it(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    for wanted in (snapshot("fine"), snapshot(revision="b" * 40)):
        one_pass = reconciler.run_pass(wanted)
        while one_pass.again_in is not None:
            target.host.now += max(one_pass.again_in, 0.02)
            one_pass = reconciler.run_pass(wanted)
        assert reconciler.report.applied == wanted.revision
    assert not target.host.replicas
    reconciler.close()


def test_promoted_digest_that_cannot_start_delays_no_other_service(tmp_path: Path):
    (tmp_path / "x").mkdir()
    reconciler, target = make_reconciler(tmp_path)
    for seed in (1, 2):
        before = target.host.now
        while not (served := target.host.serving("fine")) or served[0].digest in target.refused:
            one_pass = reconciler.run_pass(snapshot("fine", seed=seed, revision=str(seed) * 40))
            target.host.now += max(one_pass.again_in or 0, 0.02)
        for _ in range(200 if seed == 1 else 0):
            one_pass = reconciler.run_pass(snapshot("fine", revision="1" * 40))
            target.host.now += max(one_pass.again_in or 0, 0.02)
        target.refused.add(served[0].digest)
        if seed == 1:
            target.host.restart()
    reconciler.close()
    # Less than `ready_timeout` by far.
    assert target.host.now - before < 60
