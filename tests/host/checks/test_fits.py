"""The fit of a host's specs: read once, and corrected by what an engine measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config import settings as config
from reconciler.engines.fit import GIB
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.verdict import PreflightVerdict
from reconciler.host.checks import fits
from reconciler.host.checks.fits import Fits, Machine
from reconciler.model import EffectiveSpec, Fit, Gpu, Resources
from tests.engines.test_fit import GPU_LOG, write_model
from tests.support.arguments import written

SPEC = EffectiveSpec("vllm", (), (), resources=Resources(gpus=1))
VERDICT = PreflightVerdict('{"max_model_len":8192,"model":"/mnt/models"}', 1, (), ())
SHAPE = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}

Ask = Callable[..., Fit]


class OneGpu:
    """Stands for NVIDIA's driver, which this machine has not."""

    def list(self) -> tuple[Gpu, ...]:
        return (Gpu("GPU-1", memory_bytes=24 * GIB),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    write_model(folder / "model.safetensors", {"a": ("BF16", 64)})
    return folder


@pytest.fixture
def machine() -> Machine:
    return Machine(config.HostSettings.model_validate({"name": "box", "paths": ["hosts/box"]}), OneGpu())  # type: ignore[arg-type]


def question(model: Path, *argv: str) -> PreflightQuestion:
    return PreflightQuestion(Path("/opt/vllm/bin/python"), written(*argv), {}, {"/mnt/models": str(model)})


def test_model_without_a_config_is_refused_by_no_estimate(model: Path, machine: Machine, tmp_path: Path) -> None:
    write_model(model / "model.safetensors", {"a": ("BF16", 40 * GIB)})
    some = Fits(tmp_path / "fit", machine)
    assert "its weights alone" in some.of("key", question(model), SPEC, VERDICT).refusal
    (model / "config.json").rename(model / "params.json")
    found = some.of("key", question(model), SPEC, VERDICT)
    assert (found.refusal, found.fits, found.weights_bytes) == ("", None, 40 * GIB)


def test_pass_that_changes_nothing_reads_no_headers(
    model: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = Fits(tmp_path / "fit", machine)
    first = some.of("key", question(model), SPEC, VERDICT)
    assert (first.weights_bytes, first.kv_bytes, first.fits) == (64, GIB, True)
    monkeypatch.setattr(fits, "look_at", lambda *_: pytest.fail("read again"))
    assert some.of("key", question(model), SPEC, VERDICT) is first
    monkeypatch.undo()
    write_model(model / "model-2.safetensors", {"b": ("BF16", 36)})
    assert some.of("key", question(model), SPEC, VERDICT).weights_bytes == 100


def test_each_amount_of_resources_has_a_fit_of_its_own(model: Path, machine: Machine, tmp_path: Path) -> None:
    some = Fits(tmp_path / "fit", machine)
    on_cpu = replace(SPEC, resources=Resources(memory_bytes=4 * GIB))
    assert [some.of("key", question(model), each, VERDICT).gpus for each in (SPEC, on_cpu, SPEC)] == [1, 0, 1]


def test_what_a_start_measured_is_kept_and_helps_the_next_estimate(
    model: Path, machine: Machine, tmp_path: Path
) -> None:
    some = Fits(tmp_path / "fit", machine)
    assert some.of("key", question(model), SPEC, VERDICT).overhead_bytes == 2 * GIB
    some.note("key", question(model), SPEC, VERDICT, GPU_LOG)
    for reader in (some, Fits(tmp_path / "fit", machine)):
        own = reader.of("key", question(model), SPEC, VERDICT)
        assert (own.measured, own.concurrency, own.weights_bytes) == (True, 4.52, round(14.99 * GIB))
        other = reader.of("other", question(model, "--max-num-seqs=8"), SPEC, VERDICT)
        assert (other.measured, other.weights_bytes, other.overhead_bytes) == (False, 64, own.overhead_bytes)
        assert other.overhead_bytes not in (None, 2 * GIB)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"starts": 1, "overhead": "x"}', '{"starts": {"key": {"x": 1}}, "overhead": 1.5}']
)
def test_damaged_file_of_measurements_counts_as_none(
    model: Path, machine: Machine, tmp_path: Path, content: str
) -> None:
    some = Fits(tmp_path / "fit", machine)
    some.note("key", question(model), SPEC, VERDICT, GPU_LOG)
    (path,) = (tmp_path / "fit").iterdir()
    path.write_text(content)
    fit = Fits(tmp_path / "fit", machine).of("key", question(model), SPEC, VERDICT)
    assert (fit.measured, fit.overhead_bytes) == (False, 2 * GIB)


def test_log_that_says_nothing_writes_nothing(model: Path, machine: Machine, tmp_path: Path) -> None:
    Fits(tmp_path / "fit", machine).note("key", question(model), SPEC, VERDICT, ["hello"])
    assert not (tmp_path / "fit").exists()


def test_model_that_is_no_folder_here_is_unknown(model: Path, machine: Machine, tmp_path: Path) -> None:
    hub = PreflightVerdict('{"model":"org/name"}', 1, (), ())
    fit = Fits(tmp_path / "fit", machine).of("key", question(model), SPEC, hub)
    assert (fit.line, fit.fits) == ("unknown: its model org/name is not a folder on this host", None)
