"""What git says about paths of an engine: the annotation, and the mode that adds switches."""

from __future__ import annotations

import pytest

from reconciler.model import Origin
from tests.desired.test_desired import RUNTIME, SERVICE, TARGET, codes, one, with_model

PATHS = "reconciler/open-paths"


def opening(text: str) -> str:
    return SERVICE.replace("  name: chat\n", f"  name: chat\n  annotations:\n    {PATHS}: {text}\n", 1)


def test_annotation_opens_paths_without_a_restart():
    service = one(opening('"/generate, /openai /generate"'))
    assert (service.open_paths, service.problems, service.warnings) == (("/generate", "/openai"), (), ())
    assert service.digest == one(SERVICE).digest
    assert one(SERVICE).open_paths == ()


def test_annotation_of_a_runtime_is_the_default_of_its_services():
    runtime = RUNTIME.replace("spec:\n", f'spec:\n  annotations: {{{PATHS}: "/generate"}}\n', 1)
    assert one(SERVICE, {"runtimes/vllm.yaml": runtime}).open_paths == ("/generate",)


@pytest.mark.parametrize("path", ["generate", "/", "/../x", "/sleep", "/Metrics", "/inference/v1/abort_requests"])
def test_annotation_that_opens_what_it_may_not_is_refused_with_its_line(path: str):
    service = one(opening(f'"/generate, {path}"'))
    assert service.spec is None
    (problem,) = service.problems
    assert (problem.code, problem.origin) == ("InvalidAnnotation", Origin("hosts/box/chat.yaml", 6))
    assert f'"{path}"' in problem.message


@pytest.mark.parametrize(("value", "warned"), [("1", True), ("0", False)])
def test_developer_mode_of_the_config_warns_and_wins(value: str, warned: bool):
    text = with_model("env:", '- {name: VLLM_SERVER_DEV_MODE, value: "1"}')
    engine = TARGET.engines[0].model_copy(update={"env": {"VLLM_SERVER_DEV_MODE": value}})
    service = one(text, target=TARGET.model_copy(update={"engines": (engine,)}))
    found = [each for each in service.warnings if each.code == "DeveloperMode"]
    assert [each.origin for each in found] == ([service.origin] if warned else [])
    assert all(f"engines[].env of {engine.image}" in each.message for each in found)


@pytest.mark.parametrize(("value", "warned"), [("1", True), ("0", False), ("", False)])
def test_developer_mode_warns_with_its_line(value: str, warned: bool):
    service = one(with_model("env:", f'- {{name: VLLM_SERVER_DEV_MODE, value: "{value}"}}'))
    assert ("DeveloperMode" in codes(service.warnings)) is warned
    assert service.spec
