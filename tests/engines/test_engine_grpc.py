"""What the installed vLLM says of gRPC before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings
from reconciler.engines.launch import PreflightQuestion, question
from reconciler.engines.preflight import PreflightRunner, key_of
from reconciler.model import EffectiveSpec, EnvVar, Origin
from tests.support.arguments import written, written_in
from tests.support.engine.server import wait_for

pytestmark = pytest.mark.engine
COMMAND = ("vllm", "serve")


def spec_of(*args: str) -> EffectiveSpec:
    """Each argument in a line of its own, the first in 3."""
    return EffectiveSpec("image", written(*COMMAND), written_in("args.yaml", 3, ["--model=/mnt/models", *args]))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[PreflightRunner]:
    made = PreflightRunner(tmp_path / "cache", lambda: None)
    yield made
    made.close()


def ask(runner: PreflightRunner, spec: EffectiveSpec, python: Path, model: Path, folder: Path) -> PreflightQuestion:
    """Of a vLLM without its extra, whatever is installed, on a fresh start."""
    (folder / "lacks").mkdir()
    (folder / "lacks" / "smg_grpc_servicer.py").write_text("raise ImportError('it is not there')\n")
    asked = question(spec, EngineSettings(image="*", python=python), {"/mnt/models": str(model)}, str(folder))
    asked = replace(asked, env={**asked.env, "PYTHONPATH": str(folder / "lacks")})
    runner.ask(asked)
    wait_for(lambda: key_of(asked) not in runner.pending())
    return asked


def test_engine_without_its_extra_for_grpc_says_what_to_install(
    runner: PreflightRunner, stock_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    spec = spec_of("--grpc")
    asked = ask(runner, spec, stock_python, tiny_model, tmp_path)
    trouble = runner.trouble(key_of(asked))
    assert trouble is not None
    assert trouble.lasts
    assert "--grpc: this interpreter cannot serve gRPC" in str(trouble.error)
    assert f"install vLLM's extra grpc there: {stock_python} -m pip install smg-grpc-servicer" in str(trouble.error)
    assert trouble.error.origin(asked) == Origin("args.yaml", 4)


def test_flag_of_the_http_server_beside_grpc_is_refused_with_its_line(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    spec = spec_of("--grpc", "--enable-auto-tool-choice", "--tool-call-parser=hermes", "--max-num-seqs=4")
    asked = ask(runner, spec, engine_python, tiny_model, tmp_path)
    verdict = runner.result(key_of(asked))
    assert verdict is not None
    reasons = verdict.about(asked, Origin("service.yaml", 1)).reasons
    text = "is for the HTTP server, which --grpc replaces; remove one of them"
    assert [(reason.message, reason.origin) for reason in reasons] == [
        (f"--enable-auto-tool-choice {text}", Origin("args.yaml", 5)),
        (f"--tool-call-parser {text}", Origin("args.yaml", 6)),
    ]


def test_build_without_the_rust_frontend_says_so(
    runner: PreflightRunner, stock_python: Path, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    if list(stock_python.parents[1].glob("lib/python3*/site-packages/vllm/vllm-rs")):
        pytest.skip("this vLLM has a Rust frontend")
    spec = replace(spec_of("--grpc-port=9000"), env=(EnvVar("VLLM_USE_RUST_FRONTEND", "1"),))
    asked = ask(runner, spec, engine_python, tiny_model, tmp_path)
    trouble = runner.trouble(key_of(asked))
    assert trouble is not None
    assert "--grpc-port: this build of vLLM has no Rust frontend" in str(trouble.error)
    assert "write --grpc" in str(trouble.error)
    assert trouble.error.origin(asked) == Origin("args.yaml", 4)


def test_grpc_that_only_a_file_of_arguments_asks_for_is_refused(
    runner: PreflightRunner, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "arguments.yaml").write_text("grpc: true\n")
    spec = spec_of("--config", str(tmp_path / "arguments.yaml"))
    asked = ask(runner, spec, engine_python, tiny_model, tmp_path)
    verdict = runner.result(key_of(asked))
    assert verdict is not None
    (reason,) = verdict.about(asked, Origin("service.yaml", 1)).reasons
    assert reason.message.startswith("--grpc is set in the file of --config")
    assert reason.origin == Origin("args.yaml", 4)
