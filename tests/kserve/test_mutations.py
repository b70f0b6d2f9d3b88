"""What a real KServe was given, with something wrong in it: every command still answers with one JSON document."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.cli import run
from reconciler.manifests import read_file
from reconciler.preview import on_cluster
from tests.support.examples import examples

CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
TREES = [yaml.load(case.read_bytes(), yaml.CSafeLoader)["input"] for case in CASES]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 2**64, 10**400, 1.5, float("inf"), float("nan"), 1e308),
    *("", " ", "x" * 70, "é", "\u2028", "😀", "a\tb", "a\nb", "true", "null", "1e400"),
    *("{{", "}}", "{{.Name}}", "$(A)", "s3://", "pvc://", "oci://", "://", "file:///.."),
    *([], {}, [None], [[]], [{}], [""], {"": ""}, {"a": None}, {1: 2}, {None: 1}, {True: 1}, {1.5: 2}),
    *(["x", "x"], [{"name": "a"}, {"name": "a"}], ["a"] * 300),
]


def nested(depth: int) -> Any:
    value: Any = "x"
    for step in range(depth):
        value = {"a": value} if step % 2 else [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree but its root."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


@st.composite
def mutations(draw: st.DrawFn) -> list[Any]:
    """A recorded tree in which some values are gone, doubled, wrapped, or of another kind."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 4))):
        every = list(places(tree))
        *way, last = every[draw(st.integers(0, len(every) - 1))]
        holder: Any = tree
        for key in way:
            holder = holder[key]
        junk = copy.deepcopy(draw(st.sampled_from([*JUNK, nested(30), nested(120)])))
        match draw(st.sampled_from(["replace", "replace", "remove", "double", "wrap", "add"])):
            case "replace":
                holder[last] = junk
            case "remove":
                del holder[last]
            case "double":
                holder[last] = [copy.deepcopy(holder[last])] * 2
            case "wrap":
                holder[last] = {"name": holder[last]}
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(["spec", "name", "env", "x", 1, None, True, "é", ""]))] = junk
        if not tree:
            break
    return tree


def answers(data: bytes) -> None:
    manifests = read_file("tree.yaml", data)
    for document in (on_cluster.render(manifests), on_cluster.validate(manifests)):
        json.dumps(document, allow_nan=False)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_no_mutation_of_a_recording_makes_render_or_validate_raise(tree: list[Any]) -> None:
    answers(yaml.safe_dump_all(tree, allow_unicode=True).encode())


@pytest.mark.parametrize("spec", ['{"predictor": {"containers": [""]}}', '{"predictor": {"model": {"env": [""]}}}'])
def test_empty_text_among_objects_is_refused_and_left_out(spec: str) -> None:
    head = '{"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "m"}, "spec": '
    verdict = on_cluster.validate(read_file("m.yaml", (head + spec + "}").encode()))
    assert any('must be of type object: "string"' in each["message"] for each in verdict["errors"])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 0),
        (b"---\n---\n# nothing\n", 0),
        (b"\xff\xfe", 1),
        (b"a: [", 1),
        (b"- 1\n", 0),
        (b"{kind: InferenceService, apiVersion: serving.kserve.io/v1beta1, metadata: {name: m}, spec: .nan}", 1),
        (b"{kind: InferenceService, apiVersion: serving.kserve.io/v1beta1, metadata: {name: m}, spec: null}", 1),
        (b"[" * 5_000, 1),
    ],
)
@pytest.mark.parametrize("verb", ["render", "validate"])
def test_one_json_document_and_a_clear_exit_code_whatever_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, content: bytes, code: int
) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert run([verb, str(tmp_path / "a.yaml"), "-o", "json"]) == code
    assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize("verb", ["render", "validate"])
def test_wrong_command_line_is_told_apart_from_a_wrong_document(tmp_path: Path, verb: str) -> None:
    assert run([verb, "-o", "json"]) == 2
    assert run([verb, str(tmp_path / "missing.yaml"), "-o", "json"]) == 2
