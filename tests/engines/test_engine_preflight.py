"""The installed vLLM's verdicts: what is wrong, where, and which arguments mean the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings
from reconciler.engines.launch import PreflightQuestion, question
from reconciler.engines.preflight import PreflightRunner, engine_version, key_of
from reconciler.engines.preflight_program.preflight_hints import REMOVED
from reconciler.engines.verdict import PreflightVerdict
from reconciler.errors import Retryable
from reconciler.model import (
    Argument,
    EffectiveSpec,
    EnvVar,
    FileMount,
    Mount,
    Origin,
    Preflight,
    Reason,
    VolumeFile,
    texts,
)
from tests.support.arguments import written, written_in
from tests.support.engine.server import wait_for

engine = pytest.mark.engine
COMMAND = ("python", "-m", "vllm.entrypoints.openai.api_server")
SERVICE_LINE = Origin("service.yaml", 1)


MODEL = "--model=/mnt/models"


def spec_of(*args: str, model: str = MODEL) -> EffectiveSpec:
    return EffectiveSpec("image", written(*COMMAND), written(model, *args), (), (Mount("pvc://m"),))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreflightRunner]:
    runner = PreflightRunner(tmp_path_factory.mktemp("preflight"), lambda: None)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def ask(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Preflight]:
    """Ask about arguments; each argument of the spec stands on a line of its own, the first on 10."""
    home = str(tmp_path_factory.mktemp("home"))

    def ask(*args: str, model: str = "--model=/mnt/models") -> Preflight:
        spec = spec_of(*args, model=model)
        spec = replace(spec, args=written_in("args.yaml", 10, texts(spec.args)))
        asked = question(spec, EngineSettings(image="*", python=engine_python), {"/mnt/models": str(tiny_model)}, home)
        return answer(runner, asked).about(asked, SERVICE_LINE)

    return ask


def answer(runner: PreflightRunner, asked: PreflightQuestion) -> PreflightVerdict:
    runner.ask(asked)
    wait_for(lambda: key_of(asked) not in runner.pending())
    verdict = runner.result(key_of(asked))
    if verdict is None:
        runner.ask(asked)  # raises what went wrong
    assert verdict is not None
    return verdict


@pytest.fixture(scope="module")
def mistral_model(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Mistral's own format, as far as a preflight looks; the tokenizer comes from Mistral's package."""
    folder = tmp_path_factory.mktemp("mistral")
    shape = {"dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 128, "n_heads": 4, "n_kv_heads": 2}
    more = {"norm_eps": 1e-5, "vocab_size": 32768, "rope_theta": 10000.0, "max_position_embeddings": 512}
    (folder / "params.json").write_text(json.dumps(shape | more))
    (folder / "consolidated.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    code = "import mistral_common, os; print(os.path.dirname(mistral_common.__file__))"
    package = subprocess.run([engine_python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (tokenizer,) = Path(package, "data").glob("mistral_instruct_tokenizer_240323.model.v3")
    shutil.copy(tokenizer, folder / "tokenizer.model.v3")
    return folder


@engine
def test_mistrals_own_format_is_the_engines_to_judge(
    runner: PreflightRunner, engine_python: Path, mistral_model: Path, tmp_path: Path
) -> None:
    asked = asked_of(engine_python, tmp_path, "--load-format=mistral", "--tokenizer-mode=mistral", model=mistral_model)
    assert answer(runner, asked).errors == ()
    (mistral_model / "params.json").unlink()
    (error,) = answer(runner, asked).errors
    assert "contains a recognized configuration file" in error.message


@engine
def test_gguf_file_is_refused_by_a_vllm_that_has_no_loader_for_it(
    runner: PreflightRunner, engine_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.gguf").write_bytes(b"GGUF\x03")
    spec = spec_of(model="--model=/mnt/models/m.gguf")
    asked = question(
        spec, EngineSettings(image="*", python=engine_python), {"/mnt/models": str(tmp_path / "model")}, "/h"
    )
    (error,) = answer(runner, asked).errors
    assert error.index == 0
    assert "has no GGUF loader of its own; take safetensors" in error.message


REFUSED = [
    (["--max-model-length=8k"], [(11, "unrecognized argument --max-model-length; did you mean --max-model-len?")]),
    (["--gpu-memory", "0.5"], [(11, "--gpu-memory is an abbreviation of --gpu-memory-utilization; write it in full")]),
    (["--foo", "bar", "--enforce-eager"], [(11, "unrecognized argument --foo")]),
    (["--enforce-eager", "bar"], [(12, "unexpected argument 'bar' after --enforce-eager")]),
    (["--max-model-len"], [(11, "--max-model-len: expected one argument")]),
    (["--hf-overrides.x"], [(11, "--hf-overrides: its value is missing")]),
    (
        ["--limit-mm-per-prompt=image:2"],
        [(11, '--limit-mm-per-prompt: image:2 is not JSON; write {"image": 2}')],
    ),
    (["--limit-mm-per-prompt", "image=2", "video=1"], [(11, 'is not JSON; write {"image": 2, "video": 1}')]),
    (["--hf-overrides='{\"a\": 1}'"], [(11, 'no shell takes them away; write {"a": 1}')]),
    (["--additional-config={a: 1}"], [(11, '--additional-config: {a: 1} is not JSON; write {"a": 1}')]),
    (["--allowed-origins=*"], [(11, '--allowed-origins: * is not JSON; write ["*"]')]),
    (["--lora-modules=a:/x"], [(11, "--lora-modules: cannot read 'a:/x'; write NAME=PATH")]),
    (["--max-model-len 4096"], [(11, "one item of the list, and no shell splits it")]),
    (
        ["--tool-call-parser hermes --enable-auto-tool-choice", "--dtype=auto --enforce-eager"],
        [
            (11, "write an item for each flag: --tool-call-parser=hermes, --enable-auto-tool-choice"),
            (12, "write an item for each flag: --dtype=auto, --enforce-eager"),
        ],
    ),
    (["--enforce-eager=true"], [(11, "--enforce-eager takes no value; write --enforce-eager alone")]),
    (["--enable-chunked-prefill", "False"], [(12, "takes no value; write --no-enable-chunked-prefill")]),
    (["max-model-len=256"], [(11, "begins with two hyphens; did you mean --max-model-len=256?")]),
    (
        ["--gpu-memory-utilization=90"],
        [(11, "--gpu-memory-utilization: Input should be less than or equal to 1; write 0.9")],
    ),
    (["--gpu-memory-utilization=90%"], [(11, "invalid float value: '90%'; write 0.9")]),
    (["--dtype=FP16"], [(11, "did you mean float16?")]),
    (["--kv-cache-memory-bytes=32Mi"], [(11, "such as 4096, 4k or 1.5M; write 32M")]),
    (["--max-model-len=$(LEN)"], [(11, "$(LEN) was not filled in: the container has no env variable LEN")]),
    (["--tp=1"], [(11, "did you mean --tensor-parallel-size?")]),
    (["--no_such_flag=1", "--swap_space=4"], [(11, "argument --no-such-flag"), (12, "--swap-space was removed")]),
    (['--compilation-config={"level": 3}'], [(11, "level: Unexpected keyword argument; did you mean mode?")]),
    (['--speculative-config={"metod": "ngram"}'], [(11, "did you mean method?")]),
    (["--reasoning-parser=deepseek-r1"], [(11, "'deepseek-r1' not found; did you mean deepseek_r1?")]),
    (["--attention-backend=flash-attn"], [(11, "did you mean FLASH_ATTN?")]),
    (["--runner=embed"], [(11, "did you mean pooling?")]),
    (["--kv-transfer-config=/mnt/models/x.json"], [(11, "vLLM reads no file here; write the JSON itself")]),
    (["--max-model-len=abc"], [(11, "invalid value 'abc': expected auto or a whole number, such as 4096, 4k")]),
    (["--tokenizer=/mnt/models/none", "--dtype=auto"], [(11, "/mnt/models/none")]),
    (
        ['--speculative-config={"model": "/mnt/models/none", "num_speculative_tokens": 2}', "--dtype=auto"],
        [(11, "/mnt/models/none")],
    ),
    (["--max-num-seqs=many"], [(11, "--max-num-seqs: invalid")]),
    (["--dtype=bfloat1"], [(11, "did you mean bfloat16 or float16?")]),
    (["--dtype", "float99", "--dtype", "auto"], [(11, "--dtype: invalid choice: 'float99'")]),
    (["--compilation-config", "{garbage"], [(11, "--compilation-config: {garbage is not JSON")]),
    (["--compilation-config.mode=77"], [(11, "mode: Input should be 0, 1, 2 or 3")]),
    (
        ["--hf-overrides={garbage"],
        [(11, "is not JSON (Expecting property name enclosed in double quotes at character 2)")],
    ),
    (["--chat-template=/app/none.jinja"], [(11, "--chat-template: The supplied chat template")]),
    (["--config", "/nowhere.yaml"], [(11, "--config: [Errno 2] No such file or directory")]),
    (["--help"], [(11, "--help: makes the server print something and exit")]),
    (["--enable-auto-tool-choice"], [(11, "--enable-auto-tool-choice requires --tool-call-parser")]),
    (
        ["--tool-call-parser", "hermez", "--enable-auto-tool-choice"],
        [(11, "invalid tool call parser: hermez; did you mean")],
    ),
    (["--reasoning-parser=nope"], [(11, "Reasoning parser 'nope' not found")]),
    (["--max-model-len", "99999"], [(11, "max_model_len (99999) is greater than the derived max_model_len")]),
    (["--enforce-eager", "-tp", "3"], [(12, "attention heads (2) must be divisible by tensor parallel size (3)")]),
    (["--quantization", "awq"], [(11, "--quantization: Cannot find the config file for awq")]),
    (["--gpu-memory-utilization=1.5"], [(11, "Input should be less than or equal to 1")]),
    (["--shutdown-timeout", "-5"], [(11, "--shutdown-timeout: Input should be greater than or equal to 0")]),
    (["--speculative-config", '{"method": "zzz"}'], [(11, "--speculative-config: method: Input should be 'ngram'")]),
    (
        ["--dtype", "float99", "--port=abc", "--max-modl-len", "5", "--foo"],
        [(11, "--dtype"), (13, "--port: invalid int"), (14, "did you mean --max-model-len?"), (16, "argument --foo")],
    ),
    (
        ["--max-model-len", "99999", "--tensor-parallel-size=3"],
        [(11, "--max-model-len"), (13, "--tensor-parallel-size")],
    ),
]


@engine
@pytest.mark.parametrize(("args", "expected"), REFUSED, ids=lambda value: " ".join(map(str, value))[:40])
def test_each_wrong_argument_is_named_with_its_line(
    ask: Callable[..., Preflight], args: list[str], expected: list[tuple[int, str]]
) -> None:
    verdict = ask(*args)
    assert not verdict.accepted
    assert [reason.origin for reason in verdict.reasons] == [Origin("args.yaml", line) for line, _ in expected]
    for reason, (_, part) in zip(verdict.reasons, expected, strict=True):
        assert part in reason.message
        assert "\n" not in reason.message
        assert len(reason.message) < 400


@engine
def test_removed_flag_names_a_successor_that_the_engine_takes(
    ask: Callable[..., Preflight],
) -> None:
    """None of them is still known, and whatever is written instead is: asked of the installed parser, all at once."""
    names = sorted(REMOVED)
    reasons: list[Reason] = []
    for start in range(0, len(names), 20):
        reasons += ask(*(f"{name}=ngram" for name in names[start : start + 20])).reasons
    for name, reason in zip(names, reasons, strict=True):
        assert reason.message.startswith(f"{name} was removed"), reason.message
    told = {word for reason in reasons for word in re.findall(r"(?<!\w)--[a-z][a-z0-9-]+", reason.message)} - set(names)
    assert len(told) > 10
    for start in range(0, len(told), 10):
        said = [reason.message for reason in ask(*sorted(told)[start : start + 10]).reasons]
        assert not [text for text in said if "unrecognized" in text or "was removed" in text]


@engine
def test_accepted_value_that_is_hardly_meant_is_warned_about(ask: Callable[..., Preflight]) -> None:
    found = ask("--served-model-name='tiny'", "--generation-config=vllm --enable-lora", '--api-key="abc"')
    assert found.accepted
    assert found.warnings == (
        "the quotes around the value of --served-model-name are part of it, as no shell takes them away",
        "the value of --generation-config holds --enable-lora; write an item of the list for each flag",
        "the quotes around the value of --api-key are part of it, as no shell takes them away",
    )


@engine
def test_services_own_argument_is_blamed_before_its_runtimes(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Of two that do not go together, others live with the runtime's."""
    runtime, own = Origin("runtime.yaml", 11), Origin("service.yaml", 12)
    for args, origins in (
        (("--max-num-batched-tokens=64", "--max-model-len=1000"), (runtime, own)),
        (("--max-model-len=1000", "--max-num-batched-tokens=64"), (runtime, own)),
        (("--max-num-batched-tokens=64", "--max-model-len=1000"), (own, runtime)),
    ):
        spec = spec_of(*args, "--no-enable-chunked-prefill")
        lines = (runtime, *origins, runtime)
        spec = replace(spec, args=tuple(map(Argument, texts(spec.args), lines)))
        paths = {"/mnt/models": str(tiny_model)}
        asked = question(spec, EngineSettings(image="*", python=engine_python), paths, str(tmp_path))
        found = answer(runner, asked).about(asked, SERVICE_LINE)
        (reason,) = found.reasons
        assert reason.origin == own, reason.message
        assert reason.message.startswith(args[origins.index(own)].partition("=")[0])


@engine
@pytest.mark.parametrize("name", ["VLLM_PORT", "VLLM_ENGINE_READY_TIMEOUT_S", "VLLM_CPU_KVCACHE_SPACE"])
def test_variable_that_vllm_cannot_read_is_refused_with_its_line(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    """Most of them it reads only once the server runs."""
    spec = replace(spec_of(), env=(EnvVar(name, "tcp://10.0.0.1:80"),))
    paths, line = {"/mnt/models": str(tiny_model)}, Origin("service.yaml", 30)
    asked = question(spec, EngineSettings(image="*", python=engine_python), paths, str(tmp_path))
    found = answer(runner, asked).about(asked, SERVICE_LINE, {name: line})
    (reason,) = found.reasons
    assert reason.origin == line
    assert f"variable {name}: " in reason.message


@engine
def test_variable_of_the_config_that_vllm_cannot_read_is_this_hosts_fault(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = EngineSettings(image="*", python=engine_python, env={"VLLM_ENGINE_READY_TIMEOUT_S": "much"})
    asked = question(spec_of(), config, {"/mnt/models": str(tiny_model)}, str(tmp_path))
    runner.ask(asked)
    wait_for(lambda: key_of(asked) not in runner.pending())
    trouble = runner.trouble(key_of(asked))
    assert trouble is not None
    assert "variable VLLM_ENGINE_READY_TIMEOUT_S: " in str(trouble.error)


@engine
def test_folder_of_this_host_stands_beside_the_containers(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    spec = spec_of("--tokenizer=/mnt/models/none")
    paths = {"/mnt/models": str(tiny_model)}
    asked = question(spec, EngineSettings(image="*", python=engine_python), paths, str(tmp_path))
    (reason,) = answer(runner, asked).about(asked, SERVICE_LINE).reasons
    assert f"(/mnt/models is {tiny_model} on this host)" in reason.message


@engine
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}', "needs the Python package lmcache"),
        (
            '{"kv_connector": "Mine", "kv_role": "kv_both", "kv_connector_module_path": "nowhere.mine"}',
            "nowhere.mine cannot be imported: No module named 'nowhere'",
        ),
    ],
)
def test_package_that_a_connector_needs_is_this_hosts_fault(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path, config: str, says: str
) -> None:
    spec = replace(spec_of(), args=written_in("args.yaml", 10, [MODEL, f"--kv-transfer-config={config}"]))
    paths = {"/mnt/models": str(tiny_model)}
    asked = question(spec, EngineSettings(image="*", python=engine_python), paths, str(tmp_path))
    runner.ask(asked)
    wait_for(lambda: key_of(asked) not in runner.pending())
    trouble = runner.trouble(key_of(asked))
    assert trouble is not None
    assert trouble.lasts
    assert says in str(trouble.error)
    assert trouble.error.origin(asked) == Origin("args.yaml", 11)


@engine
def test_tokenizer_that_does_not_load_is_refused(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    text = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(text | {"model": {"type": "BPE"}}))
    spec = replace(spec_of(), args=written_in("args.yaml", 10, [MODEL]))
    asked = question(spec, EngineSettings(image="*", python=engine_python), {"/mnt/models": str(model)}, str(tmp_path))
    (reason,) = answer(runner, asked).about(asked, SERVICE_LINE).reasons
    assert reason.origin == Origin("args.yaml", 10)
    assert "the tokenizer in /mnt/models cannot be loaded" in reason.message


@engine
def test_what_no_argument_is_to_blame_for_names_the_service(ask: Callable[..., Preflight]) -> None:
    (reason,) = ask(model="--enforce-eager").reasons
    assert reason.message.startswith("no --model is given, and vLLM would serve its default")
    assert reason.origin == SERVICE_LINE


@engine
def test_missing_model_files_are_reported_by_the_containers_path(ask: Callable[..., Preflight]) -> None:
    (reason,) = ask(model="--model=/mnt/models/none").reasons
    assert str(reason).startswith("args.yaml:10: no model files at /mnt/models/none (/mnt/models is ")


@engine
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["--max-model-len=2k"], ["--max_model_len", "2000"]),
        (["--gpu-memory-utilization", ".9"], ["--gpu-memory-utilization=0.90"]),
        (["--enforce-eager", "--max-num-seqs=4"], ["--max-num-seqs=4", "--enforce-eager"]),
        (['--hf-overrides={"b": 1,  "a": {"c": 2}}'], ["--hf-overrides.a.c", "2", "--hf-overrides.b=1"]),
        (["-cc.mode=0"], ['--compilation-config={"mode": 0}']),
        (["-tp", "2"], ["--tensor-parallel-size=2"]),
        (["--port=8080"], ["--port", "9000", "--host=0.0.0.0"]),
        (["--dtype=auto"], []),
        (["--max-num-seqs=2", "--max-num-seqs=4"], ["--max-num-seqs=4"]),
    ],
)
def test_equal_meaning_gives_equal_text(ask: Callable[..., Preflight], one: list[str], other: list[str]) -> None:
    first, second = ask(*one), ask(*other)
    assert first.accepted
    assert second.accepted
    assert first.parsed == second.parsed


@engine
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["--max-model-len=1k"], ["--max-model-len=1K"]),
        (["--served-model-name", "a", "b"], ["--served-model-name", "b", "a"]),
        (["--served-model-name=1.10"], ["--served-model-name=1.1"]),
        (["--enable-prefix-caching"], ["--enable-prefix-caching", "--no-enable-prefix-caching"]),
        (["--api-key=a"], ["--api-key=b"]),
        (["--hf-overrides.rope_theta=1"], ["--hf-overrides.rope_theta=2"]),
    ],
)
def test_different_meaning_gives_different_text(
    ask: Callable[..., Preflight], one: list[str], other: list[str]
) -> None:
    assert ask(*one).parsed != ask(*other).parsed


@engine
def test_text_holds_the_containers_paths_and_no_secret(ask: Callable[..., Preflight], tiny_model: Path) -> None:
    parsed = ask("--tokenizer=/mnt/models", "--api-key=hunter2").parsed
    assert json.loads(parsed)["tokenizer"] == "/mnt/models"
    assert str(tiny_model) not in parsed
    assert "hunter2" not in parsed


@engine
def test_gpus_are_counted(ask: Callable[..., Preflight]) -> None:
    assert ask().gpus == 1
    assert ask("-tp=2", "--data-parallel-size=2").gpus == 4


@engine
def test_risky_but_valid_arguments_are_warned_about(ask: Callable[..., Preflight]) -> None:
    assert ask().warnings == ()
    assert "freezes running requests" in ask("--shutdown-timeout=0").warnings[0]
    assert "more than one API server" in ask("--data-parallel-size=2").warnings[0]
    assert "--max-num-seqs is given more than once" in ask("--max-num-seqs=2", "--max-num-seqs=4").warnings[0]


@engine
def test_stock_interpreter_gives_the_same_verdicts(
    runner: PreflightRunner, ask: Callable[..., Preflight], stock_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for args in (["--max-num-seqs=4"], ["--max-modl-len=4", "--dtype=x"]):
        spec = spec_of(*args)
        spec = replace(spec, args=written_in("args.yaml", 10, texts(spec.args)))
        paths = {"/mnt/models": str(tiny_model)}
        asked = question(spec, EngineSettings(image="*", python=stock_python), paths, str(tmp_path))
        stock = answer(runner, asked).about(asked, SERVICE_LINE)
        mine = ask(*args)
        assert [r.message for r in stock.reasons] == [r.message for r in mine.reasons]
        assert stock.parsed == mine.parsed


@engine
def test_verdicts_outlive_the_daemon(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    asked = question(
        spec_of("--foo"),
        EngineSettings(image="*", python=engine_python),
        {"/mnt/models": str(tiny_model)},
        str(tmp_path),
    )
    first = PreflightRunner(tmp_path / "cache", lambda: None)
    verdict = answer(first, asked)
    first.close()
    assert verdict.errors
    woken: list[int] = []
    second = PreflightRunner(tmp_path / "cache", lambda: woken.append(1))
    assert second.result(key_of(asked)) == verdict
    second.ask(asked)
    assert second.pending() == frozenset()
    second.close()
    assert woken == []


# ---------------------------------------------------------------- without vLLM: what goes wrong on our side


def fake_python(folder: Path, body: str) -> Path:
    """An interpreter in a virtual environment's place."""
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return python


def asked_of(python: Path, folder: Path, *args: str, model: Path | None = None) -> PreflightQuestion:
    paths = {"/mnt/models": str(model or folder / "model")}
    return question(spec_of(*args), EngineSettings(image="*", python=python), paths, str(folder / "home"))


VERDICT = '{"parsed": "p", "gpus": 1, "errors": [], "warnings": []}'


def failure(folder: Path, python: Path, timeout: float = 30.0) -> str:
    """What asking again says after it failed once."""
    woken = threading.Event()
    runner = PreflightRunner(folder / "cache", woken.set, timeout)
    try:
        runner.ask(asked_of(python, folder))
        assert woken.wait(60)
        assert runner.result(key_of(asked_of(python, folder))) is None
        assert not list((folder / "cache").glob("*")), "our own trouble must not be kept as a verdict"
        with pytest.raises(Retryable) as raised:
            runner.ask(asked_of(python, folder))
        return str(raised.value)
    finally:
        runner.close()


def test_missing_interpreter_is_our_trouble_and_not_a_verdict(tmp_path: Path) -> None:
    assert "check engines[].python" in failure(tmp_path, tmp_path / "no" / "bin" / "python")


def test_interpreter_without_vllm_says_so(tmp_path: Path) -> None:
    import sys

    assert "has no vLLM" in failure(tmp_path, Path(sys.executable))


def test_hanging_interpreter_is_killed_with_its_children(tmp_path: Path) -> None:
    python = fake_python(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    assert "took longer than 0.5 s" in failure(tmp_path, python, timeout=0.5)
    wait_for(lambda: not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}/fd/0"))


@pytest.mark.parametrize("stream", [1, 2])
def test_interpreter_that_prints_too_much_is_killed_with_its_children(tmp_path: Path, stream: int) -> None:
    """It may be code that came with the model, and what we keep of it is our own memory."""
    python = fake_python(
        tmp_path, f"(head -c 100000000 /dev/zero; exec sleep 1000) >&{stream} & echo $! > {tmp_path}/pid; wait"
    )
    assert "printed more than 2 MiB, and was ended" in failure(tmp_path, python)
    wait_for(lambda: not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}/fd/0"))


def test_long_question_reaches_an_interpreter_that_speaks_first(tmp_path: Path) -> None:
    """Pipes hold less than that, in both directions."""
    python = fake_python(tmp_path, f"head -c 1000000 /dev/zero >&2; wc -c > {tmp_path}/heard; echo '{VERDICT}'")
    asked = asked_of(python, tmp_path, "--x=" + "y" * 1000000)
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    assert answer(runner, asked).parsed == "p"
    runner.close()
    assert int((tmp_path / "heard").read_text()) > 1000000


NOWHERE = '{"parsed": "p", "gpus": 1, "errors": [{"message": "x", "index": "a"}], "warnings": []}'


@pytest.mark.parametrize(
    "output", ["", "garbage", "[]", "{}", '{"parsed": 1}', '{"environment": "no GPU driver"}', NOWHERE]
)
def test_garbage_instead_of_an_answer_is_our_trouble(tmp_path: Path, output: str) -> None:
    python = fake_python(tmp_path, f"echo '{output}'; echo 'Segmentation fault' >&2; exit 3")
    message = failure(tmp_path, python)
    assert "no GPU driver" in message or "it ended with 3 and no result: Segmentation fault" in message


def test_error_about_no_word_of_the_arguments_names_the_service(tmp_path: Path) -> None:
    """The answer may come from code of the model; a pass must survive its content."""
    said = '{"parsed": "p", "gpus": 1, "errors": [{"message": "x", "index": 10000}], "warnings": []}'
    asked = asked_of(fake_python(tmp_path, f"cat > /dev/null; echo '{said}'"), tmp_path)
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    found = answer(runner, asked).about(asked, SERVICE_LINE)
    runner.close()
    assert [(reason.message, reason.origin) for reason in found.reasons] == [("x", SERVICE_LINE)]


def test_verdict_that_was_half_written_is_asked_for_again(tmp_path: Path) -> None:
    asked = asked_of(fake_python(tmp_path, f"cat > /dev/null; echo '{VERDICT}'"), tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{key_of(asked)}.json").write_text(VERDICT[:20])
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    assert answer(runner, asked).parsed == "p"
    runner.close()
    assert json.loads((tmp_path / "cache" / f"{key_of(asked)}.json").read_text())["parsed"] == "p"


def test_verdict_counts_though_the_clock_was_set_back_since(tmp_path: Path) -> None:
    """A restart asked for before that lies ahead: else the engine is asked again and again until then."""
    asked = asked_of(fake_python(tmp_path, f"cat > /dev/null; echo '{VERDICT}'"), tmp_path)
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    answer(runner, asked)
    now = time.time()
    assert runner.result(key_of(asked), now - 60)
    assert runner.result(key_of(asked), now + 2) is None
    assert runner.result(key_of(asked), now + 86_400)
    runner.ask(asked, now + 86_400)
    assert not runner.pending()
    runner.close()


def test_question_is_asked_once_there_are_threads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would count as being asked forever."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asked = asked_of(fake_python(tmp_path, f"cat > /dev/null; echo '{VERDICT}'"), tmp_path)
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Retryable, match="TasksMax"):
            runner.ask(asked)
    assert not runner.pending()
    assert answer(runner, asked).parsed == "p"
    runner.close()


def test_closing_ends_what_is_being_asked(tmp_path: Path) -> None:
    python = fake_python(tmp_path, f"touch {tmp_path}/started; exec sleep 1000")
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    runner.ask(asked_of(python, tmp_path))
    wait_for((tmp_path / "started").exists)
    began = time.monotonic()
    runner.close()
    assert time.monotonic() - began < 100  # the sleep would be longer


def test_interpreter_inherits_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "x")
    python = fake_python(tmp_path, f"env > {tmp_path}/env; cat > /dev/null; echo '{VERDICT}'")
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    answer(runner, asked_of(python, tmp_path))
    runner.close()
    seen = (tmp_path / "env").read_text()
    assert "OUR_SECRET" not in seen
    assert "PYTHONDONTWRITEBYTECODE" not in seen
    assert "HF_HUB_OFFLINE=1" in seen


# ---------------------------------------------------------------- keys


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (site / "vllm-0.32.0.dist-info").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return fake_python(tmp_path, "exit 0")


def test_key_follows_the_engine_the_arguments_and_the_model(venv: Path, tmp_path: Path) -> None:
    site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    asked = asked_of(venv, tmp_path)
    keys = [key_of(asked), key_of(asked_of(venv, tmp_path, "--x"))]
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    keys.append(key_of(asked))
    (tmp_path / "model" / "weights").touch()
    keys.append(key_of(asked))
    (site / "vllm-0.32.0.dist-info").rename(site / "vllm-0.33.0.dist-info")
    keys.append(key_of(asked))
    shutil.rmtree(tmp_path / "model")
    keys.append(key_of(asked))
    keys.append(key_of(replace(asked, env={**asked.env, "VLLM_X": "1"})))
    assert len(set(keys)) == len(keys)


def test_config_larger_than_memory_has_a_key_too(venv: Path, tmp_path: Path) -> None:
    os.truncate(tmp_path / "model" / "config.json", 1 << 42)
    assert key_of(asked_of(venv, tmp_path))


def test_key_is_blind_to_where_the_model_lies(venv: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(tmp_path / "model", copied)
    assert key_of(asked_of(venv, tmp_path)) == key_of(asked_of(venv, tmp_path, model=copied))


def test_key_is_the_same_wherever_the_engine_is_asked(venv: Path, tmp_path: Path) -> None:
    spec = replace(spec_of(), env=(EnvVar("CHAT", "/mnt/models/chat.jinja"),))
    engine, paths = EngineSettings(image="*", python=venv), {"/mnt/models": str(tmp_path / "model")}
    child = question(spec, engine, paths, str(tmp_path / "home"))
    unit = question(spec, engine, paths, "/var/cache/reconciler/1234", mounted=True)
    assert (child.env["CHAT"], unit.env["CHAT"]) == (f"{tmp_path}/model/chat.jinja", "/mnt/models/chat.jinja")
    assert key_of(child) == key_of(unit)


@pytest.mark.engine
def test_version_is_read_without_running_anything(venv: Path, engine_python: Path, stock_python: Path) -> None:
    assert engine_version(venv).startswith("vllm-0.32.0.dist-info ")
    assert engine_version(engine_python) == engine_version(stock_python) != ""
    assert engine_version(Path("/nowhere/bin/python")) == ""


def test_question_that_broke_our_side_does_not_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    runner = PreflightRunner(tmp_path / "cache", done.set)
    asked = PreflightQuestion(tmp_path / "python", (), {}, {})

    def broken(_: PreflightQuestion) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(runner, "_run", broken)
    runner.ask(asked)
    assert done.wait(30)
    assert not runner.pending()
    with pytest.raises(Retryable, match="unexpected MemoryError"):
        runner.ask(asked)
    runner.close()


# ---------------------------------------------------------------- files that git holds


def mounted(engine_python: Path, tiny_model: Path, home: Path, *args: str, **files: str) -> PreflightQuestion:
    volume = FileMount("/chat", tuple(VolumeFile(name.replace("_", "."), text) for name, text in files.items()))
    spec = replace(spec_of(*args), files=(volume,), env=(EnvVar("VLLM_LOGGING_CONFIG_PATH", "/chat/log.json"),))
    return question(spec, EngineSettings(image="*", python=engine_python), {"/mnt/models": str(tiny_model)}, str(home))


@engine
def test_preflight_sees_files_of_a_mounted_config_map(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
):
    config = "max-model-len: 64\nchat-template: /chat/t.jinja\n"
    files = {"t_jinja": "{{ messages }}", "c_yaml": config, "log_json": '{"version": 1}'}
    args = ("--config", "/chat/c.yaml")
    asked = mounted(engine_python, tiny_model, tmp_path, *args, **files)
    verdict = answer(runner, asked)
    assert verdict.errors == ()
    assert "/chat/t.jinja" in verdict.parsed
    assert "preflight-" not in verdict.parsed
    files["c_yaml"] = "max-model-len: many\n"
    refused = answer(runner, mounted(engine_python, tiny_model, tmp_path, *args, **files))
    assert "many" in str(refused.errors)


def test_changed_file_of_a_config_map_is_another_question(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    keys = {key_of(mounted(Path("/opt/python"), model, tmp_path, t_jinja=text)) for text in ("{{ a }}", "{{ b }}")}
    assert len(keys) == 2
