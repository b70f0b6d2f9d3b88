"""What git wants on a host: every service answered for, every blocker named, nothing lost when a file is broken."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.desired import DesiredCache, build_desired
from reconciler.desired.origins import Origins
from reconciler.desired.serving_options import read_serving_options
from reconciler.desired.spec import UnusableField
from reconciler.engines.environment import find_engine
from reconciler.manifests import ManifestCache, read_manifests
from reconciler.manifests.documents import read_file
from reconciler.model import (
    NO_ORIGIN,
    Argument,
    Desired,
    DesiredState,
    EnvVar,
    File,
    Mount,
    Origin,
    Reason,
    ReasonCode,
    Resources,
    ServiceId,
    Snapshot,
    Strategy,
    texts,
)
from tests.support.examples import examples

PAIR = (Path(__file__).parents[1] / "data" / "example_pair.yaml").read_text()
PAIR_IMAGE = "quay.io/modh/vllm@sha256:8a3dd8ad6e15fe7b8e5e471037519719d4d8ad3db9d69389f2beded36a6f5b21"

HOST = """\
apiVersion: reconciler/v1alpha1
kind: Host
metadata: {name: box}
spec: {}
"""

RUNTIME = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: vllm
spec:
  supportedModelFormats:
  - {name: vLLM, autoSelect: true, priority: 1}
  containers:
  - name: kserve-container
    image: vllm/vllm:1
    command: [python3, -m, vllm.entrypoints.openai.api_server]
    args:
    - --port=8080
    - --served-model-name={{.Name}}
    env:
    - {name: HOME, value: /tmp}
"""

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: chat
spec:
  predictor:
    model:
      modelFormat: {name: vLLM}
      runtime: vllm
      storageUri: file:///models/tiny
      args:
      - --max-model-len
      - "128"
"""

TARGET = HostSettings(
    name="box",
    paths=("runtimes", "hosts/box"),
    default_namespace="team",
    engines=(EngineSettings(image="vllm/*", python=Path("/opt/vllm/bin/python")),),
    volumes={"claim": Path("/srv/claim")},
)


def snapshot(files: dict[str, str | bytes], **more: Any) -> Snapshot:
    every: dict[str, str | bytes] = {"hosts/box/host.yaml": HOST, "runtimes/vllm.yaml": RUNTIME, **files}
    raw = {path: text.encode() if isinstance(text, str) else text for path, text in every.items()}
    return Snapshot("r1", tuple(File(p, hashlib.sha1(d).hexdigest(), d) for p, d in raw.items()), **more)


def build(files: dict[str, str | bytes], target: HostSettings = TARGET, **more: Any) -> DesiredState:
    revision = snapshot(files, **more)
    return build_desired(read_manifests(revision), target, revision)


def one(text: str, files: dict[str, str | bytes] | None = None, target: HostSettings = TARGET) -> Desired:
    (service,) = build({"hosts/box/chat.yaml": text, **(files or {})}, target).services
    return service


def with_predictor(*lines: str) -> str:
    """The service with more lines in its predictor."""
    return SERVICE + "".join(f"    {line}\n" for line in lines)


def with_model(*lines: str) -> str:
    """The service with more lines in its model."""
    return SERVICE + "".join(f"      {line}\n" for line in lines)


def codes(reasons: tuple[Reason, ...]) -> list[str]:
    return [reason.code for reason in reasons]


# ---------------------------------------------------------------- the whole way


def test_service_becomes_what_runs() -> None:
    service = one(SERVICE)
    assert service.problems == service.blocked == service.warnings == ()
    assert (service.id, service.origin) == (ServiceId("team", "chat"), Origin("hosts/box/chat.yaml", 1))
    assert service.spec
    assert service.spec.image == "vllm/vllm:1"
    assert texts(service.spec.command) == ("python3", "-m", "vllm.entrypoints.openai.api_server")
    assert texts(service.spec.args) == ("--port=8080", "--served-model-name=chat", "--max-model-len", "128")
    assert service.spec.env == (EnvVar("HOME", "/tmp"), EnvVar("INFERENCE_SERVICE_NAME", "chat"))
    assert service.spec.mounts == (Mount("file:///models/tiny", "/mnt/models"),)
    assert service.spec.resources == Resources()
    assert (service.replicas, service.strategy, service.canary_percent) == (1, None, None)
    assert (service.drain_timeout, service.request_timeout) == (None, None)


def test_every_argument_knows_the_line_it_came_from() -> None:
    service = one("# a comment\n" + SERVICE)
    assert service.spec
    assert tuple(each.origin for each in service.spec.command_line) == (
        *[Origin("runtimes/vllm.yaml", 11)] * 3,
        Origin("runtimes/vllm.yaml", 13),
        Origin("runtimes/vllm.yaml", 14),
        Origin("hosts/box/chat.yaml", 13),
        Origin("hosts/box/chat.yaml", 14),
    )


def test_argument_that_stands_in_the_command_knows_its_line() -> None:
    above = SERVICE.partition("    model:")[0]
    command = "".join(f"      - {word}\n" for word in ("vllm", "serve", "--chat-template", "/proc/1/environ"))
    box = f"    containers:\n    - name: kserve-container\n      image: vllm/vllm:1\n      command:\n{command}"
    service = one(above + box)
    assert [(each.code, each.origin) for each in service.blocked] == [
        ("PathNotAllowed", Origin("hosts/box/chat.yaml", 14)),
    ]


def test_documented_pair_plans_as_blocked_and_never_crashes() -> None:
    (service,) = build({"hosts/box/pair.yaml": PAIR}).services
    assert service.problems == ()
    assert service.spec
    assert (service.spec.image, service.spec.resources.gpus) == (PAIR_IMAGE, 1)
    assert service.spec.resources == Resources(1, 1000, 8 << 30, (), 6000, 24 << 30)
    assert texts(service.spec.args) == ("--port=8080", "--model=/mnt/models", "--served-model-name=granite")
    assert service.display_name == "granite"
    blocked = {reason.code: reason for reason in service.blocked}
    assert blocked.keys() == {"NoEngine", "SecretNotFound"}
    assert PAIR_IMAGE in blocked["NoEngine"].message
    assert "engines" in blocked["NoEngine"].message
    assert blocked["NoEngine"].origin == Origin("hosts/box/pair.yaml", 29)
    assert "storage-config" in blocked["SecretNotFound"].message
    assert "aws-connection-my-storage" in blocked["SecretNotFound"].message
    assert blocked["SecretNotFound"].origin == Origin("hosts/box/pair.yaml", 68)
    assert any("vLLM ServingRuntime for KServe" in warning.message for warning in service.warnings)


def test_same_git_gives_the_same_digests_in_any_order() -> None:
    other = SERVICE.replace("name: chat", "name: other")
    one_way = build({"hosts/box/a.yaml": SERVICE, "hosts/box/b.yaml": other})
    other_way = build({"hosts/box/a.yaml": other + "---\n" + SERVICE})
    assert {s.id: s.digest for s in one_way.services} == {s.id: s.digest for s in other_way.services}
    assert len({s.digest for s in one_way.services}) == 2


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("- --max-model-len\n      - \"128\"", "- --max_model_len=128", True),
        ("name: chat", "name: chat\n  labels: {a: b}", True),
        ("file:///models/tiny", "file:///models/other", False),
        ("\"128\"", "\"256\"", False),
    ],
)  # fmt: skip
def test_digest_follows_what_runs_and_nothing_else(before: str, after: str, same: bool) -> None:
    assert before in SERVICE
    changed = one(SERVICE.replace(before, after))
    assert changed.spec
    assert (changed.digest == one(SERVICE).digest) is same


def test_replica_counts_are_not_part_of_the_digest() -> None:
    assert one(with_predictor("minReplicas: 3")).digest == one(SERVICE).digest


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (SERVICE.replace("runtime: vllm", "runtime: nobody"), "RuntimeNotRecognized"),
        (SERVICE.replace("name: vLLM", "name: gguf"), "NoSupportingRuntime"),
        (with_predictor("workerSpec: {}"), "UnsupportedField"),
        (SERVICE + "  transformer:\n    containers: [{name: t, image: i}]\n", "UnsupportedField"),
        (SERVICE + "    containers: [{name: transformer-container, image: i}]\n", "UnsupportedField"),
        (with_predictor("deploymentStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}"), "InvalidField"),
        (with_model("resources: {limits: {nvidia.com/gpu: 0.5}}"), "ReconcileFailed"),
    ],
)
def test_service_that_cannot_be_used_says_why_and_keeps_its_name(text: str, code: str) -> None:
    service = one(text)
    assert service.spec is None
    assert service.digest == ""
    assert code in codes(service.problems)
    assert service.id == ServiceId("team", "chat")
    assert all(reason.origin and reason.origin.file == "hosts/box/chat.yaml" for reason in service.problems)


def test_gpus_beyond_all_numbers_of_devices_are_a_wish_like_any_other() -> None:
    service = one(with_model("resources: {limits: {nvidia.com/gpu: 99999999999999999999Gi}}"))
    assert service.problems == ()
    assert service.spec is not None
    assert service.spec.resources.gpus == 2**63 - 1


@pytest.mark.parametrize(
    "spec",
    ["", "spec:\n", "spec: 3\n", "spec: []\n", "spec: {predictor: x}\n", "spec: {predictor: {model: [1]}}\n"]
    + [
        f"spec: {{predictor: {{minReplicas: {bad}, model: {{modelFormat: {{name: vLLM}}}}}}}}\n"
        for bad in ("two", "-1")
    ]
    + ["spec: {predictor: {model: {modelFormat: {name: vLLM}, runtime: vllm, args: [1, {}]}}}\n"]
    + ["spec: {predictor: {model: {modelFormat: {name: vLLM}, runtime: vllm, env: [{value: 1}]}}}\n"],
)
def test_malformed_spec_is_a_problem_of_its_service_alone(spec: str) -> None:
    broken = SERVICE[: SERVICE.index("spec:")].replace("chat", "broken") + spec
    state = build({"hosts/box/a.yaml": broken, "hosts/box/b.yaml": SERVICE})
    by_name = {service.id.name: service for service in state.services}
    assert by_name["broken"].problems
    assert by_name["broken"].spec is None
    assert by_name["chat"].spec
    assert by_name["chat"].problems == ()


def test_field_at_fault_is_named_by_its_line() -> None:
    (problem, *_) = one(with_predictor("minReplicas: -1")).problems
    assert problem.origin == Origin("hosts/box/chat.yaml", 14)


def test_service_that_is_written_twice_keeps_what_runs() -> None:
    state = build({"hosts/box/a.yaml": SERVICE, "hosts/box/b.yaml": SERVICE.replace("chat", "chat\n  namespace: team")})
    (service,) = state.services
    assert service.spec is None
    assert [str(problem.origin) for problem in service.problems] == ["hosts/box/a.yaml:1", "hosts/box/b.yaml:1"]
    assert "hosts/box/b.yaml:1" in service.problems[0].message


def test_runtime_that_is_written_twice_stops_only_its_users() -> None:
    other = RUNTIME.replace("name: vllm\n", "name: other\n")
    files: dict[str, str | bytes] = {
        "runtimes/again.yaml": RUNTIME,
        "runtimes/other.yaml": other,
        "hosts/box/b.yaml": SERVICE.replace("chat", "fine").replace("runtime: vllm", "runtime: other"),
    }
    state = build({"hosts/box/a.yaml": SERVICE, **files})
    by_name = {service.id.name: service for service in state.services}
    assert codes(by_name["chat"].problems) == ["DuplicateObject"]
    assert by_name["fine"].spec
    assert codes(state.notes) == ["DuplicateObject", "DuplicateObject"]


@pytest.mark.parametrize("name", ["a.b", "1a", "a" * 64])
def test_name_that_kserve_refuses_never_becomes_a_service(name: str) -> None:
    state = build({"hosts/box/a.yaml": SERVICE.replace("chat", name)})
    assert state.services == ()
    assert [(r.code, str(r.origin)) for r in state.unreadable] == [("InvalidName", "hosts/box/a.yaml:4")]


# ---------------------------------------------------------------- broken files and missing folders


def test_broken_document_is_marked_and_the_others_live() -> None:
    state = build({"hosts/box/a.yaml": SERVICE + "---\nkind: InferenceService\nx: [\n"})
    assert [service.id.name for service in state.services] == ["chat"]
    assert state.services[0].spec
    assert [str(reason.origin) for reason in state.unreadable] == ["hosts/box/a.yaml:16"]
    assert state.prunable


def test_broken_runtime_keeps_what_runs_and_takes_no_other_in_its_place() -> None:
    auto = SERVICE.replace("      runtime: vllm\n", "")
    fallback = RUNTIME.replace("ServingRuntime", "ClusterServingRuntime")
    fine = build({"runtimes/fallback.yaml": fallback, "hosts/box/a.yaml": auto})
    assert fine.services[0].spec
    broken = build(
        {
            "runtimes/fallback.yaml": fallback,
            "runtimes/vllm.yaml": RUNTIME + "  x: [\n",
            "hosts/box/a.yaml": auto,
            "hosts/box/b.yaml": SERVICE.replace("chat", "named"),
        }
    )
    assert [codes(service.problems) for service in broken.services] == [
        ["DependencyUnreadable"],
        ["DependencyUnreadable"],
    ]
    unrelated = build(
        {"runtimes/fallback.yaml": fallback, "hosts/box/a.yaml": auto, "hosts/box/z.yaml": "kind: Secret\n"}
    )
    assert unrelated.services[0].spec


def test_missing_folders_prune_nothing() -> None:
    assert build({}).prunable
    gone = build({}, missing=("hosts/box",))
    assert not gone.prunable
    assert "NotPrunable" in codes(gone.notes)
    assert [str(reason.origin) for reason in gone.unreadable] == ["hosts/box/:1"]


@pytest.mark.parametrize(
    "host", ["", "# gone\n", "kind: Host\n", "a: [\n", HOST.replace("kind: Host", "kind: Cluster")]
)
def test_without_its_host_file_nothing_is_pruned(host: str) -> None:
    state = build({"hosts/box/host.yaml": host})
    assert not state.prunable
    assert "NotPrunable" in codes(state.notes)


def test_host_file_elsewhere_does_not_count() -> None:
    assert not build({"hosts/box/host.yaml": "", "hosts/box/sub/host.yaml": HOST}).prunable


def test_link_in_place_of_a_folder_keeps_what_came_from_it() -> None:
    link = Reason(ReasonCode.SYMLINK, "not read: it is a symbolic link", Origin("hosts/box/team", 1))
    assert "hosts/box/team/" in {r.origin.file for r in build({}, refused=(link,)).unreadable if r.origin}


def test_what_is_not_for_hosts_is_noted() -> None:
    llm = "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata: {name: a}\n"
    named = HOST.replace("box", "other")
    state = build({"hosts/box/a.yaml": llm, "hosts/box/more.yaml": named})
    assert sorted(codes(state.notes)) == ["HostNameMismatch", "UnsupportedField"]


# ---------------------------------------------------------------- blockers


def test_all_blockers_are_listed_with_their_lines() -> None:
    text = with_model(
        "image: other/image:2",
        "command: [sh, -c]",
        "env:",
        "- {name: TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}",
        "- {name: POD, valueFrom: {fieldRef: {fieldPath: status.startTime}}}",
        "- {name: CM, valueFrom: {configMapKeyRef: {name: none, key: k}}}",
    ).replace("file:///models/tiny", "s3://user:hunter2@bucket/../model")
    service = one(text)
    assert service.spec
    assert {reason.code: reason.origin.line for reason in service.blocked if reason.origin} == {
        "NoEngine": 14,
        "UnsupportedCommand": 15,
        "SecretNotFound": 17,
        "UnsupportedField": 18,
        "ConfigMapNotFound": 19,
        "UnsupportedStorage": 10,
    }
    said = " ".join(reason.message for reason in service.blocked)
    assert 'key "token" of Secret hf' in said
    assert "hunter2" not in said


def test_secret_that_the_config_stands_in_for_is_no_blocker() -> None:
    text = with_model("env:", "- {name: TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}")
    assert codes(one(text).blocked) == ["SecretNotFound"]
    engine = EngineSettings(image="vllm/*", python=Path("/p"), env={"TOKEN": "x"})
    service = one(text, target=TARGET.model_copy(update={"engines": (engine,)}))
    assert service.blocked == ()
    assert service.spec
    assert EnvVar("TOKEN", source="secret hf/token") in service.spec.env


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("file:///models/x", None),
        ("/models/x", None),
        ("pvc://claim/x", None),
        ("pvc://claim", None),
        ("pvc://other/x", "ClaimNotFound"),
        ("pvc://claim/../../etc", "UnsupportedStorage"),
        ("file:///a/../b", "UnsupportedStorage"),
        ("hf://org/model", None),
        ("oci://reg/image:1", None),
        ("s3://bucket/a", None),
        ("https://host/a.tar", None),
        ("gs://bucket/a/../b", "UnsupportedStorage"),
        ("s3://", "UnsupportedStorage"),
    ],
)
def test_storage_is_judged_by_what_this_host_can_reach(uri: str, code: str | None) -> None:
    service = one(SERVICE.replace("file:///models/tiny", uri))
    assert codes(service.blocked) == ([code] if code else [])
    assert service.spec
    assert service.spec.mounts == (Mount(uri, "/mnt/models"),)


def test_claims_and_host_folders_are_mounted_other_volumes_are_warned() -> None:
    text = with_predictor(
        "volumes:",
        "- {name: data, persistentVolumeClaim: {claimName: claim}}",
        "- {name: here, hostPath: {path: /srv/adapters/}}",
        "- {name: shm, emptyDir: {medium: Memory}}",
        "- {name: certs, nfs: {server: files, path: /tls}}",
        "- {name: idle, nfs: {server: files, path: /tls}}",
    )
    mounts = "\n".join(
        [
            "      volumeMounts:",
            "      - {name: data, mountPath: /data, subPath: a/b}",
            "      - {name: here, mountPath: /lora}",
            "      - {name: shm, mountPath: /dev/shm}",
            "      - {name: certs, mountPath: /certs}\n",
        ]
    )
    service = one(text.replace("    volumes:", mounts + "    volumes:"))
    assert service.spec
    assert service.spec.mounts[1:] == (Mount("pvc://claim/a/b", "/data"), Mount("file:///srv/adapters", "/lora"))
    assert service.blocked == ()
    assert [(w.code, "certs" in w.message) for w in service.warnings] == [("VolumeIgnored", True)]


def test_first_matching_image_wins_and_only_stars_are_special() -> None:
    engines = tuple(
        EngineSettings(image=image, python=Path(f"/{n}"))
        for n, image in enumerate(["a/b:1", "a/*", "[x]/*@sha256:*", "*"])
    )
    images = {"a/b:1": 0, "a/b:2": 1, "[x]/y@sha256:00": 2, "x/y@sha256:00": 3}
    assert {image: int(engine.python.name) for image in images if (engine := find_engine(image, engines))} == images
    assert find_engine("a/b", engines[:1]) is None


# ---------------------------------------------------------------- variables and wishes


def test_variables_are_resolved_from_git() -> None:
    text = with_model(
        "env:",
        "- {name: A, value: one}",
        "- {name: B, value: $(A)-x}",
        "- {name: FROM, valueFrom: {configMapKeyRef: {name: cm, key: k}}}",
        "- {name: MAYBE, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}",
        "- {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}",
        "envFrom:",
        "- {prefix: P_, configMapRef: {name: cm}}",
    )
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n"
    service = one(text, {"hosts/box/cm.yaml": config_map})
    assert service.spec
    assert service.blocked == ()
    env = {each.name: each.value for each in service.spec.env}
    assert env.items() >= {"A": "one", "B": "$(A)-x", "FROM": "v", "NS": "team", "P_k": "v"}.items()
    assert EnvVar("MAYBE", source="secret s/k optional") in service.spec.env


@pytest.mark.parametrize(
    ("replicas", "strategy", "expected"),
    [
        (4, "{}", None),
        (4, "{type: RollingUpdate}", Strategy(1, 1)),
        (1, "{type: RollingUpdate}", Strategy(1, 0)),
        (3, "{rollingUpdate: {maxSurge: 50%, maxUnavailable: 50%}}", Strategy(2, 1)),
        (1, "{rollingUpdate: {maxSurge: 0, maxUnavailable: 25%}}", Strategy(0, 1)),
        (4, "{rollingUpdate: {maxSurge: 0, maxUnavailable: 9}}", Strategy(0, 4)),
        (4, "{type: Recreate}", Strategy(0, 4, recreate=True)),
    ],
)
def test_strategies_round_as_in_kubernetes(replicas: int, strategy: str, expected: Strategy | None) -> None:
    text = with_predictor(f"minReplicas: {replicas}", f"deploymentStrategy: {strategy}")
    (manifest,) = read_file("a.yaml", text.encode()).documents
    assert read_serving_options(manifest).strategy == expected


@pytest.mark.parametrize(
    "line",
    [
        "deploymentStrategy: {rollingUpdate: {maxSurge: -1}}",
        "deploymentStrategy: {rollingUpdate: {maxSurge: 120%}}",
        "deploymentStrategy: {rollingUpdate: {maxUnavailable: some}}",
        'deploymentStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: "0%"}}',
        "minReplicas: two",
        "canaryTrafficPercent: 101",
        "timeout: -1",
        "terminationGracePeriodSeconds: true",
    ],
)
def test_wishes_that_kubernetes_would_refuse_name_their_line(line: str) -> None:
    (manifest,) = read_file("a.yaml", with_predictor(line).encode()).documents
    with pytest.raises(UnusableField) as caught:
        read_serving_options(manifest)
    assert caught.value.reason.origin == Origin("a.yaml", 14)


def test_timeout_of_ages_lasts_ten_years() -> None:
    ages = 2**63 - 1
    service = one(with_predictor(f"timeout: {ages}", f"terminationGracePeriodSeconds: {ages}"))
    assert (service.drain_timeout, service.request_timeout) == (315_360_000, 315_360_000)


def test_replicas_and_timeouts_come_from_the_predictor() -> None:
    text = with_predictor(
        "minReplicas: 2",
        "maxReplicas: 5",
        "canaryTrafficPercent: 10",
        "timeout: 90",
        "terminationGracePeriodSeconds: 7",
    )
    service = one(text)
    assert (service.replicas, service.canary_percent) == (2, 10)
    assert (service.drain_timeout, service.request_timeout) == (7, 90)
    assert codes(service.warnings) == ["NoAutoscaling"]
    assert service.warnings[0].origin == Origin("hosts/box/chat.yaml", 15)


@pytest.mark.parametrize(("value", "replicas"), [("true", 0), ("True", 0), ("TRUE", 0), ("false", 1), (" true", 1)])
def test_stop_annotation_suspends_in_the_spellings_that_kserve_reads(value: str, replicas: int) -> None:
    text = with_predictor("minReplicas: 0")
    service = one(text.replace("name: chat", f'name: chat\n  annotations: {{serving.kserve.io/stop: "{value}"}}'))
    assert (service.replicas, bool(service.spec)) == (replicas, True)
    assert codes(service.warnings) == ["NoScaleToZero"] * replicas


NO_AUTOSCALER = "serving.kserve.io/autoscalerClass: none"


@pytest.mark.parametrize(
    ("annotations", "replicas"),
    [
        ("", 1),
        ("serving.kserve.io/deploymentMode: RawDeployment", 1),
        ("serving.kserve.io/deploymentMode: Serverless", 1),
        ("serving.kserve.io/autoscalerClass: external", 1),
        ("serving.kserve.io/autoscalerClass: keda", 1),
        (NO_AUTOSCALER, 0),
        (f"{NO_AUTOSCALER}, serving.kserve.io/deploymentMode: RawDeployment", 0),
        (f"{NO_AUTOSCALER}, serving.kserve.io/deploymentMode: Serverless", 1),
    ],
)
def test_min_replicas_of_zero_is_one_replica_unless_nothing_scales_it(annotations: str, replicas: int) -> None:
    text = with_predictor("minReplicas: 0", "maxReplicas: 1")
    service = one(text.replace("name: chat", f"name: chat\n  annotations: {{{annotations}}}"))
    warned = [str(each.origin) for each in service.warnings if each.code == "NoScaleToZero"]
    line = next(number for number, each in enumerate(text.splitlines(), 2) if "minReplicas" in each)
    assert (service.replicas, warned) == (replicas, [f"hosts/box/chat.yaml:{line}"] * replicas)
    assert not service.stopped


def test_resources_are_requests_and_limits_fill_the_gaps() -> None:
    text = with_model(
        "resources:",
        "  limits: {cpu: 4, memory: 2Gi, nvidia.com/gpu: 2, amd.com/gpu: 0, example.com/tpu: 1}",
        "  requests: {cpu: 500m}",
    )
    spec = one(text).spec
    assert spec
    assert spec.resources == Resources(2, 500, 2 << 30, (("example.com/tpu", 1),), 4000, 2 << 30)


def test_variables_resources_and_models_keep_their_lines() -> None:
    file = "hosts/box/chat.yaml"
    text = with_model("env: [{name: A, value: b}]", "resources: {limits: {memory: 1Gi}}")
    service = one(text)
    lines = {name: str(origin) for name, origin in service.variable_origins}
    assert lines["A"] == f"{file}:14"
    assert lines["HOME"].startswith("runtimes/vllm.yaml:"), "it is the runtime's"
    assert str(service.resources_origin) == f"{file}:15"
    assert service.mount_origins == (("/mnt/models", Origin(file, 10)),)


def test_sidecars_are_warned_about() -> None:
    text = with_predictor("containers: [{name: side, image: i}]", "initContainers: [{name: init, image: i}]")
    warned = [warning.message for warning in one(text).warnings if warning.code == "ContainerIgnored"]
    assert ["side" in warned[0], "init" in warned[1]] == [True, True]


# ---------------------------------------------------------------- a canary next to the first version

CANARY = """\
  canary:
  - trafficPercent: 20
    predictor:
      name: next
      minReplicas: 1
      model:
        modelFormat: {name: vLLM}
        runtime: vllm
        storageUri: file:///models/other
        args:
        - --max-num-seqs=9
"""


def test_canary_is_read_like_the_predictor_with_lines_of_its_own() -> None:
    service = one(SERVICE + CANARY)
    assert (service.problems, service.warnings) == ((), ())
    assert service.spec == one(SERVICE).spec
    canary = service.canary
    assert canary
    assert (canary.percent, canary.replicas, canary.blocked) == (20, 1, ())
    assert canary.spec.args[-1] == Argument("--max-num-seqs=9", NO_ORIGIN)
    assert canary.spec.mounts == (Mount("file:///models/other"),)
    assert canary.digest != service.digest
    assert canary.spec.args[-1].origin == Origin("hosts/box/chat.yaml", 24)


def test_bad_canary_is_a_problem_of_its_service_at_its_own_line() -> None:
    service = one(SERVICE + CANARY.replace("runtime: vllm", "runtime: nobody"))
    assert service.spec is None
    assert [(p.code, p.origin and p.origin.line) for p in service.problems] == [("RuntimeNotRecognized", 21)]
    blocked = one(SERVICE + CANARY.replace("file:///models/other", "pvc://gone/x"))
    assert blocked.blocked == ()
    assert blocked.canary
    assert codes(blocked.canary.blocked) == ["ClaimNotFound"]


def test_two_canaries_are_one_too_many_for_a_host() -> None:
    more = CANARY + CANARY.removeprefix("  canary:\n").replace("name: next", "name: last")
    service = one(SERVICE + more)
    assert (service.spec, codes(service.problems)) == (None, ["UnsupportedField"])


def test_canary_that_would_be_the_same_again_is_left_out_with_a_warning() -> None:
    same = CANARY.replace("file:///models/other", "file:///models/tiny").replace(
        "- --max-num-seqs=9", "- --max-model-len=128"
    )
    service = one(SERVICE + same)
    assert (service.canary, codes(service.warnings)) == (None, ["CanaryUnchanged"])


# ---------------------------------------------------------------- caching


def test_only_what_changed_is_worked_out_again() -> None:
    manifests, services = ManifestCache(), DesiredCache()

    def again(files: dict[str, str | bytes]) -> dict[str, Desired]:
        revision = snapshot(files)
        state = build_desired(read_manifests(revision, manifests), TARGET, revision, services)
        return {service.id.name: service for service in state.services}

    other = SERVICE.replace("name: chat", "name: other")
    first = again({"hosts/box/a.yaml": SERVICE, "hosts/box/b.yaml": other})
    second = again({"hosts/box/a.yaml": SERVICE, "hosts/box/b.yaml": other.replace("128", "256")})
    assert second["chat"] is first["chat"]
    assert second["other"].digest != first["other"].digest
    third = again({"hosts/box/a.yaml": SERVICE, "runtimes/vllm.yaml": RUNTIME.replace("/vllm:1", "/vllm:2")})
    assert third["chat"].digest != first["chat"].digest
    assert third.keys() == {"chat"}


@pytest.mark.parametrize("name", ["vllm", "other"])
def test_runtime_in_a_changed_template_is_named_as_it_is_now(name: str) -> None:
    template = (
        "apiVersion: template.openshift.io/v1\nkind: Template\nmetadata: {name: all}\nobjects:\n"
        "- {apiVersion: serving.kserve.io/v1alpha1, kind: ServingRuntime, metadata: {name: NAME}}\n"
    )
    files, services = ManifestCache(), DesiredCache()
    for each in {"vllm", "other"} - {name}, {name}:
        revision = snapshot({"hosts/box/a.yaml": SERVICE, "runtimes/vllm.yaml": template.replace("NAME", *each)})
        (found,) = build_desired(read_manifests(revision, files), TARGET, revision, services).services
    assert f"holds ServingRuntime {name} " in found.problems[0].message


edits = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 12), st.sampled_from(["", "[]", "{}", "null", "- ", "  ", ": ", "1", "x"])
    ),
    max_size=3,
)


@settings(max_examples=examples(150), deadline=None)
@given(edits, edits)
def test_no_edit_makes_a_crash_or_hides_a_neighbour(service_edits: Any, runtime_edits: Any) -> None:
    def edited(text: str, changes: list[tuple[int, int, str]]) -> str:
        for at, cut, new in changes:
            text = text[:at] + new + text[at + cut :]
        return text

    neighbour = PAIR.replace("granite", "neighbour")
    state = build(
        {
            "hosts/box/a.yaml": edited(with_predictor("minReplicas: 1", "volumes: [{name: a}]"), service_edits),
            "runtimes/vllm.yaml": edited(RUNTIME, runtime_edits),
            "hosts/box/z.yaml": neighbour,
        }
    )
    assert ServiceId("team", "neighbour") in {service.id for service in state.services}
    for service in state.services:
        assert (service.spec is None) == bool(service.problems)
        assert (service.digest == "") == (service.spec is None)


def test_equal_specs_have_equal_digests_whatever_else_differs() -> None:
    service = one(SERVICE)
    assert replace(service, digest="").spec == one(with_predictor("timeout: 5")).spec


def test_arguments_that_kserve_adds_are_blamed_on_the_service() -> None:
    (service,) = read_file("a.yaml", SERVICE.encode()).documents
    arguments = Origins(service).arguments(["--max-model-len", "128", "--added"])
    assert [each.origin for each in arguments] == [Origin("a.yaml", line) for line in (12, 13, 1)]


def test_host_fetches_a_model_itself_although_the_cluster_keeps_a_copy() -> None:
    config = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kserve}
data: {localModel: '{"enabled": true}'}
---
apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelCache
metadata: {name: copy}
spec: {sourceModelUri: "hf://org/model", modelSize: 1Gi, nodeGroups: [g]}
"""
    service = SERVICE.replace("file:///models/tiny", "hf://org/model")
    plain, cached = one(service), one(service, {"runtimes/config.yaml": config})
    assert plain.spec is not None
    assert cached.spec == plain.spec


def test_stopped_service_is_told_from_one_that_wants_no_replica() -> None:
    stopped = SERVICE.replace("  name: chat\n", "  name: chat\n  annotations: {serving.kserve.io/stop: 'True'}\n")
    assert (one(stopped).replicas, one(stopped).stopped) == (0, True)
    without = with_predictor("minReplicas: 0").replace(
        "name: chat\n", f"name: chat\n  annotations: {{{NO_AUTOSCALER}}}\n"
    )
    assert (one(without).replicas, one(without).stopped) == (0, False)


# ---------------------------------------------------------------- what engines would download


def by_itself(*lines: str) -> str:
    """A predictor of its own container, without storage."""
    text = "".join(f"        {line}\n" for line in lines)
    head = SERVICE.partition("    model:")[0]
    return f"{head}    containers:\n      - name: kserve-container\n        image: vllm/vllm:1\n{text}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["args: [--port=8080, --model, Qwen/Qwen3-0.6B]"], "--model Qwen/Qwen3-0.6B names a model of"),
        (["command: [vllm, serve, org/name]"], "write storageUris: [{uri: hf://org/name}] in the predictor"),
        (["args: [--model=$(MODEL_ID)]", "env: [{name: MODEL_ID, value: org/name}]"], "--model org/name names"),
        (["args: [--model=gpt2]"], "--model gpt2 names"),
        (["args: [--model=o/n]", "env: [{name: VLLM_USE_MODELSCOPE, value: 'True'}]"], "uri: modelscope://o/n}]"),
        (["args: [--model_id=org/name, --model=/m]"], "--model-id org/name names"),
        (["args: [--model=s3://b/llama]"], "--model s3://b/llama is not a folder"),
        (["args: [--model=/m, --tokenizer=org/tok]"], "storageUris: {uri: hf://org/tok, mountPath: /mnt/tok}"),
        (["args: [--model=/m, --hf-config-path=org/conf]"], "--hf-config-path org/conf names"),
        (["args: [--model=/m, --speculative-config, '{\"model\": \"org/draft\"}']"], "--speculative-config org/draft"),
        (["args: [--model=/m, --lora-modules, sql=org/lora, x=/l]"], "--lora-modules org/lora names"),
    ],
)  # fmt: skip
def test_model_that_the_engine_would_download_says_what_to_write(lines: list[str], said: str) -> None:
    (reason,) = one(by_itself(*lines)).blocked
    assert (reason.code, reason.origin) == ("EngineDownload", Origin("hosts/box/chat.yaml", 10))
    assert said in reason.message


@pytest.mark.parametrize(
    "lines",
    [
        ["args: [--model=org/name]", "env: [{name: HF_HUB_OFFLINE, value: '0'}]"],
        ["args: [--model=org/name]", "env: [{name: HF_HOME, value: /mnt/hub}]"],
        ["args: [--model=s3://b/llama, --load-format=runai_streamer]"],
        ['args: [--model=/m, --speculative-config, \'{"method": "ngram", "model": "ngram"}\']'],
        ["args: [--model=/m, --chat-template=org/name, --generation-config=vllm]"],
    ],
)
def test_engine_that_may_download_or_needs_not_is_asked(lines: list[str]) -> None:
    assert one(by_itself(*lines)).blocked == ()


def test_config_lets_engines_download() -> None:
    engine = EngineSettings(image="vllm/*", python=Path("/opt/vllm/bin/python"), env={"HF_HUB_OFFLINE": "0"})
    text = by_itself("args: [--model=org/name]", "env: [{name: HF_HUB_OFFLINE, value: '1'}]")
    assert codes(one(text).blocked) == ["EngineDownload"]
    assert one(text, target=TARGET.model_copy(update={"engines": (engine,)})).blocked == ()


def test_hub_id_beside_a_storage_uri_says_where_the_files_are() -> None:
    (reason,) = one(SERVICE + "      - --model=org/name\n").blocked
    assert "the model's files are at /mnt/models: write --model=/mnt/models" in reason.message
    assert reason.origin == Origin("hosts/box/chat.yaml", 14)


@pytest.mark.parametrize("value", ["value: t", "valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}"])
def test_token_of_the_container_that_no_fetch_has_is_named(value: str) -> None:
    text = with_model("env:", f"- {{name: HF_TOKEN, {value}}}").replace("file:///models/tiny", "hf://org/name")
    found = [each for each in one(text).warnings if each.code == "TokenNotUsed"]
    assert [each.origin and each.origin.line for each in found] == [15]
    assert "not used to fetch hf://org/name" in found[0].message
    storage = TARGET.storage.model_copy(update={"env": {"HF_TOKEN": "t"}})
    given = one(text, target=TARGET.model_copy(update={"storage": storage}))
    assert "TokenNotUsed" not in codes(given.warnings)
    assert "TokenNotUsed" not in codes(one(text.replace("hf://org/name", "file:///m")).warnings)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("kserve/huggingfaceserver:v0.15-gpu", "starts KServe's Hugging Face server, whose arguments are others"),
        ("ghcr.io/huggingface/text-generation-inference:3", "starts Text Generation Inference"),
        ("registry.example.com/team/llm@sha256:abc", "is not known to be vLLM, and it has no command"),
    ],
)
def test_image_that_is_not_known_to_be_vllm_is_named_at_its_line(image: str, said: str) -> None:
    text = by_itself("args: [--model=/m]").replace("vllm/vllm:1", image)
    anything = TARGET.model_copy(update={"engines": (EngineSettings(image="*", python=Path("/p")),)})
    (warning,) = [each for each in one(text, target=anything).warnings if each.code == "ImageUnknown"]
    (reason,) = one(text).blocked
    for found in (warning, reason):
        assert found.origin == Origin("hosts/box/chat.yaml", 9)
        assert said in found.message
        assert "write command: [vllm, serve]" in found.message
    assert reason.code == "NoEngine"
    commanded = text.replace("args:", "command: [vllm, serve]\n        args:")
    assert "ImageUnknown" not in codes(one(commanded, target=anything).warnings)
    assert one(by_itself("args: [--model=/m]")).warnings == ()
