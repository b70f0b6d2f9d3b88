"""One host target over real processes and a real proxy: what it observes, and what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from reconciler.errors import Retryable, Terminal
from reconciler.host.inventory import Inventory
from reconciler.host.target import HostTarget
from reconciler.model import (
    AskPreflight,
    Desired,
    Drain,
    EffectiveSpec,
    EnvVar,
    Forget,
    Lease,
    MarkReady,
    NoteCrash,
    Observed,
    Origin,
    Owned,
    Promote,
    Promoted,
    Relabel,
    Remove,
    Replica,
    ReplicaId,
    Routed,
    Start,
    Stop,
    TakeOwnership,
    Undrain,
    Unreachable,
)
from reconciler.system import procfs
from tests.crash.harness import DIGEST, OTHER, REPLICA, SPEC, make_ready, settings
from tests.support.ports import free_port
from tests.support.world import ORIGIN, SERVICE, eventually, exists

SECOND = ReplicaId(SERVICE, "aaaaaaaa-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_ready(tmp_path)
    return tmp_path


@pytest.fixture
def daemon(folder: Path) -> Iterator[Callable[[], HostTarget]]:
    """Each call is a daemon that starts when the one before is gone."""
    opened: list[HostTarget] = []

    def start() -> HostTarget:
        for target in opened:
            target.close()
        opened.append(HostTarget(settings(folder), folder / "state", lambda: None))
        return opened[-1]

    yield start
    # A test may have damaged the records; what it started must end all the same.
    for path in (folder / "state" / "replicas").glob("*/record.json"):
        if not path.read_bytes().startswith(b"{"):
            path.unlink()
    target = start()
    observed = target.observe(())
    for replica in observed.replicas if isinstance(observed, Observed) else ():
        target.perform(Stop(replica.id, "t", force=True))
        target.perform(Remove(replica.id, "t"))
    target.close()


@pytest.fixture
def host(daemon: Callable[[], HostTarget]) -> HostTarget:
    return daemon()


def spec(flags: str = "") -> EffectiveSpec:
    return replace(SPEC, env=(EnvVar("STANDIN", flags),))


def start(flags: str = "", replica: ReplicaId = REPLICA) -> Start:
    return Start(replica, DIGEST, spec(flags), ORIGIN, Lease(free_port()), 5.0, "parsed", "1" * 40, "t")


def observe(host: HostTarget, *wanted: Desired) -> Observed:
    observed = host.observe(wanted)
    assert isinstance(observed, Observed), observed
    observed = host.preflight(wanted, observed)
    assert isinstance(observed, Observed), observed
    return observed


def see(host: HostTarget, replica: ReplicaId = REPLICA) -> Replica:
    (found,) = [seen for seen in observe(host).replicas if seen.id == replica]
    return found


def make_promoted(digest: str = DIGEST) -> Promoted:
    return Promoted(digest, SPEC, 1, ORIGIN, "1" * 40, 1.0)


# ---------------------------------------------------------------- a life


def test_started_replica_becomes_visible_and_ready(host: HostTarget) -> None:
    action = start()
    host.perform(action)
    eventually(lambda: see(host).ready_now)
    seen = see(host)
    assert (seen.alive, seen.healthy, seen.ready_at, seen.spawned, seen.rebooted) == (True, True, None, True, False)
    assert (seen.digest, seen.spec, seen.origin, seen.lease) == (DIGEST, action.spec, ORIGIN, action.lease)
    assert seen.parsed == "parsed"
    # The proxy was never started, so its state is unknown.
    assert seen.routed is Routed.UNKNOWN
    assert not observe(host).proxy_ready
    assert action.lease.port not in observe(host).capacity.ports


def test_marks_are_written_once_and_survive_the_daemon(daemon: Callable[[], HostTarget]) -> None:
    host = daemon()
    host.perform(start())
    host.perform(MarkReady(REPLICA, "t"))
    host.perform(Drain(REPLICA, "t"))
    first = see(host)
    assert first.ready_at is not None
    assert first.draining_at is not None
    host = daemon()
    host.perform(MarkReady(REPLICA, "t"))
    host.perform(Drain(REPLICA, "t"))
    again = see(host)
    assert (again.ready_at, again.draining_at) == (first.ready_at, first.draining_at)
    assert again.ready_now, "what was ready stays so until it is known not to be"
    host.perform(Undrain(REPLICA, "t"))
    assert see(host).draining_at is None
    host.perform(Relabel(REPLICA, OTHER, spec("other"), Origin("b.yaml", 9), "t"))
    relabelled = see(host)
    assert (relabelled.digest, relabelled.origin, relabelled.id) == (OTHER, Origin("b.yaml", 9), REPLICA)


def test_stop_is_written_down_before_the_signal(host: HostTarget) -> None:
    host.perform(start("--ignore-term"))
    eventually(lambda: "up" in host.logs(SERVICE, 10))
    host.perform(MarkReady(REPLICA, "t"))
    host.perform(Stop(REPLICA, "t"))
    first = see(host)
    assert first.alive
    assert first.stopping_at is not None
    host.perform(Stop(REPLICA, "t", force=True))
    last = see(host)
    assert (last.alive, last.leftovers, last.exit_code) == (False, 0, -9)
    assert last.stopping_at == first.stopping_at
    host.perform(Remove(REPLICA, "t"))
    host.perform(Remove(REPLICA, "t"))
    host.perform(Stop(REPLICA, "t"))
    assert observe(host).replicas == ()
    with pytest.raises(Retryable, match="not on record"):
        host.perform(Drain(REPLICA, "t"))


@pytest.mark.slow
def test_stop_kills_an_engine_that_was_never_ready(host: HostTarget) -> None:
    """While vLLM starts it may ignore SIGTERM; no request can be lost with it."""
    host.perform(start("--ignore-term --child escaped"))
    eventually(lambda: see(host).ready_now)
    host.perform(Stop(REPLICA, "t"))
    seen = see(host)
    assert (seen.alive, seen.leftovers, seen.exit_code) == (False, 0, -9)


def test_stop_lets_an_engine_end_that_was_ready(host: HostTarget) -> None:
    host.perform(start())
    eventually(lambda: see(host).ready_now)
    host.perform(MarkReady(REPLICA, "t"))
    host.perform(Stop(REPLICA, "t"))
    eventually(lambda: not see(host).alive)
    assert see(host).exit_code == 0


def test_engine_that_ends_at_once_leaves_its_last_words(host: HostTarget) -> None:
    host.perform(start("--exit 3"))
    eventually(lambda: not see(host).alive)
    seen = see(host)
    assert (seen.exit_code, seen.ready_now, seen.spawned) == (3, False, True)
    assert seen.last_words[-1] == "ValueError: bad things happened"
    assert seen.blame == "ValueError: bad things happened"


def test_death_of_a_replica_wakes_the_loop(folder: Path) -> None:
    rang = threading.Event()
    host = HostTarget(settings(folder), folder / "state", rang.set)
    try:
        host.perform(start())
        eventually(lambda: see(host).ready_now)
        rang.clear()
        record = Inventory(folder / "state").replica(REPLICA)
        assert record is not None
        assert record.process is not None
        os.kill(record.process.pid, 9)
        assert rang.wait(30)
        assert not see(host).alive
        host.perform(Stop(REPLICA, "t", force=True))
        host.perform(Remove(REPLICA, "t"))
    finally:
        host.close()


def test_replica_that_was_never_spawned_can_still_be_stopped_and_removed(host: HostTarget, folder: Path) -> None:
    host.perform(start())
    inventory = Inventory(folder / "state")
    record = inventory.replica(REPLICA)
    assert record is not None
    host.perform(Stop(REPLICA, "t", force=True))
    host.perform(Remove(REPLICA, "t"))
    inventory.write(replace(record, process=None))
    assert not see(host).spawned
    host.perform(Stop(REPLICA, "t"))
    assert (see(host).alive, see(host).leftovers) == (False, 0)
    host.perform(Remove(REPLICA, "t"))
    assert observe(host).replicas == ()


def test_logs_say_whose_they_are_when_there_are_several(host: HostTarget) -> None:
    host.perform(start())
    eventually(lambda: "up" in host.logs(SERVICE, 10))
    host.perform(start("", SECOND))
    eventually(lambda: "aaaaaaaa-1: up" in host.logs(SERVICE, 10))
    assert "aaaaaaaa-0: up" in host.logs(SERVICE, 10)


# ---------------------------------------------------------------- what is remembered


def test_service_is_owned_promoted_and_forgotten(daemon: Callable[[], HostTarget]) -> None:
    host = daemon()
    host.perform(TakeOwnership(SERVICE, ORIGIN, "t"))
    assert observe(host).owned == {SERVICE: Owned(SERVICE, ORIGIN)}
    promoted = make_promoted()
    host.perform(Promote(SERVICE, promoted, "t"))
    host.perform(TakeOwnership(SERVICE, ORIGIN, "t"))
    assert observe(daemon()).owned == {SERVICE: Owned(SERVICE, ORIGIN, promoted)}
    host = daemon()
    host.perform(start())
    host.perform(Forget(SERVICE, "t"))
    assert observe(host).owned == {}
    assert see(host).alive, "forgetting a service ends nothing"


def test_crashes_are_counted_once_and_the_last_ten_kept(host: HostTarget) -> None:
    host.perform(Promote(SERVICE, make_promoted(), "t"))
    for at in range(12):
        host.perform(NoteCrash(REPLICA, f"run {at}", float(at), "t"))
        host.perform(NoteCrash(REPLICA, f"run {at}", at + 0.5, "t"))
    assert observe(host).owned[SERVICE].crashes == tuple(float(at) for at in range(2, 12))
    host.perform(Promote(SERVICE, make_promoted(), "t"))
    assert len(observe(host).owned[SERVICE].crashes) == 10
    host.perform(Promote(SERVICE, make_promoted(OTHER), "t"))
    assert observe(host).owned[SERVICE].crashes == ()


# ---------------------------------------------------------------- what cannot be done


def test_corrupt_record_makes_the_target_unreachable_and_names_the_file(
    daemon: Callable[[], HostTarget], folder: Path
) -> None:
    daemon().perform(start())
    path = folder / "state" / "replicas" / str(REPLICA) / "record.json"
    good = path.read_bytes()
    path.write_bytes(b"\0" * 100)
    host = daemon()
    host.lock()
    observed = host.observe(())
    assert isinstance(observed, Unreachable)
    assert str(path) in observed.reason
    with pytest.raises(Retryable, match=r"record\.json"):
        host.perform(Remove(REPLICA, "t"))
    path.write_bytes(good)
    assert see(host).alive


def test_second_daemon_may_look_but_not_act(daemon: Callable[[], HostTarget], folder: Path) -> None:
    first = daemon()
    first.perform(start())
    second = HostTarget(settings(folder), folder / "state", lambda: None)
    try:
        assert see(second).alive
        for act in (second.lock, lambda: second.perform(Stop(REPLICA, "t"))):
            with pytest.raises(Terminal, match=f"pid {os.getpid()}"):
                act()
        assert see(first).stopping_at is None
    finally:
        second.close()


def test_missing_weights_are_a_rejection_until_they_are_there(host: HostTarget, folder: Path) -> None:
    config = folder / "models" / "tiny" / "config.json"
    for each in config.parent.iterdir():
        each.unlink()
    wanted = Desired(SERVICE, ORIGIN, SPEC, DIGEST)
    assert observe(host, wanted).preflights == {}
    host.perform(AskPreflight(SERVICE, DIGEST, SPEC, ORIGIN, "t"))
    verdict = observe(host, wanted).preflights[DIGEST]
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert (reason.code, reason.origin) == ("ModelNotFound", ORIGIN)
    assert f"{config.parent}: is empty" in reason.message
    config.parent.rename(away := config.parent.with_name("away"))
    assert "no such folder" in observe(host, wanted).preflights[DIGEST].reasons[0].message
    away.rename(config.parent)
    with pytest.raises(Terminal, match="is empty"):
        host.perform(start())
    assert observe(host).replicas == ()
    config.write_text("{}")
    assert observe(host, wanted).preflights == {}


def test_image_without_an_interpreter_is_refused(host: HostTarget) -> None:
    action = start()
    with pytest.raises(Terminal, match=r"image other:1; add it to engines"):
        host.perform(replace(action, spec=replace(action.spec, image="other:1")))


# ---------------------------------------------------------------- what a pass costs


def test_noop_pass_writes_nothing_and_reads_only_its_own_processes(
    daemon: Callable[[], HostTarget], folder: Path
) -> None:
    host = daemon()
    for replica in (REPLICA, SECOND):
        host.perform(start("", replica))
        host.perform(MarkReady(replica, "t"))
    host.close()
    script = """
import os, sys, threading
from pathlib import Path
from reconciler.host.target import HostTarget
from tests.crash.harness import settings
folder = Path(sys.argv[1])
host = HostTarget(settings(folder), folder / "state", lambda: None)
first = host.preflight((), host.observe(()))
seen, main = [], threading.get_ident()
def hook(event, args):
    if threading.get_ident() != main:
        return
    if event == "open":
        seen.append((str(args[0]), args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    elif event in ("os.rename", "os.remove", "os.mkdir", "subprocess.Popen"):
        seen.append((event, 1))
host._proxy.observe = lambda state=host._proxy.observe(): state  # asked over its socket, not by files
sys.addaudithook(hook)
again = host.preflight((), host.observe(()))
assert len(again.replicas) == 2 and all(replica.alive for replica in again.replicas)
for path, writes in seen:
    print(int(bool(writes)), path)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = [line.split(" ", 1) for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    assert not [path for writes, path in opened if writes == "1"]
    pids = {record.process.pid for record in Inventory(folder / "state").replicas() if record.process}
    assert all(exists(pid) for pid in pids)
    assert sorted(path for _, path in opened) == sorted(
        [*(f"/proc/{pid}/stat" for pid in pids), "/proc/net/tcp", "/proc/net/tcp6"]
    )


def test_pass_that_is_still_going_on_does_not_take_the_lock_again(
    folder: Path, daemon: Callable[[], HostTarget]
) -> None:
    late = daemon()
    late.lock()
    late.close()
    with pytest.raises(Retryable, match="already released"):
        late.perform(TakeOwnership(SERVICE, ORIGIN, "late"))
    daemon().lock()


def test_nobody_is_late_because_the_clock_of_the_host_was_set(
    host: HostTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.perform(start())
    before = time.time
    monkeypatch.setattr(host._clock, "_wall", lambda: before() + 3600)
    (replica,) = observe(host).replicas
    assert observe(host).at - replica.created_at < 600


def test_proxy_that_others_started_again_is_let_to_the_sockets(
    host: HostTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd does so within 100 ms, and after an upgrade as another user than before."""
    host.lock()
    opened: list[int] = []
    monkeypatch.setattr(host._supervisor, "open_to_proxy", lambda: opened.append(1))
    for pid, times in ((1, 1), (1, 1), (os.getppid(), 2)):
        monkeypatch.setattr(host._proxy, "find_process", partial(procfs.identify, pid))
        observe(host)
        assert len(opened) == times
