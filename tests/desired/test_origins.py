"""Every finding about a tree names the line of git to blame, or says that there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reconciler.config.settings import EngineSettings, Routing
from reconciler.desired import build_desired
from reconciler.engines.launch import question
from reconciler.engines.verdict import Complaint, PreflightVerdict
from reconciler.evaluation.evaluator import Evaluated
from reconciler.evaluation.wire import dump_answers, load_answers
from reconciler.host.checks.start_checks import unusable_arguments, unusable_files
from reconciler.host.plan import make_plan
from reconciler.manifests import read_manifests
from reconciler.model import GPU_FRACTION, Desired, DesiredState, Observed, Origin, Preflight, Reason, ReasonCode
from reconciler.preview.on_host import validate_on
from reconciler.report.status_parts import TargetReport
from reconciler.secrets import SecretStore
from tests.desired.test_desired import RUNTIME, TARGET, snapshot
from tests.kserve.strategies import documents, near_misses
from tests.kserve.test_mutations import mutations
from tests.support.examples import examples
from tests.support.report_world import status_of
from tests.support.simulation import PATIENCE, Host

ENGINE = EngineSettings(image="*", python=Path("/opt/vllm/bin/python"))
BOX = TARGET.model_copy(update={"engines": (ENGINE,)})
RUNTIME_R = yaml.safe_load(RUNTIME.replace("name: vllm\n", "name: r\n"))
# What a host refuses, warns about or fails on.
ARGUMENTS = (
    *("--uds=/x", "--headless", "--ssl-cert-reqs=1", "--grpc", "--api-key=k", "--port=1", "--config=/etc/x"),
    *("--chat-template=/proc/1/environ", '--speculative-config={"model": "/run/x"}', "--lora-modules=a=b/c"),
    *("--tensor-parallel-size=8", "-tp", "9", "--data-parallel-size=4", "--gpu-memory-utilization=.99"),
    *("--model=org/name", "--x", "serve", "a\0b", "\ud800", "$(TOKEN)", "--ssl-keyfile=/mnt/models/none"),
    *("--chat-template=$(PLACE)/environ", "serve", "/mnt/models"),
)
COMMANDS = (
    *([], ["vllm", "serve"], ["python3", "-m", "vllm.entrypoints.openai.api_server"], ["/bin/sh", "-c"]),
    *(["vllm bench"], ["python3", "-c", "x"], ["python3", "-m", "vllm.entrypoints.grpc_server"], ["/mnt/models/run"]),
)
MODELS = ("file:///models/x", "pvc://claim/x", "pvc://no/x", "hf://a/b", "s3://b/k", "/proc/x", "ftp://x")
PLACE = {"name": "PLACE", "value": "/proc/1"}
VARIABLES = (
    PLACE,
    {"name": "VLLM_API_KEY", "value": "k"},
    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
    {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
)
# Why each of these blames no line: how far a service is, with what holds it up in reasons of its own.
WITHOUT_A_LINE = {
    ReasonCode.BLOCKED: "its health; the blockers beside it have their lines",
    ReasonCode.PROGRESSING: "its health",
    ReasonCode.STAGING: "its health",
    ReasonCode.SCALED_TO_ZERO: "git asks for nothing, which is no fault",
    ReasonCode.NOT_SERVING: "its health",
}
# Of these the message begins with the flag that is blamed.
OF_A_FLAG = frozenset({ReasonCode.UNSUPPORTED_ARGUMENT, ReasonCode.PATH_NOT_ALLOWED, ReasonCode.ENGINE_DOWNLOAD})


def service_of(name: str = "m", share: str = "", **model: Any) -> dict[str, Any]:
    annotations = {GPU_FRACTION: share} if share else {}
    known = {"modelFormat": {"name": "vLLM"}, "storageUri": MODELS[0]} | {
        key: each for key, each in model.items() if each
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": {"model": known}},
    }


def limits(gpus: str, memory: str = "1Gi") -> dict[str, Any]:
    return {"limits": {"nvidia.com/gpu": gpus, "memory": memory}}


@st.composite
def services(draw: st.DrawFn, name: str = "m") -> dict[str, Any]:
    """Good in all but what a host looks at."""
    return service_of(
        name,
        draw(st.sampled_from(["", "0.4", "2"])),
        storageUri=draw(st.sampled_from(MODELS)),
        args=draw(st.lists(st.sampled_from(ARGUMENTS), max_size=4)),
        command=draw(st.sampled_from(COMMANDS)),
        env=draw(st.lists(st.sampled_from(VARIABLES), unique_by=lambda each: str(each["name"]))),
        resources=draw(st.sampled_from([{}, limits("1"), limits("2"), limits("x"), limits("1", "9Ti")])),
    )


trees = st.one_of(
    services().map(lambda service: [RUNTIME_R, service]),
    st.tuples(st.just(RUNTIME_R), services(), services("n")).map(list),
    st.tuples(documents("ServingRuntime"), services()).map(list),
    near_misses().map(lambda service: [RUNTIME_R, service]),
    mutations(),
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@example([RUNTIME_R, service_of(args=["--port=1", "--uds=$(PLACE)"], env=[PLACE])], 0)
@example([RUNTIME_R, service_of("m", resources=limits("1")), service_of("n", resources=limits("1"))], 1)
@given(trees, st.integers(0, 1))
def test_every_reason_names_its_line_or_has_none(tree: list[Any], gpus: int) -> None:
    text = yaml.safe_dump_all(tree, allow_unicode=True, width=10_000)
    revision = snapshot({"hosts/box/tree.yaml": text.encode("utf-8", "replace")})
    manifests = read_manifests(revision)
    lines = {each.path: each.data.decode().splitlines() for each in revision.files}
    verdict = validate_on(manifests, BOX)
    for finding in (*verdict["errors"], *verdict["warnings"], *verdict["notChecked"]):
        assert 1 <= finding["line"] <= len(lines[finding["file"]]) + 1, finding
    desired = over_the_wire(build_desired(manifests, BOX, revision))
    seen = Host(gpus=gpus, proxy=True).observe()
    accepted = replace(seen, preflights={service.digest: Preflight("p") for service in desired.services})
    for observed in (seen, accepted, with_checks(desired, seen)):
        plan = make_plan(desired, observed, Host().holds(desired), PATIENCE)
        for reason in reasons_in((desired, observed, plan)):
            check(reason, lines)
        report = TargetReport(desired=desired, observed=observed, plan=plan, routing=Routing())
        for told in documents_in(status_of(report)):
            assert told["file"] or told["code"] in WITHOUT_A_LINE, told


def over_the_wire(desired: DesiredState) -> DesiredState:
    """As the daemon gets it from the process that reads revisions."""
    answer = dump_answers({"box": Evaluated(desired, SecretStore())}, {})
    return load_answers(answer, desired.revision, {})[0]["box"].desired


def with_checks(desired: DesiredState, seen: Observed) -> Observed:
    """What the host and its engine find fault with, each argument in turn."""
    blockers, preflights = {}, {}
    for service in desired.services:
        found, verdict = checks_of(service)
        blockers[service.digest] = found
        preflights[service.digest] = verdict
    return replace(seen, blockers=blockers, preflights=preflights)


def checks_of(service: Desired) -> tuple[tuple[Reason, ...], Preflight]:
    with suppress(ValueError):
        if service.spec is not None:
            asked = question(service.spec, ENGINE, {}, "/home")
            complaints = tuple(Complaint("x", index) for index in range(len(asked.argv) + 1))
            verdict = PreflightVerdict("p", 1, (*complaints, Complaint("VLLM_API_KEY")), ())
            found = (*unusable_arguments(service, asked), *unusable_files(service, service.spec, asked, ""))
            return found, verdict.about(asked, service.origin, dict(service.variable_origins))
    return (), Preflight("p")


def check(reason: Reason, lines: Mapping[str, list[str]]) -> None:
    if not reason.origin:
        assert reason.code in WITHOUT_A_LINE, reason
        return
    written = lines.get(reason.origin.file, [])
    assert 1 <= reason.origin.line <= len(written) + 1, reason
    flag = re.match(r"--[\w-]+", reason.message)
    if flag and reason.code in OF_A_FLAG:
        assert flag[0] in written[reason.origin.line - 1], reason


def reasons_in(value: Any) -> Iterator[Reason]:
    """Every reason in frozen data, at any depth."""
    if isinstance(value, Reason):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (reason for each in fields(value) for reason in reasons_in(getattr(value, each.name)))
    elif isinstance(value, Mapping):
        yield from (reason for each in value.values() for reason in reasons_in(each))
    elif isinstance(value, tuple | list | frozenset):
        yield from (reason for each in value for reason in reasons_in(each))


def documents_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every reason in a document, at any depth."""
    if isinstance(value, dict):
        if value.keys() >= {"code", "message", "file", "line"}:
            yield value
        yield from (found for each in value.values() for found in documents_in(each))
    elif isinstance(value, list | tuple):
        yield from (found for each in value for found in documents_in(each))


def test_flag_blamed_on_a_line_without_it_is_noticed() -> None:
    reason = Reason(ReasonCode.UNSUPPORTED_ARGUMENT, "--uds does not work on a host", Origin("a.yaml", 1))
    check(reason, {"a.yaml": ["- --uds=/x"]})
    with pytest.raises(AssertionError):
        check(reason, {"a.yaml": ["- --port=1", "- --uds=/x"]})
