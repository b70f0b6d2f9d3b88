"""The flags that we add are asked about as well: what an older vLLM does not know, it is served without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings
from reconciler.engines.environment import Folders
from reconciler.engines.launch import ADDED, DISPENSABLE, OLDEST_VLLM, launch, question, without
from reconciler.engines.limits import Lacks
from reconciler.engines.preflight import PreflightRunner, engine_parts, key_of
from reconciler.engines.verdict import NoVerdict
from reconciler.model import EffectiveSpec, Lease, ServiceId
from tests.host.doctor.test_doctor import make_engine
from tests.support.arguments import written
from tests.support.engine.server import wait_for

SPEC = EffectiveSpec("image", written("vllm", "serve"), written("--model=org/chat", "--max-model-len=8"))
FOLDERS = Folders("/home", "/tmp", "/private")
ON_A_SOCKET = replace(FOLDERS, socket="/run/x/http.sock")
ENGINE = EngineSettings(image="*", python=Path("/p"))

# As small as a package can be that the preflight takes for vLLM: it has a parser of flags, as every version does.
VLLM = """
import argparse
class FlexibleArgumentParser(argparse.ArgumentParser): ...
def make_arg_parser(parser):
    for flag in {flags}:
        parser.add_argument(flag)
    return parser
"""


def make_vllm(folder: Path, *flags: str) -> Path:
    """An interpreter with a vLLM that knows only these flags."""
    python = make_engine(folder, vllm="0.16.0")
    package = next(folder.glob("lib/python3*/site-packages")) / "vllm"
    (package / "entrypoints" / "openai").mkdir(parents=True)
    for name in ("__init__.py", "entrypoints/__init__.py", "entrypoints/openai/__init__.py"):
        (package / name).write_text("__version__ = '0.16.0'\n")
    text = VLLM.format(flags=("--model", "--max-model-len", *flags))
    (package / "utils.py").write_text(text)
    (package / "entrypoints" / "openai" / "cli_args.py").write_text(text)
    return python


def ask(python: Path, cache: Path) -> PreflightRunner:
    """A runner that has asked."""
    asked = question(SPEC, EngineSettings(image="*", python=python), {}, str(cache / "home"))
    runner = PreflightRunner(cache, lambda: None)
    runner.ask(asked)
    wait_for(lambda: key_of(asked) not in runner.pending())
    runner.close()
    return runner


def started(python: Path, cache: Path) -> tuple[str, ...]:
    """The arguments that a later daemon would start it with."""
    found = launch(
        SPEC, EngineSettings(image="*", python=python), ServiceId("a", "b"), Lease(8123), {}, 20, ON_A_SOCKET
    )
    return without(found, Lacks(cache).of(engine_parts(python, "")), Lease(8123)).argv


def test_flags_asked_about_are_those_that_are_added() -> None:
    found = [
        word
        for folders in (FOLDERS, ON_A_SOCKET)
        for word in launch(SPEC, ENGINE, ServiceId("a", "b"), Lease(8123), {}, 20, folders).argv
    ]
    added = {word.partition("=")[0] for word in found if word.startswith("--")} - {"--model", "--max-model-len"}
    assert {word.partition("=")[0] for word in ADDED} == added


def test_old_engine_is_served_without_shutdown_timeout_and_on_its_port(tmp_path: Path) -> None:
    python = make_vllm(tmp_path / "engine", "--host", "--port", "--served-model-name")
    asked = question(SPEC, EngineSettings(image="*", python=python), {}, str(tmp_path / "home"))
    verdict = ask(python, tmp_path / "cache").result(key_of(asked))
    assert verdict is not None
    assert (verdict.errors, verdict.lacks) == ((), ("--uds", "--shutdown-timeout"))
    argv = started(python, tmp_path / "cache")
    assert not any("shutdown" in word or "uds" in word for word in argv)
    assert {"--host=127.0.0.1", "--port=8123"} <= {*argv}


def test_flag_that_no_older_daemon_asked_about_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [("/a", "1"), ("/b", "1")]
    Lacks(tmp_path).note(engines[0], frozenset({"--uds"}))
    monkeypatch.setattr("reconciler.engines.limits.DISPENSABLE", DISPENSABLE | {"--new"})
    assert [Lacks(tmp_path).of(each) for each in engines] == [{"--uds", "--new"}, {"--new"}]
    for each in engines:
        Lacks(tmp_path).note(each, frozenset())
    assert [Lacks(tmp_path).of(each) for each in engines] == [frozenset(), frozenset()]


def test_newer_engine_at_the_same_path_gets_all_flags_again(tmp_path: Path) -> None:
    python = make_vllm(tmp_path / "engine", "--host", "--port", "--served-model-name")
    ask(python, tmp_path / "cache")
    (info,) = tmp_path.glob("engine/lib/python3*/site-packages/vllm-*.dist-info")
    info.rename(info.with_name("vllm-0.32.0.dist-info"))
    assert {"--shutdown-timeout=20", "--uds=/run/x/http.sock"} <= {*started(python, tmp_path / "cache")}


def test_engine_without_a_port_flag_is_too_old_and_no_commit_is_blamed(tmp_path: Path) -> None:
    python = make_vllm(tmp_path / "engine", "--host", "--served-model-name")
    asked = question(SPEC, EngineSettings(image="*", python=python), {}, str(tmp_path / "home"))
    runner = ask(python, tmp_path / "cache")
    assert runner.result(key_of(asked)) is None
    trouble = runner.trouble(key_of(asked))
    assert trouble is not None
    assert trouble.lasts, "asking again is of no use"
    assert "vLLM 0.16.0 does not know --port, which the reconciler adds" in str(trouble.error)
    assert f"the oldest vLLM that is served is {OLDEST_VLLM}" in str(trouble.error)
    assert isinstance(trouble.error, NoVerdict)


def test_half_written_file_of_lacks_is_none(tmp_path: Path) -> None:
    lacks = Lacks(tmp_path)
    lacks.note(("python", "0.16"), frozenset({"--shutdown-timeout"}))
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == ["--shutdown-timeout"]
    file.write_text('["--shut')
    assert Lacks(tmp_path).of(("python", "0.16")) == frozenset()


@pytest.mark.engine
def test_installed_engine_knows_all_of_our_flags(engine_python: Path, tmp_path: Path) -> None:
    asked = question(SPEC, EngineSettings(image="*", python=engine_python), {}, str(tmp_path / "home"))
    verdict = ask(engine_python, tmp_path / "cache").result(key_of(asked))
    assert verdict is not None
    assert verdict.lacks == ()
