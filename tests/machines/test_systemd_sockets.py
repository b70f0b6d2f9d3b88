"""One contract for both sockets of systemd, on a real one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.errors import Retryable
from reconciler.host.systemd import bus
from reconciler.host.systemd.systemd_api import Run, Systemd, UnitOutcome, UnitState
from reconciler.system import procfs
from tests.machines.conftest import refuse
from tests.machines.machine import NoMachine
from tests.machines.user_systemd import UserSystemd
from tests.support.world import eventually

pytestmark = pytest.mark.host
NOWHERE = Path("/nowhere")
WAYS: dict[str, Callable[[UserSystemd], Systemd]] = {
    "private": lambda systemd: Systemd((NOWHERE, systemd.private)),
    "bus": lambda systemd: Systemd((systemd.bus,)),
}


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UserSystemd]:
    try:
        made = UserSystemd(tmp_path_factory.mktemp("systemd"))
    except NoMachine as error:
        refuse(str(error))
        raise
    yield made
    made.close()


@dataclass
class World:
    """Units of one test, whose names begin with `prefix`."""

    systemd: UserSystemd
    manager: Systemd
    prefix: str

    def add(self, name: str, command: str = "sleep infinity", *lines: str, unit: str = "") -> str:
        """A unit that is written down and installed; its name."""
        name = f"{self.prefix}{name}.service"
        service = "\n".join((f"ExecStart={command}", *lines))
        install = "[Install]\nWantedBy=default.target"
        (self.systemd.units / name).write_text(f"[Unit]\n{unit}\n[Service]\n{service}\n{install}\n")
        self.manager.install(name)
        return name

    def look(self, name: str) -> tuple[UnitState | None, Run]:
        units = self.manager.units(self.prefix)
        return units.get(name), self.manager.runs([units[name]])[name] if name in units else Run()

    def wait(self, name: str, claim: Callable[[UnitState, Run], bool]) -> Run:
        found: list[Run] = []

        def is_so() -> bool:
            unit, run = self.look(name)
            found[:] = [run]
            return unit is not None and claim(unit, run)

        eventually(is_so)
        return found[0]


@pytest.fixture(params=WAYS)
def world(systemd: UserSystemd, request: pytest.FixtureRequest) -> Iterator[World]:
    manager = WAYS[request.param](systemd)
    prefix = f"reconciler-{request.param}.t{abs(hash(request.node.name)) % 10**8}"
    yield World(systemd, manager, prefix)
    manager.close()
    systemd.run("stop", f"{prefix}*", expect=None)


def is_up(unit: UnitState, run: Run) -> bool:
    return unit.active == "active" and run.pid != 0


def is_over(world: World, name: str) -> bool:
    unit, _ = world.look(name)
    return unit is None or (unit.active, unit.job) == ("inactive", "")


def ignores(pid: int, number: signal.Signals) -> bool:
    """A shell does so a moment after it was started."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (number - 1) & 1)


def test_unit_is_installed_started_and_stopped(world: World) -> None:
    name = world.add("one", "sh -c 'sleep infinity & exec sleep infinity'", "KillMode=mixed")
    wanted = world.systemd.units / "default.target.wants" / name
    assert wanted.is_symlink()
    world.manager.start(name)
    run = world.wait(name, is_up)
    who = procfs.identify(run.pid)
    assert who is not None
    assert (run.exit_code, run.restarts) == (None, 0)
    # systemd tells the start in microseconds, the kernel in hundredths of a second.
    assert abs(run.started / 1e6 - who.started / os.sysconf("SC_CLK_TCK")) < 1
    eventually(lambda: len(world.manager.processes(name)) == 2)
    assert run.pid in world.manager.processes(name)
    world.manager.stop(name)
    eventually(lambda: is_over(world, name))
    # It is wanted at the next boot, so that systemd still knows how it ended.
    assert world.look(name)[1].exit_code == -signal.SIGTERM
    world.manager.uninstall(name)
    assert not wanted.is_symlink()
    (world.systemd.units / name).unlink()
    world.manager.reload()
    assert world.look(name) == (None, Run())


def test_how_a_process_ended_is_told(world: World) -> None:
    failed = world.add("failed", "sh -c 'exit 3'")
    killed = world.add("killed")
    for name in (failed, killed):
        world.manager.start(name)
    pid = world.wait(killed, is_up).pid
    world.manager.kill(killed)
    assert world.wait(killed, lambda unit, _: unit.active == "failed").exit_code == -signal.SIGKILL
    assert world.wait(failed, lambda unit, _: unit.active == "failed").exit_code == 3
    assert not Path(f"/proc/{pid}").exists()
    outcome = world.manager.outcome(failed)
    assert (outcome.active, outcome.result) == ("failed", "exit-code")
    assert 0 < outcome.ended / 1e6 <= time.monotonic()
    world.manager.reset(failed)
    assert world.manager.outcome(failed).active == "inactive"
    for name in (failed, killed):
        world.manager.stop(name)
        eventually(lambda: is_over(world, name))  # noqa: B023


def test_what_is_not_there_is_fine_but_cannot_be_started(world: World) -> None:
    name = f"{world.prefix}nothing.service"
    world.manager.stop(name)
    world.manager.kill(name)
    world.manager.uninstall(name)
    assert world.manager.processes(name) == ()
    assert world.manager.outcome(name) == UnitOutcome("inactive", "success", 0)
    world.manager.reset(name)
    assert world.manager.units(world.prefix) == {}
    assert world.manager.runs([UnitState(name, "active", "running")]) == {name: Run()}
    with pytest.raises(Retryable, match="not found"):
        world.manager.start(name)


def test_who_started_it_again_is_known(world: World) -> None:
    name = world.add("again", "sleep infinity", "Restart=always", "RestartSec=100ms")
    world.manager.start(name)
    first = world.wait(name, is_up)
    os.kill(first.pid, signal.SIGKILL)
    second = world.wait(name, lambda unit, run: is_up(unit, run) and run.pid != first.pid)
    assert second.restarts == 1
    world.systemd.run("restart", name)
    third = world.wait(name, lambda unit, run: is_up(unit, run) and run.pid != second.pid)
    assert (third.restarts, third.started > second.started) == (0, True)


def test_what_is_about_to_be_done_is_known(world: World) -> None:
    name = world.add("slow", "sh -c 'trap \"\" TERM; while :; do sleep 1; done'", "TimeoutStopSec=60")
    world.manager.start(name)
    pid = world.wait(name, is_up).pid
    eventually(lambda: ignores(pid, signal.SIGTERM))
    for job in ("restart", "stop"):
        world.systemd.run("--no-block", job, name)
        world.wait(name, lambda unit, run: (unit.active, unit.job) == ("deactivating", job) and run.pid != 0)  # noqa: B023
    world.manager.kill(name)
    eventually(lambda: (unit := world.look(name)[0]) is None or unit.active == "failed")


def test_unit_that_is_started_too_often_is_given_up_until_it_is_reset(world: World) -> None:
    often = "Restart=always", "RestartSec=0"
    name = world.add("often", "false", *often, unit="StartLimitIntervalSec=1h\nStartLimitBurst=3")
    world.manager.start(name)
    world.wait(name, lambda unit, run: unit.active == "failed" and run.exit_code == 1)
    assert "start-limit-hit" in world.systemd.run("show", "-P", "Result", name) or world.look(name)[1].restarts == 3
    world.manager.stop(name)
    eventually(lambda: is_over(world, name))
    world.manager.start(name)
    world.wait(name, lambda unit, run: unit.active == "failed" and run.exit_code == 1)


def test_names_are_taken_as_they_are(world: World) -> None:
    """In patterns a backslash often hides the next letter."""
    name = world.add("a\\x2db")
    other = world.add("ax2db")
    for each in (name, other):
        world.manager.start(each)
        world.wait(each, is_up)
    assert set(world.manager.units(f"{world.prefix}a\\x2d")) == {name}
    assert set(world.manager.units(world.prefix)) == {name, other}


def test_whoever_waits_is_woken_when_a_process_ends(world: World) -> None:
    name = world.add("watched")
    woken = threading.Event()
    world.manager.subscribe(world.prefix, woken.set)
    world.manager.start(name)
    pid = world.wait(name, is_up).pid
    eventually(lambda: woken.clear() or not woken.wait(0.2))
    os.kill(pid, signal.SIGKILL)
    assert woken.wait(20)
    world.wait(name, lambda unit, run: unit.active == "failed" and run.exit_code == -signal.SIGKILL)


def test_many_units_are_seen_at_once(world: World) -> None:
    """The system bus lets nobody wait for more than 128 answers, and each unit takes several."""
    template = world.systemd.units / f"{world.prefix}@.service"
    template.write_text("[Service]\nExecStart=sleep infinity\n")
    world.manager.reload()
    names = [f"{world.prefix}@{number}.service" for number in range(40)]
    world.systemd.run("start", *names)
    units = world.manager.units(world.prefix)
    runs = world.manager.runs(units.values())
    assert set(runs) == set(names)
    assert len({run.pid for run in runs.values()} - {0}) == 40


def test_systemd_may_execute_itself_anew_at_any_time(world: World) -> None:
    """Nothing fails over it, and nothing that serves is taken for dead."""
    name = world.add("steady")
    world.manager.start(name)
    run = world.wait(name, is_up)
    woken, done = threading.Event(), threading.Event()
    world.manager.subscribe(world.prefix, woken.set)
    seen: set[tuple[bool, Run]] = set()
    failures: list[str] = []

    def look_again() -> None:
        while not done.is_set():
            try:
                unit, found = world.look(name)
                seen.add((unit is not None and unit.active == "active", found))
            except Retryable as error:
                failures.append(str(error))

    thread = threading.Thread(target=look_again)
    thread.start()
    for _ in range(5):
        world.systemd.run("daemon-reexec")
        world.systemd.run("is-active", name)
    done.set()
    thread.join(60)
    assert (seen, failures) == ({(True, run)}, [])
    os.kill(run.pid, signal.SIGKILL)
    assert woken.wait(20), "it still hears of news"
    world.wait(name, lambda unit, _: unit.active == "failed")


def test_nobody_waits_for_ever_and_late_answers_do_no_harm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = world.add("patient")
    world.manager.start(name)
    run = world.wait(name, is_up)
    monkeypatch.setattr(bus, "_SECONDS", 0.5)
    with world.systemd.slow(), pytest.raises(Retryable, match=r"does not answer within"):
        world.look(name)
    monkeypatch.undo()
    assert world.look(name)[1] == run


def test_socket_that_appears_later_is_used(systemd: UserSystemd, tmp_path: Path) -> None:
    socket = tmp_path / "private"
    manager = Systemd((socket,))
    with pytest.raises(Retryable, match=f"nothing answers at {socket}: No such file"):
        manager.units("reconciler-back.")
    socket.symlink_to(systemd.private)
    assert manager.units("reconciler-back.") == {}
    assert manager.socket == socket
    manager.close()


@pytest.mark.parametrize("world", ["bus"], indirect=True)
def test_bus_that_was_started_anew_is_found_again(world: World) -> None:
    name = world.add("watched")
    woken = threading.Event()
    world.manager.subscribe(world.prefix, woken.set)
    world.manager.start(name)
    run = world.wait(name, is_up)
    world.systemd.run("restart", "dbus.service")
    assert world.look(name)[1] == run
    eventually(lambda: woken.clear() or not woken.wait(0.2))
    os.kill(run.pid, signal.SIGKILL)
    assert woken.wait(20), "it still hears of news"


def test_after_it_was_closed_nothing_is_opened_again(systemd: UserSystemd) -> None:
    manager = Systemd((systemd.private,))
    assert isinstance(manager.units("reconciler-"), Mapping)
    manager.close()
    with pytest.raises(Retryable, match="already released"):
        manager.units("reconciler-")
    assert not [thread for thread in threading.enumerate() if thread.name == "systemd" and not thread.daemon]
