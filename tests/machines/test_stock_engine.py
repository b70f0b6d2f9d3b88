"""vLLM as it is usually installed, as a unit: all that the sandbox forbids, it can do without."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings, HostSettings
from reconciler.engines.launch import launch
from reconciler.engines.probe import Probe
from reconciler.host.systemd.replica_unit import plan_unit
from reconciler.host.systemd.unit import build_unit, credential_of, unit_name
from reconciler.host.workload import place_of
from tests.machines.conftest import binds, refuse
from tests.machines.machine import Machine, NoMachine
from tests.support import world
from tests.support.engine.fixtures import find_place
from tests.support.engine.server import SERVICE, Stream, spec_of

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
SETTINGS = HostSettings.model_validate({"name": "box", "kind": "systemd", "paths": ["hosts/box"]})
MODEL = "/srv/closed/tiny"


@pytest.fixture
def stock_machine(stock_python: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Machine]:
    """Has the interpreter where it lies out here, and the model in a folder that no replica may enter."""
    needed = {stock_python.parent.parent, stock_python.resolve().parent.parent}
    shown = {f"{path}:ro": path for path in needed if not path.is_relative_to("/usr")}
    try:
        made = Machine(tmp_path / "machine", f"stock{os.getpid()}", {**binds(), **shown, f"{MODEL}:ro": tiny_model})
    except NoMachine as error:
        refuse(str(error))
        raise
    (made.root / MODEL.lstrip("/")).parent.chmod(0o700)
    yield made
    made.close()


def test_stock_engine_serves_and_ends_well_as_a_unit(stock_machine: Machine, stock_python: Path) -> None:
    # A checkout below /tmp, with its interpreter, would be hidden from a unit.
    venv = str(stock_python.parent.parent)
    engine = EngineSettings(image="*", python=stock_python)
    record = replace(world.record(), spec=spec_of())
    place = place_of(SETTINGS, Path("/var/lib/reconciler/box"), engine, {"/mnt/models": MODEL}, record.id)
    start = launch(record.spec, engine, SERVICE, record.lease, place.paths, record.drain_timeout, place.folders)
    start = replace(start, mounts={**place.mounts, venv: venv})
    plan = plan_unit("box", record, start, "daemon", (), Path("/var/lib/reconciler/box/replicas/one"))
    name = unit_name("box", record.id)
    (stock_machine.root / "etc/systemd/system" / name).write_text(build_unit(plan))
    variables = stock_machine.root / plan.credential.lstrip("/")
    variables.parent.mkdir(parents=True)
    variables.write_text(credential_of(plan) or "")
    known, home = find_place().folder / "vllm-cache", place.folders.home
    if known.is_dir():
        shutil.copytree(known, stock_machine.root / home.lstrip("/") / ".cache/vllm")
        stock_machine.run("chown", "-R", "daemon", home)
    stock_machine.run("systemctl", "start", name)

    def shown(*names: str) -> tuple[str, ...]:
        return tuple(stock_machine.run("systemctl", "show", "-P", each, name).strip() for each in names)

    probe, address = Probe(), f"{stock_machine.root}{start.socket}"
    while not probe.check(address, str(SERVICE), None).ready:
        assert shown("ActiveState", "NRestarts") == ("active", "0"), stock_machine.run("journalctl", "-u", name)
        time.sleep(1)
    (pid,) = shown("MainPID")
    status = dict(
        line.split(":\t") for line in stock_machine.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line
    )
    assert (status["Seccomp"], int(status["CapBnd"], 16), status["Uid"].split()[0]) == ("2", 0, "1")
    assert Stream(address, str(SERVICE), 8).is_complete()
    # Asked before the stop: vLLM cancels a task of its own when it ends, and sometimes logs that as its engine's death.
    said = stock_machine.run("journalctl", "--output=cat", "-u", name)
    assert "Traceback" not in said, said
    stock_machine.run("systemctl", "stop", name)
    assert shown("Result", "ExecMainStatus", "ActiveState") == ("success", "0", "inactive")
