"""Which line an error of the engine is attributed to, and with which message."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight_program.preflight_text import paths_in, plain, split
from reconciler.engines.verdict import Complaint, PreflightVerdict
from reconciler.model import NO_ORIGIN, Argument, Origin, Reason

ARGV = ("--model=/mnt/models", "--max-num-batched-tokens=64", "--max-model-len=32k")
RUNTIME, SERVICE, VARIABLE = Origin("runtime.yaml", 5), Origin("service.yaml", 1), Origin("service.yaml", 30)
OWN = Origin("service.yaml", 12)


def reason(complaint: Complaint, *origins: Origin, local: str = "/mnt/models") -> Reason:
    argv = tuple(map(Argument, ARGV, origins or (NO_ORIGIN,) * len(ARGV)))
    asked = PreflightQuestion(Path("python"), argv, {}, {"/mnt/models": local})
    verdict = PreflightVerdict("", 1, (complaint,), ())
    (found,) = verdict.about(asked, SERVICE, {"VLLM_PORT": VARIABLE}).reasons
    return found


def test_services_argument_is_blamed_before_its_runtimes() -> None:
    text = "--max-num-batched-tokens: max_num_batched_tokens (64) is smaller than max_model_len (32000)"
    found = reason(Complaint(text, 1, (2,)), RUNTIME, RUNTIME, OWN)
    assert found.origin == OWN
    assert found.message.startswith("--max-model-len: max_num_batched_tokens (64) is smaller")
    assert reason(Complaint(text, 1, (2,)), RUNTIME, OWN, RUNTIME).message == text


def test_runtimes_argument_is_blamed_where_the_service_has_none() -> None:
    assert reason(Complaint("x", 1), RUNTIME, RUNTIME, OWN).origin == RUNTIME


def test_variable_that_a_complaint_names_is_blamed_where_no_argument_is() -> None:
    assert reason(Complaint("VLLM_PORT appears to be a URI"), RUNTIME, RUNTIME, OWN).origin == VARIABLE
    assert reason(Complaint("VLLM_PORTS is none of ours"), RUNTIME, RUNTIME, OWN).origin == SERVICE


def test_folder_of_this_host_stands_beside_the_containers() -> None:
    found = reason(Complaint("no model at /mnt/models/deep", 0), OWN, OWN, OWN, local="/srv/llama")
    assert found.message == "no model at /mnt/models/deep (/mnt/models is /srv/llama on this host)"
    assert "srv" not in reason(Complaint("no GPU", 0), OWN, OWN, OWN, local="/srv/llama").message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Value image:2 cannot be converted to <function loads at 0x7fc0b3926e80>.",
            'invalid value \'image:2\': expected JSON, such as {"key": "value"}',
        ),
        ("invalid loads value: 'x'", 'invalid value \'x\': expected JSON, such as {"key": "value"}'),
        (
            "Value x cannot be converted to <function human_readable_int at 0x7fc0b3896020>.",
            "invalid value 'x': expected a whole number, such as 4096, 4k or 1.5M",
        ),
        ("Value x cannot be converted to <class 'float'>.", "invalid value 'x': expected float"),
        ("Value x cannot be converted to <function t.<locals>._pair at 0x7f>.", "invalid value 'x': expected pair"),
        ("invalid int value: 'many'", "invalid int value: 'many'"),
        ("see <function helper at 0x7fc0>", "see helper"),
    ],
)
def test_names_of_functions_become_what_is_expected(said: str, shown: str) -> None:
    assert plain(said) == shown


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["--lora-modules", "a=/m/a", "b=/m/b/"], ["/m/a", "/m/b"]),
        (['--speculative-config={"model": "/m/d"}'], ["/m/d"]),
        (["--tokenizer", "/m/t"], ["/m/t"]),
        (["--served-model-name=a/b"], []),
    ],
)
def test_paths_of_an_argument_are_found_in_all_ways_to_write_them(words: list[str], paths: list[str]) -> None:
    (option,) = split(words)
    assert sorted(set(paths_in(option))) == paths
