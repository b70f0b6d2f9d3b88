"""A preflight as a Job: what it is, what its log says, and what is no verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.preflight_job import (
    PREFLIGHT,
    JobOutcome,
    JobSettings,
    PreflightRequest,
    TooLargeToAsk,
    absent_folders,
    job_name,
    job_of,
    read_job,
)
from reconciler.config.settings import EngineSettings
from reconciler.engines.launch import PreflightQuestion, question
from reconciler.model import EffectiveSpec, Origin, ReasonCode
from tests.support.arguments import written, written_in

LINE = Origin("tiny.yaml", 1)
SETTINGS = JobSettings()
IN_IMAGE = EngineSettings(image="*", podman=True)


def asked(*args: str, python: str = "python3", files: dict[str, bytes] | None = None, **parts: Any) -> PreflightRequest:
    arguments = written_in("tiny.yaml", 10, ["--model=/mnt/models", *args])
    spec = EffectiveSpec(
        "vllm/vllm-openai:v0.20.0", written(python, "-m", "vllm.entrypoints.openai.api_server"), arguments
    )
    found = replace(question(spec, IN_IMAGE, {}, "/tmp/home", mounted=True), files=files or {})
    return replace(PreflightRequest(found, "default", spec.image, {}, ("/mnt/models",)), **parts)


def container(of: PreflightRequest) -> dict[str, Any]:
    (found,) = job_of(of, SETTINGS)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def run(of: PreflightRequest, tmp_path: Path) -> str:
    """The log of its container, run here."""
    own = container(of)
    env = {each["name"]: each["value"].replace("$$(", "$(") for each in own["env"]}
    env |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        own["command"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, cwd="/", check=False
    )
    return done.stdout.decode()


def job(of: PreflightRequest, **condition: str) -> dict[str, Any]:
    """As the API server shows it, with one condition: `Complete=""` or `Failed="DeadlineExceeded"`."""
    made = job_of(of, SETTINGS)
    conditions = [{"type": kind, "status": "True", "reason": why} for kind, why in condition.items()]
    return {**made, "status": {"conditions": conditions}}


def pod(state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    own = [{"name": "preflight", "state": state}] if state else []
    return {"metadata": {"creationTimestamp": "2026"}, "status": {"containerStatuses": own, **status}}


# ---------------------------------------------------------------- the Job


def test_a_job_has_no_gpu_no_token_and_no_rights() -> None:
    made = job_of(asked("--dtype=auto"), SETTINGS)
    template = made["spec"]["template"]["spec"]
    (own,) = template["containers"]
    assert made["spec"]["backoffLimit"] == 0
    assert made["spec"]["activeDeadlineSeconds"] == 900
    assert made["spec"]["ttlSecondsAfterFinished"] == 3600
    assert template["automountServiceAccountToken"] is False
    assert template["securityContext"]["runAsNonRoot"] is True
    assert own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(own["resources"]["limits"]) == {"memory"}
    assert own["image"] == "vllm/vllm-openai:v0.20.0"


def test_openshift_chooses_the_user_itself() -> None:
    template = job_of(asked(), replace(SETTINGS, user=None))["spec"]["template"]["spec"]
    assert "runAsUser" not in template["securityContext"]


def test_its_image_is_pulled_as_the_services_is() -> None:
    secrets = [{"name": "registry"}]
    template = job_of(asked(pod={"imagePullSecrets": secrets, "nodeSelector": {"gpu": "h100"}}), SETTINGS)
    assert template["spec"]["template"]["spec"]["imagePullSecrets"] == secrets
    assert "nodeSelector" not in template["spec"]["template"]["spec"]


def test_equal_questions_share_a_job_and_others_do_not() -> None:
    one = asked("--dtype=auto")
    others = [
        asked("--dtype=half"),
        replace(one, image="vllm/vllm-openai:v0.21.0"),
        replace(one, absent=()),
        asked("--dtype=auto", files={"/etc/x": b"1"}),
    ]
    assert asked("--dtype=auto").key == one.key
    assert len({one.key, *(each.key for each in others)}) == 5
    assert len(job_name(one.key)) <= 63


def test_a_question_that_no_argument_holds_is_refused_with_its_size() -> None:
    large = asked(files={"/etc/x": os.urandom(1 << 20)})
    with pytest.raises(TooLargeToAsk, match="and an argument takes 131,071"):
        job_of(large, SETTINGS)


def test_folders_that_git_fills_are_there() -> None:
    mounts = {"volumeMounts": [{"mountPath": "/etc/vllm"}, {"mountPath": "/data"}]}
    assert absent_folders(mounts, ["/etc/vllm/config.yaml"]) == ("/mnt/models", "/data")


# ---------------------------------------------------------------- the answer


def test_an_image_without_vllm_is_no_verdict(tmp_path: Path) -> None:
    mine = asked(python=sys.executable)
    reading = read_job(job(mine, Complete=""), [], run(mine, tmp_path))
    assert reading.verdict is None
    assert "has no vLLM" in reading.trouble


_ENDED = job(asked(), Complete="")


@given(st.text(max_size=200), st.text(max_size=30))
def test_what_others_write_to_the_log_is_no_verdict(before: str, forged: str) -> None:
    log = f"{before}\nreconciler-preflight-answer:{_ENDED['metadata']['labels'][PREFLIGHT]}:{forged}"
    reading = read_job(_ENDED, [], log)
    assert reading.verdict is None
    assert reading.trouble


def test_a_job_that_runs_is_waited_for() -> None:
    assert read_job(job(asked()), [pod({"running": {}})], "") == JobOutcome(waits="runs")
    assert read_job(job(asked()), [], "") == JobOutcome(waits="has no pod yet")


PULL = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
UNPLACED = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
QUOTA = {"reason": "FailedCreate", "message": "exceeded quota: team"}


@pytest.mark.parametrize(
    ("pods", "events", "text"),
    [
        ([pod(PULL)], [], "its image cannot be pulled (ImagePullBackOff): not found"),
        ([pod(conditions=UNPLACED)], [], "no node takes its pod: 0/3 nodes are available"),
        ([], [QUOTA], "its pod cannot be created: exceeded quota: team"),
        ([pod({"waiting": {"reason": "CreateContainerConfigError"}})], [], "(CreateContainerConfigError)"),
    ],
)
def test_what_keeps_a_job_from_running_is_said_at_once_and_at_its_end(
    pods: list[Any], events: list[Any], text: str
) -> None:
    waiting = read_job(job(asked()), pods, "", events)
    late = read_job(job(asked(), Failed="DeadlineExceeded"), pods, "", events)
    assert text in waiting.waits
    assert not waiting.trouble
    assert late.trouble == f"it has not answered within 900 s: {waiting.waits}"


@pytest.mark.parametrize(
    ("pods", "log", "text"),
    [
        ([pod({"terminated": {"reason": "OOMKilled", "exitCode": 137}})], "", "it was killed for memory"),
        ([pod({"terminated": {"exitCode": 1}})], "Traceback\nImportError: no libcuda", "it ended with 1 and no answer"),
        ([], "", "nothing is known of its pod any more"),
        ([pod(reason="Evicted", message="disk")], "", "its pod was evicted: disk"),
    ],
)
def test_a_job_that_failed_says_how(pods: list[Any], log: str, text: str) -> None:
    reading = read_job(job(asked(), Failed="BackoffLimitExceeded"), pods, log)
    assert reading.verdict is None
    assert text in reading.trouble


# ---------------------------------------------------------------- with the real engine


@pytest.fixture(scope="module")
def read(
    engine_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[JobOutcome, PreflightQuestion]]:
    def read(*args: str) -> tuple[JobOutcome, PreflightQuestion]:
        mine = asked(*args, python=str(engine_python))
        return read_job(job(mine, Complete=""), [], run(mine, tmp_path_factory.mktemp("job"))), mine.question

    return read


@pytest.mark.engine
def test_arguments_are_accepted_without_the_model_they_name(read: Callable[..., Any]) -> None:
    reading, _ = read("--max-model-len=32k", "--chat-template=/mnt/models/chat.jinja")
    assert reading.trouble == ""
    assert reading.verdict.errors == ()
    assert json.loads(reading.verdict.parsed)["max_model_len"] == 32000


@pytest.mark.engine
def test_a_wrong_argument_is_rejected_at_its_line(read: Callable[..., Any]) -> None:
    reading, mine = read("--max-modle-len=8", "--dtype=float99", "--chat-template=/etc/chat.jinja")
    reasons = reading.verdict.about(mine, LINE).reasons
    assert [each.origin for each in reasons] == [Origin("tiny.yaml", 11), Origin("tiny.yaml", 12)]
    assert all(each.code is ReasonCode.INVALID_ARGUMENT for each in reasons)
    assert "did you mean --max-model-len?" in reasons[0].message
