"""A target of a real host is renamed, and a service of it restarted: units go on, or are replaced by new ones."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.machines.light import LightRig
from tests.machines.machine import NoMachine, check

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]


@pytest.fixture
def rig() -> Iterator[LightRig]:
    try:
        check()
        made = LightRig(Path("/run") / f"reconciler-rename-{os.getpid()}")
    except NoMachine as error:
        pytest.skip(str(error))
    made.fill(1)
    made.start()
    made.wait("everything to be as git says", made.is_settled)
    yield made
    made.close()


@contextmanager
def requests(rig: LightRig) -> Iterator[list[int]]:
    """The codes of requests that are sent one after the other meanwhile; 0 where none came."""
    codes: list[int] = []
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=20)
            try:
                connection.request("GET", "/default/s0/v1/models")
                codes.append(connection.getresponse().status)
            except OSError:
                codes.append(0)
            finally:
                connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield codes
    finally:
        done.set()
        thread.join()


def test_renamed_target_keeps_its_units_and_restart_replaces_them(rig: LightRig) -> None:
    before = rig.invocations()
    with requests(rig) as codes:
        rig.kill(15)
        config = yaml.safe_load(rig.config.read_text())
        config["targets"][0]["name"] = "gpu-1"
        rig.config.write_text(yaml.safe_dump(config))
        assert "reconciler target rename demo gpu-1" in rig.ask("run", expect=2).stderr
        rig.ask("target", "rename", "demo", "gpu-1")
        rig.start()
        rig.wait("everything to be as git says", rig.is_settled)
        status = rig.status()
        assert status is not None
        assert status["targets"][0]["name"] == "gpu-1"
        assert rig.invocations() == before
        rig.ask("restart", "s0", "--wait")
        rig.wait("one unit to be left", lambda: len(rig.units()) == len(rig.unit_files()) == 1)
    assert {*codes} == {200}
    after = rig.invocations()
    proxy = "reconciler-proxy-demo.service"
    assert after[proxy] == before[proxy]
    assert not set(after.values()) & (set(before.values()) - {before[proxy]})
