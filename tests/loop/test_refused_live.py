"""A pushed document that a cluster would refuse, met by a running daemon: models keep serving as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.light_rig import LightRig

pytestmark = pytest.mark.slow


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    yield rig
    rig.close()


def test_refused_runtime_keeps_what_serves_until_it_is_corrected(rig: LightRig) -> None:
    rig.start()
    rig.settle()
    (before,) = rig.records()
    assert before.process is not None
    file = "runtimes/vllm-cpu.yaml"
    good = rig.read(file)
    number = good.splitlines().index("kind: ServingRuntime") + 2
    # A change that would roll out, and a field that no cluster takes.
    changed = good.replace("--port=8080", "--port=8080\n        - --disable-log-stats", 1)
    assert changed != good
    rig.write({file: changed.replace("kind: ServingRuntime\n", "kind: ServingRuntime\nlabels: {}\n")})
    problem = rig.wait("its problem", lambda: (rig.service() or {}).get("problems"))[0]
    assert (problem["file"], problem["line"]) == (file, number)
    assert f'{file}:{number}: strict decoding error: unknown field "labels"' in rig.ask("plan", expect=1).stdout
    assert "InvalidDocument" in rig.ask("status", "-o", "json", expect=1).stdout
    # What dies meanwhile comes back as it was, and is not brought up by the refused document.
    os.kill(before.process.pid, signal.SIGKILL)
    rig.wait("it to serve again", lambda: rig.pids() and before.process.pid not in rig.pids() and rig.serves_now())
    assert {each.digest for each in rig.records()} == {before.digest}
    rig.write({file: changed})
    rig.wait("the correction to serve", lambda: before.digest not in {each.digest for each in rig.records()})
    rig.settle()
    rig.ask("plan")


@pytest.mark.parametrize(
    ("file", "name", "namespace"), [("demo/tiny.yaml", "next", "default"), ("demo/moved.yaml", "tiny", "prod")]
)
def test_service_that_is_renamed_and_refused_at_once_goes_on_as_it_was(
    rig: LightRig, file: str, name: str, namespace: str
) -> None:
    rig.start()
    rig.settle()
    before, text = rig.pids(), rig.read("demo/tiny.yaml")
    renamed = text.replace("  name: tiny\n", f"  name: {name}\n  namespace: {namespace}\n", 1)
    revision = rig.write({"demo/tiny.yaml": None, file: renamed + "labels: {}\n"})
    rig.wait("the commit to be followed", lambda: rig.is_applied(revision))
    kept = (rig.service() or {})["kept"]
    assert f"{namespace}/{name} may take its place and cannot be used" in kept["message"]
    assert (rig.pids(), rig.serves_now()) == (before, True)
    rig.write({file: None})
    rig.wait("the old one to go", lambda: not rig.pids())
