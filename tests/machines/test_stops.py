"""How a unit ends without us: at once while its engine starts, and in peace once it serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from reconciler.host.systemd.unit import UnitPlan, build_unit, unit_name
from tests.machines.conftest import CODE
from tests.machines.machine import Machine, wait_for
from tests.machines.test_unit_text import echo

pytestmark = pytest.mark.host


@pytest.fixture
def started(machine: Machine) -> Iterator[UnitPlan]:
    """An engine that binds its port, listens if it is told to, and ignores SIGTERM until it does."""
    yield replace(echo(90, (), {}), argv=("/usr/bin/python3", "-IS", f"{CODE}/tests/machines/slow_start.py", "31090"))
    name = unit_name("box", echo(90, (), {}).replica)
    machine.run("systemctl", "kill", "-s", "KILL", name, expect=None)
    machine.run("systemctl", "stop", name, expect=None)


def start(machine: Machine, plan: UnitPlan) -> str:
    name = unit_name("box", plan.replica)
    (machine.root / "etc/systemd/system" / name).write_text(build_unit(plan))
    (machine.root / plan.credential.lstrip("/")).write_text("")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", name)
    this = machine.run("systemctl", "show", "-P", "InvocationID", name).strip()
    wait_for(lambda: said(machine, this) == ["up"], 30, lambda: AssertionError(said(machine, this)))
    return name


def stop(machine: Machine, name: str) -> tuple[list[str], list[str]]:
    """What became of it, and what it said."""
    this = machine.run("systemctl", "show", "-P", "InvocationID", name).strip()
    machine.run("systemctl", "stop", name)
    result = [machine.run("systemctl", "show", "-P", each, name).strip() for each in ("ActiveState", "Result")]
    return result, said(machine, this)


def said(machine: Machine, invocation: str) -> list[str]:
    mine = (f"_SYSTEMD_INVOCATION_ID={invocation}", "_TRANSPORT=stdout")
    return machine.run("journalctl", "--output=cat", "--no-pager", *mine).splitlines()


def test_stop_of_a_starting_unit_kills_it_before_its_timeout(machine: Machine, started: UnitPlan) -> None:
    name = start(machine, started)
    # With its timeout this would be `failed`, `timeout`.
    assert stop(machine, name) == (["inactive", "success"], ["up"])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_stop_of_a_listening_unit_asks_it_to_end(machine: Machine, started: UnitPlan, host: str) -> None:
    name = start(machine, replace(started, argv=(*started.argv, host)))
    assert stop(machine, name) == (["inactive", "success"], ["up", "ended"])
