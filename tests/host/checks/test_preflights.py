"""The verdicts that a host keeps are those of a preflight that reads everything again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler.config.settings import HostSettings as Settings
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import key_of
from reconciler.engines.verdict import PreflightVerdict
from reconciler.errors import Retryable
from reconciler.host.checks.fits import Fits
from reconciler.host.checks.preflights import running_digests
from reconciler.host.staging import state as states
from reconciler.host.target import HostTarget
from reconciler.model import (
    AskPreflight,
    Desired,
    EffectiveSpec,
    Fit,
    Mount,
    Observed,
    Origin,
    Outdated,
    Preflight,
    Promote,
    Promoted,
    ServiceId,
)
from reconciler.model.model_sources import key_of as key_of_model
from tests.host.doctor.test_doctor import make_engine
from tests.support.arguments import written, written_in
from tests.support.simulation import Host, state, wanted

ARGS = ("serve", "/mnt/models/deep", "--max-model-len=1")
SPEC = EffectiveSpec("standin:1", (), written(*ARGS), mounts=(Mount("pvc://disk/m"),))
FETCHED = replace(SPEC, mounts=(Mount("s3://bucket/m"),))


class Disk:
    """A host's engine, its volume, and a model that it fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = make_engine(folder / "engine")
        self.settings = Settings.model_validate(
            {
                "name": "box",
                "paths": ["box"],
                "engines": [{"image": "*", "python": str(self.python)}],
                "volumes": {"disk": str(folder / "disk")},
                "gpus": [],
            }
        )
        self.wanted = tuple(
            Desired(ServiceId("default", name), Origin("box/a.yaml", 1), spec, name * 8)
            for name, spec in (("volume", SPEC), ("fetched", FETCHED))
        )
        self.model, self.models = folder / "disk" / "m", folder / "state" / "models"
        self.staged = self.models / key_of_model("default", FETCHED.mounts[0])
        self.fill("first")
        self.fetch("first")

    def target(self) -> HostTarget:
        return HostTarget(self.settings, self.folder / "state", lambda: None)

    def look(self, target: HostTarget) -> dict[str, Preflight]:
        seen = target.observe(self.wanted)
        assert isinstance(seen, Observed), seen
        seen = target.preflight(self.wanted, seen)
        assert isinstance(seen, Observed), seen
        return dict(seen.preflights)

    def judge(self) -> None:
        """The engine accepts whatever is wanted now, and says which question it answered."""
        target = self.target()
        for want in self.wanted:
            assert want.spec is not None
            try:
                key = key_of(target._workloads.question(want.id, want.spec))
            except Exception:
                continue
            verdict = {"parsed": key, "gpus": 0, "errors": [], "warnings": []}
            (self.folder / "state" / "preflight").mkdir(parents=True, exist_ok=True)
            (self.folder / "state" / "preflight" / f"{key}.json").write_text(json.dumps(verdict))
        target.close()

    # ------------------------------------------------------------ what may happen

    def fill(self, text: str) -> None:
        write_model(self.model, text)

    def remove(self, _: str) -> None:
        shutil.rmtree(self.model, ignore_errors=True)

    def cut(self, _: str) -> None:
        (self.model / "deep" / "config.json").unlink(missing_ok=True)

    def add_weights(self, text: str) -> None:
        self.model.mkdir(parents=True, exist_ok=True)
        (self.model / f"{text}.safetensors").write_text(text)

    def fetch(self, text: str) -> None:
        write_model(self.staged / text, text)
        states.write_state(self.staged, states.State(states.STAGED, content=text))

    def fetch_anew(self, _: str) -> None:
        states.write_state(self.staged, states.State(states.RUNNING))

    def lose(self, _: str) -> None:
        shutil.rmtree(self.staged, ignore_errors=True)
        self.staged.mkdir(parents=True)

    def install(self, text: str) -> None:
        packages = next((self.folder / "engine").glob("lib/python3*/site-packages"))
        for known in packages.glob("vllm-*.dist-info"):
            known.rename(packages / f"vllm-{text}.dist-info")


def write_model(folder: Path, text: str) -> None:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "deep"):
        (place / "config.json").write_text(json.dumps({"is": text}))


EVENTS: list[Callable[[Disk, str], None]] = [
    Disk.fill,
    Disk.remove,
    Disk.cut,
    Disk.add_weights,
    Disk.fetch,
    Disk.fetch_anew,
    Disk.lose,
    Disk.install,
]


def test_verdict_holds_while_nothing_changes_and_no_longer(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.judge()
    target = disk.target()
    first = disk.look(target)
    assert set(first) == {want.digest for want in disk.wanted}
    assert disk.look(target) == first
    settle()
    disk.fill("other")
    assert set(disk.look(target)) == {disk.wanted[1].digest}
    disk.judge()
    assert disk.look(target)[disk.wanted[0].digest].parsed != first[disk.wanted[0].digest].parsed
    target.close()


def test_bug_in_judging_one_service_is_told_of_that_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path)
    disk.judge()
    target, (one, other) = disk.target(), disk.wanted
    whole, judge = disk.look(target), Fits.of

    def stumble(self: Fits, key: str, asked: PreflightQuestion, spec: EffectiveSpec, verdict: PreflightVerdict) -> Fit:
        if spec == SPEC:
            raise IndexError("list index out of range")
        return judge(self, key, asked, spec, verdict)

    monkeypatch.setattr(Fits, "of", stumble)
    assert one.spec is not None
    ask = AskPreflight(one.id, one.digest, one.spec, one.origin, "test")
    with capture_logs() as logs:
        for _ in range(2):
            assert disk.look(target) == {other.digest: whole[other.digest]}, "and the one is not refused"
            with pytest.raises(Retryable, match="unexpected IndexError; the daemon"):
                target.perform(ask)
    assert [each["subject"] for each in logs if each["event"] == "fault_isolated"] == [f"{one.id} {one.digest}"]
    monkeypatch.undo()
    assert disk.look(target) == whole
    target.perform(ask)
    target.close()


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["first", "other"])), min_size=1, max_size=6))
def test_what_is_remembered_is_what_would_be_said_anew(events: list[tuple[Callable[[Disk, str], None], str]]) -> None:
    with TemporaryDirectory() as name:
        disk = Disk(Path(name))
        disk.judge()
        target = disk.target()
        for happen, text in events:
            settle()
            happen(disk, text)
            fresh = disk.target()
            assert disk.look(target) == disk.look(fresh), happen.__name__
            disk.judge()
            assert disk.look(target) == disk.look(fresh), happen.__name__
            fresh.close()
        target.close()


def settle() -> None:
    """A file's time moves on with the kernel's clock, a few milliseconds at a time."""
    time.sleep(0.01)


# ---------------------------------------------------------------- what is kept


def kept(disk: Disk) -> dict[str, int]:
    return {name: len([*(disk.folder / "state" / name).glob("*.json")]) for name in ("preflight", "fit")}


def litter(disk: Disk) -> None:
    for name in ("preflight/" + "0" * 32, "preflight/" + "1" * 32 + ".lacks", "fit/" + "2" * 32):
        path = disk.folder / "state" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_verdicts_that_nothing_needs_are_deleted(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.judge()
    litter(disk)
    target = disk.target()
    disk.look(target)
    assert kept(disk) == {"preflight": 3, "fit": 1}, "whoever only looks deletes nothing"
    target.lock()
    assert len(disk.look(target)) == 2, "both ask the same"
    assert kept(disk) == {"preflight": 1, "fit": 0}
    disk.wanted = ()
    disk.look(target)
    assert kept(disk) == {"preflight": 0, "fit": 0}
    target.close()


def test_complaint_follows_its_argument_to_another_line(tmp_path: Path) -> None:
    """Where a comment was written above it, the service is equal to the one before."""
    disk = Disk(tmp_path)
    target, old = disk.target(), disk.wanted[0]
    key = key_of(target._workloads.question(old.id, SPEC))
    said = {"parsed": key, "gpus": 0, "errors": [{"message": "unknown", "index": 0}], "warnings": []}
    (disk.folder / "state" / "preflight").mkdir(parents=True)
    (disk.folder / "state" / "preflight" / f"{key}.json").write_text(json.dumps(said))
    for line in (7, 8):
        disk.wanted = (replace(old, spec=replace(SPEC, args=written_in("box/a.yaml", line, ARGS))),)
        assert disk.wanted[0] == old
        (reason,) = disk.look(target)[old.digest].reasons
        assert reason.origin == Origin("box/a.yaml", line + 1), "the model behind `serve`"
    target.close()


def test_refusals_are_forgotten_with_what_they_were_about(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.remove("")
    target, one = disk.target(), disk.wanted[0]
    assert one.spec is not None
    target.perform(AskPreflight(one.id, one.digest, one.spec, one.origin, "test"))
    assert [each.code for each in disk.look(target)[one.digest].reasons] == ["ModelNotFound"]
    disk.wanted = (replace(one, digest="another", spec=FETCHED),)
    disk.look(target)
    assert not target._preflights._refused
    target.close()


def test_verdict_of_what_is_promoted_is_kept_until_its_successor_is(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.judge()
    target, (old, _) = disk.target(), disk.wanted
    target.lock()
    assert old.spec is not None
    target.perform(Promote(old.id, Promoted(old.digest, old.spec, 1, old.origin, "1" * 40, 1.0), "test"))
    new = replace(old, spec=replace(old.spec, args=written(*ARGS, "--seed=1")), digest="new")
    for wishes, count in (((old,), 1), ((new,), 1), ((), 1)):
        disk.wanted = wishes
        disk.look(target)
        assert kept(disk)["preflight"] == count
    assert new.spec is not None
    target.perform(Promote(new.id, Promoted(new.digest, new.spec, 1, new.origin, "1" * 40, 1.0), "test"))
    disk.look(target)
    assert kept(disk)["preflight"] == 0
    target.close()


def test_pass_without_changes_looks_into_no_folder_of_verdicts(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.judge()
    target = disk.target()
    target.lock()
    disk.look(target)
    litter(disk)
    disk.look(target)
    assert kept(disk) == {"preflight": 3, "fit": 1}
    target.close()


def test_outdated_digest_that_runs_is_checked_like_one_that_does_not():
    host = Host()
    want = wanted("a", "good1")
    host.converge(state(want))
    seen = host.observe()
    assert running_digests((want,), seen) == {want.digest}
    assert not running_digests((replace(want, replicas=2),), seen), "one of two is missing"
    outdated = {(want.id, want.digest): Outdated((("engines[].python", "/b"),), restorable=True)}
    assert not running_digests((want,), replace(seen, outdated=outdated))
