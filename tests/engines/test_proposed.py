"""What an engine is asked of a pull request: nothing that it would import, read or run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import EngineSettings
from reconciler.engines.launch import PreflightQuestion, question
from reconciler.engines.preflight import PreflightRunner, key_of
from reconciler.engines.proposed import parser_question
from reconciler.errors import Retryable
from reconciler.host.systemd.preflight import bound, command
from reconciler.model import EffectiveSpec, EnvVar, FileMount, Mount, Origin, VolumeFile, texts
from tests.support.arguments import written, written_in
from tests.support.engine.server import wait_for

COMMAND = ("python", "-m", "vllm.entrypoints.openai.api_server")
CODE = [
    "--middleware=evil.run",
    "--worker-cls=evil.Worker",
    "--worker_extension_cls=evil.Worker",
    "--scheduler-cls=evil.S",
    "--logits-processors=evil.P",
    "--tool-parser-plugin=/mnt/models/evil.py",
    "--reasoning-parser-plugin=/mnt/models/evil.py",
    "--io-processor-plugin=evil",
    "--trust-remote-code",
    '--kv-transfer-config={"kv_connector":"E","kv_connector_module_path":"evil"}',
    "--kv-transfer-config.kv_connector_module_path=evil",
    "--load-format=evil",
    "--config=/etc/shadow",
    "--log-config-file=/etc/shadow",
    "--chat-template=/etc/shadow",
    "--ssl-keyfile=/etc/shadow",
    "--speculative-config={}",
    "--hf-overrides={}",
    "--api-key=secret",
    "--model-class-overrides={}",
    '--compilation-config={"inductor_passes":{"a":"evil.f"}}',
    "--compilation_config.inductor_passes.a=evil.f",
    '-cc={"inductor_passes":{"a":"evil.f"}}',
    "-cc.inductor_passes.a=evil.f",
    "-O.inductor_passes.a=evil.f",
    '-O{"inductor_passes":{"a":"evil.f"}}',
    '-c={"inductor_passes":{"a":"evil.f"}}',
    '-cc{"inductor_passes":{"a":"evil.f"}}',
    '-sc={"method":"evil"}',
    "-asc={}",
]


def asked_of(*args: str, model: str = "--model=/mnt/models", python: str = "/e/bin/python") -> PreflightQuestion:
    lines = written_in("services/tiny.yaml", 30, args)
    env = (EnvVar("VLLM_PLUGINS", "evil"), EnvVar("LD_PRELOAD", "/mnt/x/evil.so"))
    files = (FileMount("/mnt/x", (VolumeFile("evil.py", "print(1)"),)),)
    spec = EffectiveSpec("image", written(*COMMAND), (*written(model), *lines), env, (Mount("pvc://m"),), files=files)
    engine = EngineSettings.model_validate({"image": "image", "python": python, "env": {"OWN": "1"}})
    return question(spec, engine, {"/mnt/models": "/srv/models/m"}, "/tmp/home")


@given(st.lists(st.sampled_from([*CODE, "--max-model-len=64", "--dtype", "float16", "--enforce-eager"]), max_size=6))
def test_question_keeps_only_what_a_parser_judges(args: list[str]) -> None:
    asked = parser_question(asked_of(*args))
    assert "evil" not in str(texts(asked.argv))
    assert "/etc/shadow" not in str(texts(asked.argv))
    assert [each for each in texts(asked.argv)[1:] if each.startswith("--")] == [
        each for each in args if each not in CODE and each.startswith("--")
    ]


def test_short_flag_that_a_parser_takes_for_a_longer_one_is_left_out() -> None:
    asked = parser_question(asked_of("-c", '{"inductor_passes":{"a":"evil.f"}}', "-tp", "2", "-O3"))
    assert texts(asked.argv)[1:] == ("-tp", "2")


def test_question_holds_no_flag_behind_two_dashes() -> None:
    asked = parser_question(asked_of("--dtype", "float16", "--", "--config", "/etc/shadow"))
    assert texts(asked.argv)[1:] == ("--dtype", "float16")


def test_question_has_no_variable_or_file_of_the_revision() -> None:
    asked = parser_question(asked_of())
    assert not asked.files
    assert not asked.given
    assert "VLLM_PLUGINS" not in asked.env
    assert "LD_PRELOAD" not in asked.env
    assert asked.env["OWN"] == "1"
    assert not any("/srv/models" in value for value in asked.env.values())


@pytest.mark.parametrize("model", ["/etc", "etc", "model", "m", "/mnt/other", "../etc", "org/name"])
def test_model_outside_of_the_mounts_is_not_looked_for(model: str) -> None:
    asked = parser_question(asked_of(model=f"--model={model}"))
    assert texts(asked.argv) == ("--model=model-that-is-not-looked-at",)
    assert texts(parser_question(asked_of(model="--model=/mnt/models/sub")).argv) == ("--model=/mnt/models/sub",)


def test_paths_of_the_question_are_on_no_host() -> None:
    assert not any(
        Path("/", path).exists() or Path(path).is_absolute() for path in parser_question(asked_of()).paths.values()
    )


def test_unit_in_which_the_parser_runs_sees_no_model() -> None:
    asked = parser_question(asked_of())
    assert bound(asked) == {}
    assert bound(asked_of()) == {"/mnt/models": "/srv/models/m"}
    assert "BindReadOnlyPaths" not in " ".join(command(asked, "unit.service", "user", (), 10)).replace("/tmp", "")


def test_engine_in_an_image_is_not_asked() -> None:
    with pytest.raises(Retryable, match="when the revision is accepted"):
        parser_question(replace(asked_of(), image="sha256:1"))


@pytest.mark.engine
def test_installed_engine_rejects_by_its_parser_and_runs_nothing(engine_python: Path, tmp_path: Path) -> None:
    runner = PreflightRunner(tmp_path / "cache", lambda: None)
    try:
        fine = parser_question(asked_of("--max_model_len=64", *CODE, python=str(engine_python)))
        wrong = parser_question(asked_of("--trust-remote-code", "--max-modle-len=64", python=str(engine_python)))
        for each in (fine, wrong):
            runner.ask(each)
        wait_for(lambda: not runner.pending())
        accepted, rejected = (runner.result(key_of(each)) for each in (fine, wrong))
        assert accepted
        assert rejected
        assert accepted.about(fine, Origin("a", 1)).reasons == ()
        # As a push would have it: the same text, so that what means the same is known to restart nothing.
        assert "/mnt/models" in accepted.parsed
        (reason,) = rejected.about(wrong, Origin("a", 1)).reasons
        assert "--max-model-len" in reason.message
        assert reason.origin == Origin("services/tiny.yaml", 31)
    finally:
        runner.close()
