"""`render` and `validate` with a target: KServe's verdict, and in addition what one host makes of the same files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.cli import run
from tests.desired.test_desired import PAIR, RUNTIME, SERVICE, with_model

Document = dict[str, Any]


@dataclass(frozen=True)
class Desk:
    """A folder of manifests and a config with the host `box`."""

    folder: Path
    output: Callable[[], tuple[str, str]]

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / "tree" / f"{name}.yaml").write_text(text)

    def configure(self, **changes: Any) -> None:
        target = {
            "name": "box",
            "paths": ["hosts/box"],
            "default_namespace": "team",
            "engines": [{"image": "vllm/*", "python": "/opt/vllm/bin/python", "env": {"HF_TOKEN": "hunter2"}}],
            "volumes": {"claim": "/srv/claim"},
            **changes,
        }
        whole = {"source": {"url": "/models.git"}, "targets": [target], "state_dir": str(self.folder / "state")}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(whole))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, and standard error."""
        self.output()
        code = run([arguments[0], str(self.folder / "tree"), *arguments[1:]])
        return code, *self.output()

    def ask(self, command: str, *arguments: str) -> tuple[int, Document]:
        """Exit code and document with the host in view."""
        config = str(self.folder / "config.yaml")
        code, out, err = self(command, "--config", config, "--target", "box", "-o", "json", *arguments)
        assert err == ""
        return code, json.loads(out)

    def host(self) -> Document:
        """What the host would start for the only service."""
        (service,) = self.ask("render")[1]["services"]
        return dict(service["host"])


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("RECONCILER_CONFIG", raising=False)
    (tmp_path / "tree").mkdir()
    made = Desk(tmp_path, lambda: capsys.readouterr())
    made.configure()
    made.write(runtime=RUNTIME, chat=SERVICE)
    return made


def named(name: str, namespace: str) -> str:
    """The service under another name, in a namespace that has no runtime of its own."""
    text = SERVICE.replace("name: chat", f"name: {name}\n  namespace: {namespace}")
    return text.replace("runtime: vllm", "runtime: shared")


SHARED = RUNTIME.replace("kind: ServingRuntime", "kind: ClusterServingRuntime").replace(
    "name: vllm\n", "name: shared\n"
)


def messages(findings: list[Document]) -> list[str]:
    return [f"{Path(each['file']).name}:{each['line']}: {each['message']}" for each in findings]


# ---------------------------------------------------------------- validate


def test_what_the_host_can_honour_is_valid(desk: Desk):
    assert desk.ask("validate") == (0, {"valid": True, "errors": [], "warnings": [], "notChecked": []})


def test_without_a_target_only_kserve_is_asked(desk: Desk):
    desk.write(chat=SERVICE.replace("vllm/vllm:1", "x").replace("file:///models/tiny", "pvc://elsewhere/tiny"))
    code, out, _ = desk("validate", "-o", "json")
    assert (code, json.loads(out)["errors"]) == (0, [])
    assert desk.ask("validate")[0] == 1


def test_what_blocks_a_service_on_the_host_is_an_error_at_its_line(desk: Desk):
    desk.write(chat=SERVICE.replace("file:///models/tiny", "pvc://elsewhere/tiny"))
    desk.configure(engines=[])
    code, document = desk.ask("validate")
    first, second = messages(document["errors"])
    assert (code, document["valid"]) == (1, False)
    assert first.startswith("chat.yaml:10: pvc://elsewhere/tiny: targets[].volumes names no folder for the claim")
    assert second.startswith("runtime.yaml:10: nothing on this host runs the image vllm/vllm:1")


def test_what_is_not_for_hosts_is_an_error_at_its_line(desk: Desk):
    desk.write(chat=f"{SERVICE}  transformer:\n    containers:\n    - {{name: kserve-container, image: t}}\n")
    code, document = desk.ask("validate")
    text = "spec.transformer is not supported on a host: run this service on a Kubernetes cluster, or remove it"
    assert code == 1
    assert f"chat.yaml:14: {text}" in messages(document["errors"])


def test_document_that_host_can_do_nothing_with_is_error_for_its_author(desk: Desk):
    kinds = {"llm": "LLMInferenceService", "graph": "InferenceGraph"}
    for name, kind in kinds.items():
        desk.write(**{name: f"apiVersion: serving.kserve.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n"})
    code, document = desk.ask("validate")
    assert code == 1
    text = "LLMInferenceService llm is not supported on a host: it is for Kubernetes only; write an InferenceService"
    assert messages(document["errors"]) == [f"llm.yaml:1: {text}"]
    assert [each.partition(":")[0] for each in messages(document["notChecked"])] == ["graph.yaml", "llm.yaml"]
    assert document["warnings"] == []


def test_what_kserve_refuses_already_is_said_once(desk: Desk):
    desk.write(chat=SERVICE.replace("runtime: vllm", "runtime: gone"))
    alone = json.loads(desk("validate", "-o", "json")[1])
    code, document = desk.ask("validate")
    assert code == 1
    assert messages(document["errors"]) == messages(alone["errors"])


def test_what_a_host_does_otherwise_is_a_warning(desk: Desk):
    desk.write(chat=f"{SERVICE}    maxReplicas: 3\n")
    code, document = desk.ask("validate")
    assert (code, document["valid"]) == (0, True)
    assert messages(document["warnings"]) == [
        "chat.yaml:14: spec.predictor.maxReplicas is ignored on a host: "
        "hosts do not autoscale, so `minReplicas` replicas run"
    ]


def test_hosts_default_mode_is_standard_and_not_knative(desk: Desk):
    metrics = "{metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 5}}}]}"
    desk.write(chat=f"{SERVICE}    minReplicas: 1\n    maxReplicas: 2\n    autoScaling: {metrics}\n")
    assert desk.ask("validate")[1]["errors"] == []
    (service,) = desk.ask("render")[1]["services"]
    assert service["deploymentMode"] == "Standard"


def test_one_model_name_in_two_namespaces_is_warned_about_at_both(desk: Desk):
    desk.write(runtime=SHARED, chat=named("chat", "a"), more=named("chat", "b"))
    code, document = desk.ask("validate")
    assert code == 0
    text = "the model name chat alone answers 404: write a/chat or b/chat as `model`, or rename one"
    assert messages(document["warnings"]) == [f"chat.yaml:4: {text}", f"more.yaml:4: {text}"]


def test_one_host_name_of_two_services_is_warned_about_at_both(desk: Desk):
    desk.write(runtime=SHARED, chat=named("a-b", "c"), more=named("a", "b-c"))
    desk.configure(routing={"domain": "models.test"})
    text = "the host name a-b-c.models.test matches b-c/a or c/a-b, so it answers 404: use their paths, or rename one"
    assert messages(desk.ask("validate")[1]["warnings"]) == [f"chat.yaml:4: {text}", f"more.yaml:4: {text}"]


def test_different_names_are_not_warned_about(desk: Desk):
    desk.write(runtime=SHARED, chat=named("chat", "a"), more=named("talk", "b"))
    assert desk.ask("validate")[1]["warnings"] == []


@pytest.mark.parametrize("command", ["render", "validate"])
def test_unknown_target_is_wrong_usage_and_names_the_known(desk: Desk, command: str):
    code, out, err = desk(command, "--config", str(desk.folder / "config.yaml"), "--target", "bix")
    assert (code, out) == (2, "")
    assert err == "reconciler: --target bix: no such target in the config; there are: box\n"


@pytest.mark.parametrize("command", ["render", "validate"])
def test_target_without_a_config_is_wrong_usage(desk: Desk, command: str):
    code, out, err = desk(command, "--config", "/no/such.yaml", "--target", "box")
    assert (code, out) == (2, "")
    assert "/no/such.yaml: no such file" in err


# ---------------------------------------------------------------- input that is no input


@pytest.mark.parametrize("target", [(), ("--target", "box")])
def test_text_that_is_no_yaml_is_input_that_cannot_be_used(desk: Desk, target: tuple[str, ...]):
    desk.write(chat="kind: [\n")
    options = ("--config", str(desk.folder / "config.yaml"), *target)
    code, out, _ = desk("validate", *options)
    assert code == 2
    assert "chat.yaml:" in out
    # The contract of the JSON: a document whatever the input is, and 1 where it holds an error.
    code, out, _ = desk("validate", *options, "-o", "json")
    assert (code, json.loads(out)["valid"]) == (1, False)
    code, out, _ = desk("render", *options, "-o", "json")
    assert (code, len(json.loads(out)["errors"])) == (1, 1)


@pytest.mark.parametrize(
    "text", ["kind: InferenceService\n", SERVICE.replace("file:", "gopher:"), "[{kind: InferenceService}]\n"]
)
def test_yaml_that_is_no_good_manifest_is_invalid(desk: Desk, text: str):
    desk.write(chat=text)
    assert desk("validate")[0] == 1


# ---------------------------------------------------------------- render


def test_process_of_the_host_is_shown(desk: Desk):
    host = desk.host()
    assert host["interpreter"] == "/opt/vllm/bin/python"
    assert host["argv"] == [
        "/opt/vllm/bin/python",
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--max-model-len", "128"),
        *("--host=127.0.0.1", "--port=<port>", "--served-model-name", "chat", "team/chat"),
        "--shutdown-timeout=120",
    ]
    assert (host["replicas"], host["strategy"], host["blocked"]) == (1, None, [])
    assert len(host["digest"]) == 16


def test_port_of_grpc_that_only_a_start_can_tell_is_a_word(desk: Desk):
    desk.write(chat=with_model("- --grpc-port=9000"))
    assert desk.host()["argv"][-1] == "--grpc-port=<port>"


def test_values_that_look_secret_are_hidden_and_their_names_shown(desk: Desk):
    desk.write(
        runtime=RUNTIME + "    - {name: VLLM_API_KEY, value: swordfish}\n    - {name: OMP_NUM_THREADS, value: '2'}\n"
    )
    env = desk.host()["env"]
    assert (env["HF_TOKEN"], env["VLLM_API_KEY"], env["OMP_NUM_THREADS"]) == ("***", "***", "2")
    assert "hunter2" not in json.dumps(env)


def test_secret_in_an_argument_is_hidden(desk: Desk):
    desk.write(chat=SERVICE.replace("- --max-model-len\n", "- --api-key\n").replace('"128"', '"swordfish"'))
    assert "swordfish" not in json.dumps(desk.host())


def test_models_lie_where_the_config_says(desk: Desk):
    desk.write(
        runtime=RUNTIME.replace("--port=8080", "--model=/mnt/models"),
        chat=SERVICE.replace("file:///models/tiny", "pvc://claim/tiny"),
    )
    assert "--model=/srv/claim/tiny" in desk.host()["argv"]


def test_fit_in_memory_is_worked_out_where_the_models_files_are(desk: Desk):
    model = desk.folder / "claim" / "tiny"
    desk.write(
        runtime=RUNTIME.replace("--port=8080", "--model=/mnt/models"),
        chat=SERVICE.replace("file:///models/tiny", f"file://{model}"),
    )
    host = desk.host()
    assert (host["fit"], host["fitReason"]) == (None, "the model /mnt/models cannot be read from here")
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 128}')
    assert "holds no weights" in desk.host()["fitReason"]
    (model / "model.gguf").write_bytes(bytes(1000))
    fit = desk.host()["fit"]
    assert (fit["weightsBytes"], fit["kvBytesPerToken"], fit["maxModelLen"]) == (1000, 1024, 128)
    assert (fit["fits"], fit["measured"], fit["gpus"]) == (None, False, 0)
    assert "weights estimated from file sizes" in fit["line"]


def test_gpus_that_only_a_start_can_choose_are_placeholders(desk: Desk):
    desk.write(runtime=RUNTIME + "    resources: {limits: {nvidia.com/gpu: '2'}}\n")
    assert desk.host()["env"]["CUDA_VISIBLE_DEVICES"] == "<gpu>,<gpu>"


def test_strategy_of_the_user_is_shown(desk: Desk):
    desk.write(chat=f"{SERVICE}    minReplicas: 2\n    deploymentStrategy: {{type: Recreate}}\n")
    host = desk.host()
    assert (host["replicas"], host["strategy"]) == (2, {"maxSurge": 0, "maxUnavailable": 2, "recreate": True})


def test_blocked_service_says_why_and_is_an_error(desk: Desk):
    desk.configure(engines=[])
    code, document = desk.ask("render")
    host = document["services"][0]["host"]
    assert code == 1
    assert [each["reason"] for each in host["blocked"]] == ["NoEngine"]
    assert (Path(host["blocked"][0]["file"]).name, host["blocked"][0]["line"]) == ("runtime.yaml", 10)
    assert (host["interpreter"], host["argv"], host["env"]) == (None, None, None)


def test_command_that_no_host_can_run_has_no_process(desk: Desk):
    desk.write(runtime=RUNTIME.replace("[python3, -m, vllm.entrypoints.openai.api_server]", "[bash, -c, x]"))
    host = desk.host()
    assert (host["interpreter"], host["argv"]) == ("/opt/vllm/bin/python", None)
    assert [each["reason"] for each in host["blocked"]] == ["UnsupportedCommand"]


def test_service_that_git_wants_twice_has_no_process_on_a_host(desk: Desk):
    desk.write(more=SERVICE)
    code, document = desk.ask("render")
    (service,) = document["services"]
    assert code == 1
    assert {error["reason"] for error in service["errors"]} == {"DuplicateObject"}
    assert service["host"]["argv"] is None


def test_without_a_target_nothing_is_said_about_hosts(desk: Desk):
    code, out, _ = desk("render", "-o", "json")
    assert code == 0
    assert "host" not in json.loads(out)["services"][0]


def test_pair_of_openshift_ai_is_rendered_for_a_host_and_told_what_lacks(desk: Desk):
    desk.write(chat=PAIR)
    services = desk.ask("render")[1]["services"]
    reasons = {each["reason"] for service in services for each in service["host"]["blocked"]}
    assert "NoEngine" in reasons


def test_image_that_podman_runs_is_shown_with_container_that_would_run_it(desk: Desk) -> None:
    desk.write(chat=SERVICE, runtime=RUNTIME)
    desk.configure(kind="systemd", engines=[{"image": "vllm/*", "podman": True}])
    host = desk.host()
    assert (host["interpreter"], host["image"]) == (None, "vllm/vllm:1")
    assert host["argv"][0] in ("python", "python3")
    (start,) = (line for line in host["unit"].splitlines() if line.startswith("ExecStart="))
    assert " --user=<uid>:<gid> " in start.replace('"', "")
    assert " <image id> " in start.replace('"', "")


def test_unit_is_printed_as_a_literal_block(desk: Desk) -> None:
    desk.configure(kind="systemd")
    _, text, _ = desk("render", "--config", str(desk.folder / "config.yaml"), "--target", "box", "-o", "yaml")
    assert "\n    unit: |\n" in text
    assert "\n      User=reconciler-engine\n" in text
    assert yaml.safe_load(text)["services"][0]["host"]["unit"] == desk.host()["unit"]


def test_unit_shows_what_systemd_would_get_and_no_secret(desk: Desk) -> None:
    assert desk.host()["unit"] is None, "child processes have none"
    desk.configure(kind="systemd")
    host = desk.host()
    assert host["argv"][0] == "/opt/vllm/bin/python"
    assert "BindReadOnlyPaths=/models/tiny:/mnt/models" in host["unit"].splitlines()
    lines = host["unit"].splitlines()
    assert "User=reconciler-engine" in lines
    assert f"Digest={host['digest']}" in lines
    assert [line for line in lines if line.startswith("ExecStart=") and "--port=<port>" in line]
    assert [line for line in lines if line.startswith("LoadCredential=environment:/")]
    assert "hunter2" not in host["unit"]


def test_model_name_that_two_services_bear_is_warned_of(desk: Desk):
    lora = "      - --lora-modules=sql=/l\n      - --served-model-name=base\n"
    desk.write(chat=SERVICE + lora, base=SERVICE.replace("name: chat", "name: base"))
    code, document = desk.ask("validate")
    text = "the model name base may mean team/base as well: use the path /team/chat/v1/…, or rename it"
    assert (code, messages(document["warnings"])) == (0, [f"chat.yaml:4: {text}"])
    desk.write(chat=SERVICE + lora, base=SERVICE.replace("name: chat", "name: other") + lora)
    said = messages(desk.ask("validate")[1]["warnings"])
    assert [each.split(" may ")[0] for each in said] == [
        f"{file}.yaml:4: the model name {name}" for file in ("base", "chat") for name in ("base", "sql")
    ]


# ---------------------------------------------------------------- kinds that are not checked

UNCHECKED = {
    "llm": "LLMInferenceService",
    "settings": "LLMInferenceServiceConfig",
    "graph": "InferenceGraph",
    "trained": "TrainedModel",
}


def unchecked(kind: str) -> str:
    return f"apiVersion: serving.kserve.io/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{nonsense: 1}}\n"


@pytest.mark.parametrize("name", UNCHECKED)
def test_kind_without_schema_is_not_checked_and_never_valid(desk: Desk, name: str) -> None:
    desk.write(**{name: unchecked(UNCHECKED[name])})
    code, out, _ = desk("validate", "-o", "json")
    document = json.loads(out)
    assert (code, document["valid"], document["errors"], document["warnings"]) == (0, None, [], [])
    (found,) = document["notChecked"]
    assert (Path(found["file"]).name, found["line"]) == (f"{name}.yaml", 1)
    assert found["message"].startswith(f"{UNCHECKED[name]} a (serving.kserve.io/v1alpha1): ")
    *lines, last = desk("validate")[1].splitlines()
    assert [f"{name}.yaml:1: not checked: {UNCHECKED[name]} a" in line for line in lines] == [True]
    assert last == "not checked in full: 0 errors, 0 warnings; not checked: 1 document"


def test_error_beside_a_document_that_is_not_checked_is_invalid(desk: Desk) -> None:
    desk.write(llm=unchecked("LLMInferenceService"), chat=SERVICE.replace("model:\n", "modle:\n"))
    code, out, _ = desk("validate")
    assert code == 1
    assert out.splitlines()[-1].startswith("invalid: ")


def test_document_not_checked_is_named_behind_many_foreign_ones(desk: Desk) -> None:
    foreign = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n" * 9
    desk.write(more=f"{foreign}---\n{unchecked('InferenceGraph')}")
    _, out, _ = desk("validate", "-o", "json")
    assert [each["line"] for each in json.loads(out)["notChecked"]] == [38]
