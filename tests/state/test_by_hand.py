"""`suspend`, `resume`, `host drain` and `host undrain`: what is asked, by whom, and what history keeps of it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from reconciler.cli import run
from reconciler.cli.shared import _moment
from reconciler.config.settings import Settings
from reconciler.errors import Terminal
from reconciler.loop.daemon import Daemon
from reconciler.model import NO_ORIGIN, ByHand, Quarantine, Reason, ReasonCode, ServiceId
from reconciler.report.history import History
from reconciler.state.suspension import HostDrain
from reconciler.system.unix_sockets import person
from reconciler.web.client import DaemonClient
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.report_world import with_service
from tests.web.fake_loop import FakeLoop

ME = pwd.getpwuid(os.geteuid()).pw_name
ASKED = ByHand("alice", 100.0, "a disk is replaced", 4_000_000_000.0)
SAID = "by alice until 2096-10-02T07:06:40Z: a disk is replaced"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    target = {"name": "a", "paths": ["hosts/a"]}
    known = {"source": {"url": str(tmp_path / "none")}, "state_dir": str(tmp_path / "state"), "targets": [target]}
    path.write_text(yaml.safe_dump(known | {"web": {"listen": "127.0.0.1:0"}}))
    return path


@pytest.fixture
def loop(config: Path) -> Iterator[FakeLoop]:
    answering = FakeLoop()
    side = WebSide(Settings.load(config), answering, Metrics())
    side.start()
    yield answering
    side.stop()


def events(config: Path) -> list[tuple[str, str, str]]:
    history = History(Settings.load(config).state_dir / "state.db")
    try:
        return [(one["event"], one["service"], one["message"]) for one in history.entries(50)]
    finally:
        history.close()


# ---------------------------------------------------------------- the command line


def test_suspend_tells_the_daemon_who_why_and_until_when(config: Path, loop: FakeLoop):
    began = time.time()
    assert run(["suspend", "tiny", "--reason", "a\x1b[1mb", "--until", "2h", "--config", str(config)]) == 0
    (_, (service, asked)) = loop.asked[-1]
    assert (service, asked.reason) == ("demo/tiny", "ab")
    assert asked.by.startswith(ME) or asked.by.endswith(f"(as {ME})"), "as the kernel knows it"
    assert 7190 < asked.until - began < 7300
    assert run(["suspend", "--config", str(config)]) == 0
    (_, (service, asked)) = loop.asked[-1]
    assert (service, asked.reason, asked.until) == (None, "", None)


def test_host_drain_and_undrain_ask_the_daemon(config: Path, loop: FakeLoop, capsys: pytest.CaptureFixture[str]):
    assert run(["host", "drain", "--reason", "why", "--until", "1d", "--config", str(config)]) == 0
    (what, asked) = loop.asked[-1]
    assert (what, asked.reason) == ("drain", "why")
    assert capsys.readouterr().err == ""
    loop.document = with_service(loop.document, suspended=True)
    assert run(["host", "drain", "--config", str(config)]) == 0
    assert "demo/tiny is suspended and keeps running" in capsys.readouterr().err
    assert run(["host", "undrain", "--config", str(config)]) == 0
    assert loop.asked[-1][0] == "undrain"
    assert capsys.readouterr().out == "no longer drained: this host runs what git asks for again\n"


def test_host_drain_without_a_daemon_is_written_down(config: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["host", "drain", "--reason", "why", "--config", str(config)]) == 0
    assert "the daemon is not running: the host is drained once it starts" in capsys.readouterr().out
    drain = HostDrain(Settings.load(config).state_dir / "drained.json")
    asked = drain.current()
    assert asked is not None
    assert (asked.by, asked.reason, asked.until) == (person(os.getpid(), os.getuid()), "why", None)
    for said in ("no longer drained: this host runs what git asks for again\n", "this host was not drained manually\n"):
        assert run(["host", "undrain", "--config", str(config)]) == 0
        assert capsys.readouterr().out == said
    assert drain.current() is None
    assert [(event, message) for event, _, message in events(config)] == [
        ("host_drained", str(asked)),
        ("host_undrained", f"by {asked.by}"),
    ]


def test_host_drain_by_root_stays_readable_for_the_daemon_of_another_user():
    if os.geteuid() != 0:
        pytest.skip("only root may act as others")
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        state.mkdir(mode=0o700)
        Path(name).chmod(0o755)
        os.chown(state, nobody.pw_uid, nobody.pw_gid)
        path = Path(name) / "config.yaml"
        target = {"name": "a", "paths": ["hosts/a"]}
        path.write_text(yaml.safe_dump({"source": {"url": "/x"}, "state_dir": str(state), "targets": [target]}))
        argv = [sys.executable, "-m", "reconciler", "host", "drain", "--config", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        made = {one.name: one.stat().st_uid for one in state.iterdir()}
    assert made["drained.json"] == made["state.db"] == nobody.pw_uid


@pytest.mark.parametrize("until", ["soon", "", "2001-01-01", "0s", "25:00", "99999999999h", "9999-12-31T23:00-23:00"])
def test_until_that_is_no_time_to_come_is_wrong_usage(config: Path, until: str, capsys: pytest.CaptureFixture[str]):
    for command in (["suspend"], ["host", "drain"]):
        assert run([*command, "--until", until, "--config", str(config)]) == 2
        assert "--until" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", "2026-11-29T10:01:30+00:00"),
        ("2d", "2026-12-01T10:00:00+00:00"),
        ("2026-11-30T08:00Z", "2026-11-30T08:00:00+00:00"),
        ("2026-11-30 08:00+02:00", "2026-11-30T06:00:00+00:00"),
    ],
)
def test_until_is_a_time_or_a_length_of_time(text: str, at: str):
    now = datetime.fromisoformat("2026-11-29T10:00:00+00:00")
    assert _moment(text, now) == datetime.fromisoformat(at)


def test_until_a_time_of_day_is_the_next_one():
    now = datetime.now().astimezone().replace(second=0, microsecond=0)
    for minutes in (-5, 5):
        text = (now + timedelta(minutes=minutes)).strftime("%H:%M")
        assert timedelta() < _moment(text, now) - now < timedelta(hours=26)


def test_reason_is_limited_on_both_sides(config: Path, loop: FakeLoop):
    assert run(["suspend", "--reason", "x" * 501, "--config", str(config)]) == 2
    client = DaemonClient(Settings.load(config).socket_path)
    for wrong in ({"reason": "x" * 501}, {"reason": 5}, {"until": "soon"}, {"until": 5}, {"until": 1e300}):
        with pytest.raises(Terminal, match="expected"):
            client._request("POST", "/drain", wrong)
    assert loop.asked == []


def test_person_is_named_as_the_kernel_knows_it(monkeypatch: pytest.MonkeyPatch):
    assert person(0, 0) == "root", "the caller is in another container, or gone"
    assert person(0, 4_711_000) == "user 4711000"
    # Only a real login sets it.
    monkeypatch.setattr(Path, "read_text", lambda _: str(os.geteuid()))
    assert person(1, 4_711_000) == f"{ME} (as user 4711000)"
    assert person(1, os.geteuid()) == ME
    monkeypatch.setattr(Path, "read_text", lambda _: str(2**32 - 1))
    assert person(1, 0) == "root"


# ---------------------------------------------------------------- what the daemon keeps


def test_history_says_who_suspended_and_resumed_what(config: Path):
    daemon = Daemon(Settings.load(config))
    try:
        assert daemon.suspend("demo/tiny", ASKED) == ["demo/tiny"]
        daemon.resume("demo/tiny", "bob")
        daemon.resume("demo/tiny", "bob")
        daemon.suspend(None, ASKED)
        daemon.resume(None, "bob")
        failed = Quarantine(
            ServiceId("demo", "x"), "b" * 64, Reason(ReasonCode.CRASHED, "it", NO_ORIGIN), "a" * 40, 1.0, ()
        )
        daemon._history.reject("a", failed)
        daemon.resume("demo/x", "bob")
    finally:
        daemon.stop()
    assert events(config) == [
        ("suspended", "demo/tiny", SAID),
        ("resumed", "demo/tiny", "by bob"),
        ("suspended", "", SAID),
        ("resumed", "", "by bob"),
        ("resumed", "demo/x", "by bob"),
    ]


def test_daemon_keeps_a_drain_over_restarts_and_history_says_who(config: Path):
    daemon = Daemon(Settings.load(config))
    daemon.drain(ASKED)
    daemon.stop()
    daemon = Daemon(Settings.load(config))
    try:
        assert json.loads((Settings.load(config).state_dir / "drained.json").read_text())["*"]["by"] == "alice"
        assert daemon.undrain("bob")
        assert not daemon.undrain("bob")
    finally:
        daemon.stop()
    assert events(config) == [("host_drained", "", SAID), ("host_undrained", "", "by bob")]


def test_approve_tells_the_daemon_what_who_and_why(config: Path, loop: FakeLoop, capsys: pytest.CaptureFixture[str]):
    given = ["approve", "ABCDEF0123456789", "--target", "a", "--reason", "retired", "--config", str(config)]
    assert run(given) == 0
    (name, (digest, target, asked)) = loop.asked[-1]
    assert (name, digest, target, asked.reason) == ("approve", "abcdef0123456789", "a", "retired")
    assert asked.by.startswith(ME) or asked.by.endswith(f"(as {ME})")
    assert run([*given, "--withdraw"]) == 0
    assert loop.asked[-1][0] == "withdraw"
    assert capsys.readouterr().out.splitlines() == [
        "approved on a: ABCDEF0123456789",
        "withdrawn on a: ABCDEF0123456789",
    ]


@pytest.mark.parametrize("words", [["approve"], ["approve", "abc", "--list"]])
def test_approve_wants_either_a_hash_or_the_list(config: Path, words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run([*words, "--config", str(config)]) == 2
    assert "give a HASH to approve, or --list" in capsys.readouterr().err
