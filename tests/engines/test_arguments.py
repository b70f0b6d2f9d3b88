"""The normal form of vLLM's command line, verified by properties and by vLLM's own parser."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.arguments import (
    drop_flags,
    find,
    flag_value,
    is_flag,
    normalise,
    values_of,
    values_with_arguments,
)
from reconciler.engines.digest import digest, equivalent
from reconciler.model import EffectiveSpec, EnvVar, Origin, Resources, texts
from tests.support.arguments import written, written_in
from tests.support.engine.fixtures import clean_env

flags = st.sampled_from(["--max-model-len", "--served_model_name", "--gpu-memory-utilization", "-tp", "--hf-overrides"])
words = st.one_of(
    st.sampled_from(["0.90", ".9", "-1", "a=b", "", "-", '{"b": 1, "a": [1.0]}', "{{ not json", "x y"]),
    st.text(max_size=6).filter(lambda text: not is_flag(text) and text != "--"),
)
command_lines = st.lists(st.one_of(flags, words, st.builds("{}={}".format, flags, words), st.just("--")), max_size=8)


@pytest.mark.parametrize(
    "same",
    [
        [["--max-model-len=4096"], ["--max-model-len", "4096"], ["--max_model_len", "4096"], ["--max_model_len=4096"]],
        [["--gpu-memory-utilization", "0.90"], ["--gpu-memory-utilization=.9"], ["--gpu_memory_utilization=9e-1"]],
        [["--hf-overrides", '{"b": 1, "a": [1, 2]}'], ['--hf-overrides={"a":[1,2],"b":1}']],
        [["-tp", "2", "--enforce-eager"], ["-tp=2", "--enforce-eager"]],
        [["--seed", "-1"], ["--seed=-1"]],
    ],
)
def test_ways_of_writing_are_one(same: list[list[str]]) -> None:
    assert len({normalise(written(*args)) for args in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["--enable-x", "--no-enable-x"], ["--no-enable-x", "--enable-x"]),
        (["--served-model-name", "1.10"], ["--served-model-name", "1.1"]),
        (["--served-model-name", "a", "model"], ["--served-model-name=a", "model"]),
        (["--hf-overrides.a_b", "1"], ["--hf-overrides.a-b", "1"]),
        (["--seed", "032"], ["--seed", "32"]),
        (["--config", "a.yaml"], ["--config=a.yaml"]),
        (["--middleware", "a", "--middleware", "b"], ["--middleware", "b", "--middleware", "a"]),
        (["a", "--", "--x", "1"], ["a", "--x", "1"]),
        (["--x", ""], ["--x"]),
    ],
)
def test_different_meanings_stay_different(one: list[str], other: list[str]) -> None:
    assert normalise(written(*one)) != normalise(written(*other))


@given(command_lines)
def test_normalising_twice_changes_nothing_more(args: list[str]) -> None:
    once = normalise(written(*args))
    assert normalise(written(*once)) == once


@given(command_lines, flags)
def test_normal_form_keeps_every_flag_and_its_values_in_order(args: list[str], flag: str) -> None:
    before, after = find(written(*args), flag), find(written(*normalise(written(*args))), flag)
    assert len(before) == len(after)
    if flag == "-tp":  # neither a fraction nor JSON is expected there, but JSON-like values are rewritten anywhere
        assert [v for _, v in before if v and v[0] not in "{["] == [v for _, v in after if v and v[0] not in "{["]


@given(command_lines, flags)
def test_removed_flag_is_gone_and_the_others_stay(args: list[str], flag: str) -> None:
    rest = drop_flags(written(*args), flag)
    assert not find(rest, flag)
    for other in {"--max-model-len", "--served_model_name", "-tp"} - {flag}:
        assert len(find(rest, other)) == len(find(written(*args), other))


@given(command_lines, flags)
def test_found_flag_knows_its_line_and_its_value(args: list[str], flag: str) -> None:
    for found, value in find(written_in("a.yaml", 0, args), flag):
        assert found.origin
        index = found.origin.line
        name, equals, joined = args[index].partition("=")
        assert name.replace("_", "-") == flag.replace("_", "-")
        assert value == (joined if equals else args[index + 1] if value is not None else None)


def test_equal_arguments_keep_the_lines_of_their_own_service() -> None:
    for line in (1, 5):
        given = written_in("a.yaml", line, ["--port=1", "--model", "/m"])
        assert find(given, "--port")[0][0].origin == Origin("a.yaml", line)
        assert values_with_arguments(given, "--model")[0][0].origin == Origin("a.yaml", line + 2)


def test_removing_a_flag_takes_all_its_values_with_it() -> None:
    args = written("--port", "80", "model", "--port=81", "-x", "--host=a", "--", "--port")
    assert texts(drop_flags(args, "--port", "--host")) == ("-x", "--", "--port")


def test_last_occurrence_wins() -> None:
    args = written("--port=1", "--served-model-name", "a", "b", "--port", "2")
    assert flag_value(args, "--port") == "2"
    assert values_of(args, "--served_model_name") == ("a", "b")
    assert flag_value(args, "--host") is None


SPEC = EffectiveSpec(
    "vllm:1", written("python"), written("--a", "1"), (EnvVar("X", "1"), EnvVar("Y", "2")), (), Resources(gpus=1)
)


def test_digest_ignores_how_arguments_are_written_and_nothing_else() -> None:
    assert digest(replace(SPEC, args=written("--a=1"))) == digest(SPEC)
    others = [
        replace(SPEC, image="vllm:2"),
        replace(SPEC, command=()),
        replace(SPEC, args=written("--a=2")),
        replace(SPEC, env=SPEC.env[::-1]),
        replace(SPEC, resources=Resources(gpus=2)),
    ]
    assert len({digest(spec) for spec in [SPEC, *others]}) == 6
    assert len(digest(SPEC)) == 16


def test_digest_of_a_known_spec_never_changes() -> None:
    # Replicas on disk carry their digest: another one for the same spec would restart every GPU at an upgrade.
    assert digest(SPEC) == "9be8509e8792c44e"


def test_equivalent_means_equal_but_for_arguments() -> None:
    assert equivalent(SPEC, replace(SPEC, args=()))
    assert not equivalent(SPEC, replace(SPEC, image="vllm:2"))


REAL = [
    ["--max_model_len=32k", "--gpu-memory-utilization", ".90", "-tp", "2", "--enforce-eager"],
    ["--model=/m", "--served-model-name", "a", "b", "--seed", "-1", "--middleware", "x", "--middleware=y"],
    ["--hf-overrides", '{"b": 1.0, "a": {"c": [1, 2]}}', "--hf_overrides.d_e", "2", "-O3"],
    ["--no-enable-prefix-caching", "--enable-prefix-caching", "--cpu-offload-gb", "1", "--lora-modules", "n=p", "m=q"],
    ["--trust-remote-code", "--dtype", "auto", "--kv-offloading-size=1.50", "-q", "fp8", "-asc", "1", "-O", "2"],
    ["--compilation-config", '{"mode": 3, "cudagraph_capture_sizes": [1, 2]}', "--cudagraph-capture-sizes", "1", "2"],
]
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
print(json.dumps([str(sorted(vars(parser.parse_args(args)).items())) for args in json.load(sys.stdin)]))
"""


@pytest.mark.engine
def test_vllm_reads_the_normal_form_as_it_reads_the_original(stock_python: Path) -> None:
    lines = [*REAL, *(list(normalise(written(*args))) for args in REAL), ["--seed", "1"]]
    env = {**clean_env(), "VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([stock_python, "-c", PARSE], input=json.dumps(lines), text=True, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert parsed[: len(REAL)] == parsed[len(REAL) : -1]
    assert len(set(parsed)) == len(REAL) + 1
