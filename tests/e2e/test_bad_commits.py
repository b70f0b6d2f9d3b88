"""A bad commit cannot take down what works: it is rejected or rolled back, quarantined, and explained."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

TINY = "demo/tiny.yaml"


@dataclass(frozen=True)
class Mistake:
    """One line of the demo's service made wrong, and the message about it."""

    pattern: str
    replacement: str
    says: str


MISTAKES = {
    "an_unknown_flag": Mistake(r"--max-num-seqs=\d+", "--max-num-seq=8", "--max-num-seqs"),
    "a_bad_value": Mistake(r"--max-num-seqs=\d+", "--max-num-seqs=many", "max-num-seqs"),
    "a_model_that_is_too_short": Mistake(r"--max-model-len=256", "--max-model-len=99999", "max_model_len"),
    "missing_weights": Mistake(r"pvc://models/tiny", "pvc://models/nowhere", "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_rejected_before_anything_is_touched(rig: Rig, mistake: Mistake):
    before = rig.pids()
    with rig.load(streams=1, posts=1) as load:
        line = rig.edit(TINY, mistake.pattern, mistake.replacement)
        rejected = rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
        time.sleep(1)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert rig.pids() == before
    assert mistake.says in rejected["reason"]
    place = f"{rejected['file']}:{rejected['line']}"
    if mistake.pattern.startswith("--"):
        assert line.startswith(place), (place, line)
    assert rejected["file"] == TINY
    assert place in rig.ask("sync", expect=1).stderr
    assert place in rig.ask("status", expect=1).stdout
    rig.repository.revert()
    rig.converge()
    assert rig.pids() == before
    assert rig.service()["rejected"] is None


def install_engine(rig: Rig, version: str, text: str) -> None:
    """A second engine for images of this version: an interpreter that misbehaves while it starts."""
    script = rig.folder / f"python-{version}"
    script.write_text(f"#!/bin/bash\n{text.format(python=rig.python)}\n")
    script.chmod(0o755)
    config = rig.config.read_text()
    engine = f"  - image: vllm/vllm-openai-cpu:{version}\n    python: {script}\n"
    rig.config.write_text(config.replace("  engines:\n", "  engines:\n" + engine))


# Preflight scripts are run by the real engine; only the server misbehaves.
NEVER_READY = 'case "$*" in *api_server*) exec sleep 1000;; *) exec {python} "$@";; esac'
CRASHES = 'case "$*" in *api_server*) echo "ValueError: the kernel is missing"; exit 3;; *) exec {python} "$@";; esac'
FULL_DISK = (
    'case "$*" in *api_server*) echo "OSError: [Errno 28] No space left on device: /tmp/x"; exit 1;;'
    ' *) exec {python} "$@";; esac'
)
# Serves, answers its first real completion, and dies soon after: before it is promoted.
CRASHES_LATER = (
    'case "$*" in *api_server*) log=$(readlink /proc/$$/fd/1); {python} "$@" & child=$!;'
    " for n in $(seq 600); do sleep 0.1; grep -q 'POST /v1/completions' \"$log\" && break; done;"
    ' sleep 1; kill -9 $child; echo "CUDA error: an illegal memory access"; exit 1;; *) exec {python} "$@";; esac'
)


@pytest.mark.parametrize("memory", [64, 3], ids=["surge", "stop_first"])
@pytest.mark.parametrize(
    ("script", "code"),
    [(NEVER_READY, "ProgressDeadlineExceeded"), (CRASHES, "Crashed")],
    ids=["unready_within_its_budget", "crash_while_starting"],
)
def test_rolled_back_after_the_start(make_rig: MakeRig, script: str, code: str, memory: int):
    rig = make_rig(memory=memory, rollout={"ready_timeout": "15s"})
    install_engine(rig, "v9", script)
    rig.start()
    rig.converge()
    before = rig.pids()
    with rig.load(streams=1, posts=1) as load:
        rig.edit("runtimes/vllm-cpu.yaml", r"vllm-openai-cpu:v0.32.0", "vllm-openai-cpu:v9")
        rejected = rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
        rig.wait("the last good digest", lambda: len(rig.records()) == 1 and rig.serves())
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert rejected["code"] == code
    assert rejected["file"] == TINY
    if code == "Crashed":
        assert "the kernel is missing" in rejected["reason"]
    if memory == 64:
        assert rig.pids() == before
        assert tally.refused == 0
    rig.repository.revert()
    rig.converge()
    assert rig.serves()


@pytest.mark.parametrize("memory", [64, 3], ids=["surge", "stop_first"])
def test_full_disk_on_trial_brings_the_last_good_back_and_blames_no_commit(make_rig: MakeRig, memory: int):
    rig = make_rig(memory=memory)
    install_engine(rig, "v9", FULL_DISK)
    rig.start()
    rig.converge()
    rig.edit("runtimes/vllm-cpu.yaml", r"vllm-openai-cpu:v0.32.0", "vllm-openai-cpu:v9")
    blocked = rig.wait("the verdict", lambda: (rig.service() or {}).get("blocked"))
    assert blocked[0]["code"] == "HostFailed"
    assert "No space left on device" in blocked[0]["message"]
    rig.wait("the last good digest", lambda: len(rig.records()) == 1 and rig.serves())
    service = rig.service()
    assert service is not None
    assert service["rejected"] is None
    assert service["lastFailure"]["action"] == "trial"


def test_crash_before_promotion_goes_back_to_the_last_good_digest(make_rig: MakeRig):
    rig = make_rig(rollout={"min_ready": "6s"})
    install_engine(rig, "v9", CRASHES_LATER)
    rig.start()
    rig.converge()
    before = rig.pids()
    rig.edit("runtimes/vllm-cpu.yaml", r"vllm-openai-cpu:v0.32.0", "vllm-openai-cpu:v9")
    rejected = rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
    assert rejected["code"] == "Crashed"
    rig.wait("only the old to be left", lambda: rig.pids() == before)
    assert rig.serves()


def test_quarantined_digest_is_tried_again_only_when_asked(make_rig: MakeRig):
    rig = make_rig()
    install_engine(rig, "v9", CRASHES)
    rig.start()
    rig.converge()
    rig.edit("runtimes/vllm-cpu.yaml", r"vllm-openai-cpu:v0.32.0", "vllm-openai-cpu:v9")
    rig.wait("the rejection", lambda: (rig.service() or {}).get("rejected"))
    starts = rig.ask("history", "-o", "json").stdout.count('"replica_started"')
    rig.kill()
    rig.start()
    rig.wait("the daemon to be back", rig.service)
    time.sleep(3)
    assert rig.ask("history", "-o", "json").stdout.count('"replica_started"') == starts
    rig.ask("resume", "tiny")
    rig.wait("one more try", lambda: rig.ask("history", "-o", "json").stdout.count('"replica_started"') > starts)


def test_pair_of_the_documentation_is_blocked_with_all_its_reasons(rig: Rig):
    pair = rig.read("hosts/gpu-1/granite.yaml")
    runtime = rig.read("runtimes/vllm-runtime.yaml")
    assert "vllm-runtime" in runtime
    before = rig.pids()
    rig.write({"demo/granite.yaml": pair})
    granite = rig.wait("granite", lambda: rig.service("granite"))
    rig.wait("its reasons", lambda: (rig.service("granite") or {})["blocked"])
    reasons = [reason["message"] for reason in rig.service("granite")["blocked"]]
    assert "needs 1 nvidia.com/gpu, this host has 0" in reasons
    assert len(reasons) > 1, granite
    assert not rig.records("granite")
    assert rig.pids() == before
    assert "Blocked" in rig.ask("sync", expect=1).stderr
    assert "Blocked" in rig.ask("plan", expect=1).stdout
