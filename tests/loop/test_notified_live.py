"""What a running daemon tells by messages, in both forms: once, over its death too, and without its address."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.forge.local_forge import LocalForge, Reply, local_forge
from tests.support.light_rig import LightRig

pytestmark = pytest.mark.slow


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[LocalForge]:
    with local_forge(tmp_path / "certificates", lambda _: Reply(202)) as server:
        yield server


@pytest.fixture
def rig(tmp_path: Path, listener: LocalForge) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    (tmp_path / "url").write_text(f"{listener.url}/T0SECRET")
    told = {"url_file": str(tmp_path / "url"), "ca_file": str(listener.ca_file), "severity": "info"}
    notifications = [{"name": "ops", **told}, {"name": "chat", "kind": "slack", **told}]
    rig.config.write_text(yaml.safe_dump(yaml.safe_load(rig.config.read_text()) | {"notifications": notifications}))
    yield rig
    rig.close()


def test_applied_revision_is_told_once_over_the_daemons_death(rig: LightRig, listener: LocalForge) -> None:
    def told() -> list[tuple[str, str]]:
        events = [asked.body for asked in listener.asked if "type" in asked.body]
        return [(one["type"], one["data"]["revision"]) for one in events]

    rig.start()
    rig.settle()
    first = rig.wait("the first revision to be told", told)[0][1]
    assert rig.process is not None
    os.kill(rig.process.pid, signal.SIGKILL)
    rig.process.wait()
    rig.start()
    text = rig.read("demo/tiny.yaml")
    revision = rig.write({"demo/tiny.yaml": text.replace("memory: 16Mi", "memory: 17Mi")})
    rig.wait("the second one to be told", lambda: revision in [one[1] for one in told()])
    assert told() == [("reconciler.revision.applied.v1", first), ("reconciler.revision.applied.v1", revision)]
    rig.wait("both forms", lambda: len(listener.asked) == 4)
    texts = [asked.body["text"] for asked in listener.asked if "text" in asked.body]
    assert all("has applied" in text for text in texts)
    assert "T0SECRET" not in rig.words(10_000) + rig.ask("status", "-o", "json").stdout
