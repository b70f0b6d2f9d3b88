"""A host that is shut down while it serves: what runs ends whole, and it is back as it was."""

from __future__ import annotations

import re
import threading
import time

import pytest

from tests.machines.conftest import MakeRig
from tests.machines.installed import UNIT, InstalledRig
from tests.support.judge import Answer, Caller, Question, Verdict, ways_to

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]


# What a connection meets that comes once the listener closes. One that the kernel took a moment before is reset.
REFUSED = tuple(
    f"connection broke before an answer: {kind}" for kind in ("ConnectionRefusedError", "ConnectionResetError")
)


class Streams:
    """Clients that stream one answer after the other until they are refused."""

    def __init__(self, url: str, clients: int) -> None:
        self.answers: list[tuple[float, Answer]] = []
        self._threads = [threading.Thread(target=self._run, args=(url,), daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str) -> None:
        way, refused = ways_to("default", "tiny")[0], False
        while not refused:
            answer = Caller(url, 60).ask(Question(way, 240, stream=True))
            refused = answer.reason.startswith(REFUSED)
            if not refused:
                self.answers.append((time.monotonic(), answer))

    def join(self) -> list[tuple[float, Answer]]:
        for thread in self._threads:
            thread.join(60)
        return self.answers


def test_reboot_lets_running_streams_end_and_refuses_new_ones(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    streams = Streams(rig.url, 6)
    rig.wait("streams", lambda: len(streams.answers) > 6)
    begun = time.monotonic()
    rig.machine.reboot()
    answers = streams.join()
    assert [answer.reason for _, answer in answers if answer.verdict is not Verdict.OK] == []
    assert [at for at, _ in answers if at > begun], "some ran when the shutdown began"
    rig.wait("it to serve again", rig.serves)


def test_stop_of_the_drain_alone_leaves_the_proxy_open(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    drain, proxy = f"reconciler-drain-{rig.name}.service", f"reconciler-proxy-{rig.name}.service"
    rig.machine.run("systemctl", "restart", drain)
    assert rig.serves()
    streams = Streams(rig.url, 6)
    rig.wait("streams", lambda: len(streams.answers) > 6)
    rig.machine.run("systemctl", "stop", UNIT, proxy)
    assert [answer.reason for _, answer in streams.join() if answer.verdict is not Verdict.OK] == []
    rig.machine.run("systemctl", "start", UNIT)
    rig.wait("it to serve again", rig.serves)


def test_units_of_an_older_release_are_kept_and_stopped_like_ours(make_rig: MakeRig) -> None:
    rig = make_rig(InstalledRig)
    rig.start()
    rig.converge()
    before = rig.invocations()
    rig.kill()
    (unit,) = rig.unit_files()
    (copy,) = rig.state.glob("replicas/*/unit")
    new = unit.read_text()
    old = re.sub(r"(?m)^(ExecStop|SuccessExitStatus)=.*\n| reconciler-drain-.*$", "", new)
    assert old != new
    unit.write_text(old)
    copy.write_text(old)
    rig.machine.run("systemctl", "daemon-reload")
    rig.machine.run("systemctl", "start", UNIT)
    rig.wait("the unit to be brought up to date", lambda: unit.read_text() == copy.read_text() == new)
    rig.wait("systemd to know it", lambda: "grep" in rig.machine.run("systemctl", "show", "-P", "ExecStop", unit.name))
    rig.wait("the daemon to have looked", lambda: rig.service() is not None)
    assert (rig.invocations(), rig.history()[-1]["event"] == "replica_repaired") == (before, False)
