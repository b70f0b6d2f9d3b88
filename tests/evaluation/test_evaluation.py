"""A revision is understood within limits, or not at all: real worker processes, real inputs."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.config.settings import HostSettings, Settings, SourceSettings
from reconciler.errors import NotUnderstood, Retryable, RevisionRefused, Stopping, Superseded
from reconciler.evaluation import sandbox as sandbox_module
from reconciler.evaluation.evaluator import Evaluated, Evaluator
from reconciler.evaluation.sandbox import EvaluationLimits, Sandbox
from reconciler.evaluation.wire import dump_answers, load_answers
from reconciler.loop.daemon import Daemon
from reconciler.model import DesiredState, File, Snapshot
from reconciler.report.text import stale_blocks, status_blocks
from reconciler.secrets import NO_SECRETS
from reconciler.source import Check, GitSource
from reconciler.system import procfs
from tests.bench.bench_manifests import TARGET, tree
from tests.support.git_repository import Repository
from tests.support.secret_files import age_key, encrypt

pytestmark = pytest.mark.slow

OTHER = TARGET.model_copy(update={"name": "other", "paths": ("runtimes", "hosts/other")})
SMALL = tree(3)
# Some seconds of computing, some dozens of megabytes.
LARGE = tree(1_500)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox((TARGET, OTHER))
    yield made
    made.close()


def evaluated(sandbox: Sandbox, snapshot: Snapshot) -> DesiredState:
    return sandbox.evaluate(snapshot)[TARGET.name].desired


def wait(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def worker_pid(sandbox: Sandbox) -> int:
    assert sandbox._worker is not None
    return sandbox._worker.process.pid


# ---------------------------------------------------------------- the same as without it

CHANGES = st.lists(
    st.dictionaries(st.integers(0, 5), st.sampled_from(["", "minReplicas: 3", "minReplicas: x", "no: [yaml"])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_sandbox_answers_what_an_evaluation_in_process_answers(sandbox: Sandbox, changes: list[dict[int, str]]):
    whole, here = tree(6), {each.name: Evaluator(each) for each in (TARGET, OTHER)}
    for number, change in enumerate(changes):
        texts = {f"hosts/box/{n}.yaml": text for n, text in change.items()}
        files = [
            replace(file, oid=f"{file.oid} {text}", data=file.data.replace(b"minReplicas: 1", text.encode()))
            if (text := texts.get(file.path)) is not None
            else file
            for file in whole.files
            if file.path != f"hosts/box/{number}.yaml"
        ]
        snapshot = replace(whole, revision=f"r{number}", files=tuple(files))
        assert {name: each.desired for name, each in sandbox.evaluate(snapshot).items()} == {
            name: each.look(snapshot).desired for name, each in here.items()
        }


def test_services_that_did_not_change_stay_the_same_objects(sandbox: Sandbox):
    before, after = evaluated(sandbox, tree(9)), evaluated(sandbox, tree(9, replicas_of_first=2))
    assert [new is old for new, old in zip(after.services, before.services, strict=True)] == [False] + 8 * [True]


def test_pass_without_news_asks_no_worker(sandbox: Sandbox):
    target, snapshot = sandbox.target(TARGET.name), tree(2)
    first = target.evaluate(snapshot)
    os.kill(worker_pid(sandbox), signal.SIGSTOP)
    try:
        assert target.evaluate(snapshot) is first
        assert sandbox.evaluate(snapshot)[TARGET.name].desired is first
    finally:
        os.kill(worker_pid(sandbox), signal.SIGCONT)


def test_encrypted_secret_opens_within_the_limits_of_a_worker(tmp_path: Path):
    text = encrypt(
        "kind: Secret\napiVersion: v1\nmetadata: {name: hub}\nstringData: {token: x}\n", age_key(tmp_path / "a")
    )
    secrets = TARGET.secrets.model_copy(update={"age_key_file": tmp_path / "a"})
    sandbox = Sandbox((TARGET.model_copy(update={"secrets": secrets}),))
    try:
        files = (*tree(1).files, File("hosts/box/hub.yaml", "1", text.encode()))
        found = sandbox.evaluate(replace(tree(1), files=files))[TARGET.name].secrets
        assert found.data("default", "hub") == {"token": b"x"}, found.faults
    finally:
        sandbox.close()


def test_changed_secret_outside_git_is_read_at_the_next_pass(tmp_path: Path):
    folder = tmp_path / "secrets"
    folder.mkdir(0o700)
    given_here = TARGET.model_copy(update={"secrets": TARGET.secrets.model_copy(update={"directory": folder})})
    with closing_sandbox(given_here) as made:
        target, snapshot = made.target(TARGET.name), tree(1)
        target.evaluate(snapshot)
        assert target.store.data("default", "hub") is None
        for value in ("first", "other"):
            secret = folder / "hub.yaml"
            secret.write_text(
                f"apiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\nstringData: {{token: {value}}}\n"
            )
            secret.chmod(0o600)
            target.evaluate(snapshot)
            assert target.store.data("default", "hub") == {"token": value.encode()}


# ---------------------------------------------------------------- limits


class closing_sandbox:  # noqa: N801
    """A sandbox for one test."""

    def __init__(self, target: HostSettings = TARGET, limits: EvaluationLimits | None = None) -> None:
        self.made = Sandbox((target,), limits)

    def __enter__(self) -> Sandbox:
        return self.made

    def __exit__(self, *_: object) -> None:
        self.made.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (EvaluationLimits(cpu_seconds=0.01), "more than 0.01 s of computing"),
        (EvaluationLimits(memory_bytes=50 << 20), "more than 50 MiB of memory"),
        (EvaluationLimits(answer_bytes=1 << 20), "larger than 1 MiB in all"),
    ],
)
def test_revision_beyond_a_limit_is_not_understood_and_the_next_one_is(limits: EvaluationLimits, why: str):
    with closing_sandbox(limits=limits) as made:
        good = evaluated(made, SMALL)
        with pytest.raises(NotUnderstood, match=f"revision r cannot be read: .*{why}"):
            made.evaluate(LARGE)
        assert evaluated(made, SMALL) is good
        assert len(evaluated(made, tree(2)).services) == 2


def test_failed_revision_is_looked_at_again_only_when_asked(monkeypatch: pytest.MonkeyPatch):
    with closing_sandbox(limits=EvaluationLimits(answer_bytes=10)) as made:
        asked: list[Snapshot] = []
        ask = made._ask_once
        monkeypatch.setattr(made, "_ask_once", lambda snapshot, moved: asked.append(snapshot) or ask(snapshot, moved))
        for _ in range(3):
            with pytest.raises(NotUnderstood):
                made.evaluate(SMALL)
        assert len(asked) == 1
        made.forget()
        with pytest.raises(NotUnderstood):
            made.evaluate(SMALL)
        assert len(asked) == 2


def test_answer_can_become_nothing_but_our_own_data():
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("exit 1",)

    with pytest.raises(pickle.UnpicklingError, match="must not contain a posix"):
        load_answers(pickle.dumps({"box": Evil()}), "r", {})
    state = DesiredState("box", "r", ())
    assert load_answers(dump_answers({"box": Evaluated(state, NO_SECRETS)}, {}), "r", {})[0]["box"].desired == state


# ---------------------------------------------------------------- deaths


@pytest.mark.slow
def test_worker_killed_while_it_reads_is_replaced_and_asked_again():
    with closing_sandbox() as made:
        evaluated(made, SMALL)
        first = worker_pid(made)
        found: list[DesiredState] = []
        reading = threading.Thread(target=lambda: found.append(evaluated(made, LARGE)))
        used = procfs.cpu_seconds(first)
        reading.start()
        wait(lambda: procfs.cpu_seconds(first) > used + 0.05)
        os.kill(first, signal.SIGKILL)
        reading.join(60)
        assert len(found[0].services) == 1_500
        assert worker_pid(made) != first


def test_worker_killed_between_revisions_is_replaced(sandbox: Sandbox):
    evaluated(sandbox, SMALL)
    os.kill(worker_pid(sandbox), signal.SIGKILL)
    assert len(evaluated(sandbox, tree(4)).services) == 4


@pytest.mark.parametrize("is_warm", [False, True])
def test_hung_worker_is_replaced_and_the_revision_is_read(is_warm: bool):
    with closing_sandbox(limits=EvaluationLimits(stalled=2.0)) as made:
        made.start()
        if is_warm:
            evaluated(made, SMALL)
        hung = worker_pid(made)
        os.kill(hung, signal.SIGSTOP)
        assert len(evaluated(made, tree(5)).services) == 5
        assert procfs.identify(hung) is None


def test_worker_that_always_hangs_is_no_fault_of_the_revision(monkeypatch: pytest.MonkeyPatch):
    with closing_sandbox(limits=EvaluationLimits(stalled=0.5)) as made:
        start = made._start

        def stopped() -> object:
            worker = start()
            os.kill(worker.process.pid, signal.SIGSTOP)
            return worker

        monkeypatch.setattr(made, "_start", stopped)
        with pytest.raises(Retryable, match="hangs: it did not move any more; it is tried again"):
            made.evaluate(SMALL)


def test_worker_without_open_files_is_no_fault_of_the_revision():
    with closing_sandbox() as made:
        made.start()
        resource.prlimit(worker_pid(made), resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(Retryable, match="open files"):
            made.evaluate(SMALL)
        assert len(evaluated(made, SMALL).services) == 3


def test_worker_that_does_not_start_is_no_fault_of_the_revision(monkeypatch: pytest.MonkeyPatch):
    with closing_sandbox() as made:
        with monkeypatch.context() as patched:
            patched.setattr(sandbox_module.sys, "executable", "/bin/false")
            with pytest.raises(Retryable, match=r"does not start \(1\)"):
                made.evaluate(SMALL)
        assert len(evaluated(made, SMALL).services) == 3


def test_worker_of_a_build_installed_meanwhile_asks_for_a_restart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox_module, "build_id", lambda: "an older one")
    with closing_sandbox() as made, pytest.raises(Retryable, match="systemctl restart reconciler"):
        made.evaluate(SMALL)


def test_close_ends_the_worker_and_who_waits_for_it():
    made = Sandbox((TARGET,))
    made.start()
    pid, raised = worker_pid(made), list[BaseException]()

    def read() -> None:
        try:
            made.evaluate(LARGE)
        except Stopping as error:
            raised.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    wait(made.is_busy)
    made.close()
    reading.join(30)
    assert raised
    assert procfs.identify(pid) is None


HALF_WAY = """
import sys
from reconciler.evaluation.sandbox import Sandbox
from tests.bench.bench_manifests import TARGET, tree
sandbox = Sandbox((TARGET,))
sandbox.start()
print(sandbox._worker.process.pid, flush=True)
sandbox.evaluate(tree(int(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_stopped", [False, True])
def test_worker_ends_with_a_daemon_that_is_killed(is_stopped: bool):
    """In the middle of something, or while something keeps it from going on."""
    daemon = subprocess.Popen([sys.executable, "-c", HALF_WAY, "1500"], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    wait(lambda: procfs.cpu_seconds(pid) > 0.8)
    if is_stopped:
        os.kill(pid, signal.SIGSTOP)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    wait(lambda: procfs.identify(pid) is None)


# ---------------------------------------------------------------- what is accepted


class Reader:
    """Accepts what it is configured to, and counts."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.asked = 0

    def look(self, snapshot: Snapshot, _is_outdated: Callable[[], bool]) -> None:
        self.asked += 1
        if snapshot.revision in self.bad:
            raise NotUnderstood(f"revision {snapshot.revision[:12]} cannot be read: too much")


def source_of(repository: Repository, folder: Path, reader: Reader, name: str = "v1") -> GitSource:
    return GitSource(SourceSettings(url=str(repository.path)), folder / "git", ("",), Check(reader.look, name))


def test_revision_that_is_not_understood_is_not_accepted_nor_read_again(tmp_path: Path):
    repository = Repository(tmp_path / "origin")
    good = repository.commit()
    reader = Reader()
    source = source_of(repository, tmp_path, reader)
    assert source.poll().revision == good
    bad = repository.commit()
    reader.bad.add(bad)
    before = reader.asked
    for again in (source, source, source_of(repository, tmp_path, reader)):
        with pytest.raises(RevisionRefused, match="too much; the last good revision stays") as refused:
            again.poll()
        assert refused.value.revision == bad
    assert reader.asked == before + 1
    restarted = source_of(repository, tmp_path, Reader())
    accepted = restarted.last_good()
    assert accepted is not None
    assert accepted.revision == good
    source.retry()
    with suppress(RevisionRefused):
        source.poll()
    assert reader.asked == before + 2
    assert source_of(repository, tmp_path, Reader(), "v2").poll().revision == bad


def test_repaired_revision_is_accepted_after_one_that_was_refused(tmp_path: Path):
    repository = Repository(tmp_path / "origin")
    bad = repository.commit()
    reader = Reader(bad)
    source = source_of(repository, tmp_path, reader)
    with pytest.raises(RevisionRefused):
        source.poll()
    assert source.last_good() is None
    repaired = repository.commit()
    assert source.poll().revision == repaired


def test_revision_that_takes_long_gives_way_to_a_repaired_one(tmp_path: Path):
    repository = Repository(tmp_path / "origin")
    bad = repository.commit()
    with closing_sandbox(limits=EvaluationLimits(patience=0.1, look_every=0.1)) as made:
        made.start()

        def look(snapshot: Snapshot, is_outdated: Callable[[], bool]) -> None:
            if snapshot.revision != bad:
                return made.check(snapshot, is_outdated)
            os.kill(worker_pid(made), signal.SIGSTOP)
            repaired.append(repository.commit())
            return made.check(snapshot, is_outdated)

        repaired = list[str]()
        source = GitSource(SourceSettings(url=str(repository.path)), tmp_path / "git", ("",), Check(look, "v1"))
        assert source.poll().revision == repaired[0]
        assert source.last_good().revision == repaired[0]


def test_revisions_that_come_faster_than_they_are_read_get_more_time():
    with closing_sandbox(limits=EvaluationLimits(patience=0.05, look_every=0.05)) as made:
        for expected in (0.1, 0.2):
            made.start()
            os.kill(worker_pid(made), signal.SIGSTOP)
            with pytest.raises(Superseded):
                made.check(SMALL, lambda: True)
            assert made._patience == expected
        made.check(SMALL)
        assert made._patience == 0.05


def test_revision_that_takes_long_is_read_to_its_end_while_none_is_newer():
    with closing_sandbox(limits=EvaluationLimits(patience=0.02, look_every=0.02)) as made:
        asked = list[int]()
        made.check(tree(60), lambda: bool(asked.append(1)))
        assert asked
        assert made.latest(SMALL) is None


@pytest.mark.parametrize("newer", [True, False])
def test_revision_that_is_read_gives_way_at_once_when_asked(newer: bool):
    with closing_sandbox(limits=EvaluationLimits(patience=1_000)) as made:
        made.start()
        wait(lambda: bool(evaluated(made, tree(1))))
        worker = worker_pid(made)
        os.kill(worker, signal.SIGSTOP)
        asked, ends = list[bool](), list[object]()

        def is_outdated() -> bool:
            asked.append(newer)
            return newer

        def read() -> None:
            try:
                ends.append(made.check(tree(2), is_outdated))
            except Superseded as error:
                ends.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        wait(made.is_busy)
        made.look_now()
        wait(lambda: bool(asked))
        if not newer:
            assert not ends
            os.kill(worker, signal.SIGCONT)
        thread.join(30)
        assert len(asked) == 1
        assert isinstance(ends[0], Superseded) if newer else ends == [None] and worker_pid(made) == worker


# ---------------------------------------------------------------- the daemon

HOST = "apiVersion: reconciler/v1alpha1\nkind: Host\nmetadata: {name: box}\nspec: {}\n"
TWIN = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twin, namespace: default}\n---\n"


def push(repository: Repository, count: int) -> str:
    """So many documents of one name: a note about each."""
    repository.write("box/host.yaml", HOST)
    repository.write("box/all.yaml", TWIN * count)
    return repository.commit()


def seen(daemon: Daemon) -> tuple[str, bool, int, list[str]]:
    """The revision, whether one is refused, how many notes there are, and what cannot be read."""
    status = daemon.status()
    (target,) = status["targets"]
    refused = "cannot be read: its desired state is larger" in status["revision"]["error"]
    notes = [one for one in target["notes"] if one["code"] == "DuplicateObject"]
    return target["revision"]["desired"], refused, len(notes), [one["code"] for one in target["unreadable"]]


def test_daemon_with_an_unreadable_revision_takes_the_repaired_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = Repository(tmp_path / "origin")
    first = push(repository, 200)
    target = {"name": "box", "paths": ["box"]}
    given_here = Settings.model_validate(
        {"source": {"url": str(repository.path)}, "state_dir": str(tmp_path / "state"), "targets": [target]}
    )
    daemon = Daemon(given_here)
    daemon.start()
    wait(lambda: seen(daemon) == (first, False, 200, []))
    daemon.stop()
    monkeypatch.setattr(sandbox_module, "EvaluationLimits", partial(EvaluationLimits, answer_bytes=20_000))
    daemon = Daemon(given_here)
    daemon.start()
    try:
        wait(lambda: seen(daemon) == (first, True, 0, ["EvaluationFailed"]))
        repaired = push(repository, 2)
        wait(lambda: seen(daemon) == (repaired, False, 2, []))
        refused = push(repository, 201)
        wait(lambda: seen(daemon) == (repaired, True, 2, []))
        entry = daemon.history(None, 1)[0]
        assert (entry["event"], entry["revision"]) == ("revision_refused", refused)
    finally:
        daemon.stop()


def test_daemon_says_that_a_broken_commit_makes_its_source_stand_still(tmp_path: Path):
    repository = Repository(tmp_path / "origin")
    good = push(repository, 1)
    target = {"name": "box", "paths": ["box"]}
    daemon = Daemon(
        Settings.model_validate(
            {"source": {"url": str(repository.path)}, "state_dir": str(tmp_path / "state"), "targets": [target]}
        )
    )
    daemon.start()
    try:
        wait(lambda: seen(daemon)[0] == good and not daemon.status()["revision"]["error"])
        tree, name = repository.git("rev-parse", "main^{tree}"), "A\0B <a@b> 1 +0000"
        body = f"tree {tree}\nparent {good}\nauthor {name}\ncommitter {name}\n\nmessage\n".encode()
        bad = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
        repository.git("update-ref", "refs/heads/main", bad)
        daemon.request_sync()
        status = daemon.status()
        assert bad in status["revision"]["error"]
        assert "the last good revision stays" in status["revision"]["error"]
        assert status["revision"]["desired"] == good
        shown = [str(each) for each in (*status_blocks(status), *stale_blocks(status, time.time()))]
        assert any(bad in each for each in shown)
        assert "its last revision stays in force until it can be read again" in shown[-1]
        assert [one["event"] for one in daemon.history(None, 1)] == ["source_failed"]
        repository.git("update-ref", "refs/heads/main", good)
        daemon.request_sync()
        assert daemon.status()["revision"]["error"] == ""
    finally:
        daemon.stop()


class Reading:
    """A daemon in the middle of reading the revision that was pushed last: its worker is stopped."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "origin")
        first = push(self.repository, 1)
        target = {"name": "box", "paths": ["box"]}
        given_here = {"source": {"url": str(self.repository.path)}, "state_dir": str(folder / "state")}
        self.daemon = Daemon(Settings.model_validate(given_here | {"targets": [target]}))
        self.asked: list[str] = []
        ask = self.daemon._sandbox._ask_once

        def asking(snapshot: Snapshot, is_outdated: Callable[[], bool]) -> dict[str, Evaluated]:
            self.asked.append(snapshot.revision)
            return ask(snapshot, is_outdated)

        self.daemon._sandbox._ask_once = asking  # type: ignore[method-assign]
        self.daemon.start()
        wait(lambda: seen(self.daemon) == (first, False, 0, []))
        self.worker = worker_pid(self.daemon._sandbox)
        os.kill(self.worker, signal.SIGSTOP)
        self.pushed = push(self.repository, 201)
        wait(lambda: self.pushed in self.asked)

    def sync(self) -> threading.Thread:
        thread = threading.Thread(target=self.daemon.request_sync)
        thread.start()
        return thread

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()


def test_sync_ends_reading_where_git_has_a_newer_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox_module, "EvaluationLimits", partial(EvaluationLimits, patience=1_000))
    with Reading(tmp_path) as reading:
        repaired = push(reading.repository, 2)
        reading.sync().join(30)
        wait(lambda: seen(reading.daemon) == (repaired, False, 2, []))
        assert reading.asked[1:] == [reading.pushed, repaired]


def test_sync_joins_the_reading_of_the_same_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        sandbox_module, "EvaluationLimits", partial(EvaluationLimits, patience=1_000, answer_bytes=20_000)
    )
    with Reading(tmp_path) as reading:
        looks = reading.daemon._follower.source._has_moved
        looked = list[bool]()
        monkeypatch.setattr(
            reading.daemon._follower.source, "_has_moved", lambda *on: looked.append(moved := looks(*on)) or moved
        )
        asked = reading.sync()
        wait(lambda: bool(looked))
        os.kill(reading.worker, signal.SIGCONT)
        asked.join(30)
        assert seen(reading.daemon)[1]
        assert reading.asked.count(reading.pushed) == 1
        reading.daemon.request_sync()
        assert reading.asked.count(reading.pushed) == 2


def test_daemon_that_waits_for_a_revision_to_be_read_counts_as_alive(tmp_path: Path):
    """Restarted by the watchdog, it would begin to read the same again, forever."""
    repository = Repository(tmp_path / "origin")
    push(repository, 1)
    given_here = Settings.model_validate(
        {
            "source": {"url": str(repository.path)},
            "state_dir": str(tmp_path / "state"),
            "targets": [{"name": "box", "paths": ["box"]}],
        }
    )
    daemon = Daemon(given_here)
    for place in daemon._places:
        place.last_pass_at = time.monotonic() - 1000
    try:
        assert daemon.heartbeat() >= 1000
        with daemon._sandbox._lock:
            assert daemon.heartbeat() == 0
    finally:
        daemon.stop()


# ---------------------------------------------------------------- commands in a process of their own

VALIDATE = """
import sys
from reconciler.system import process_limits
setattr(process_limits, sys.argv[1], float(sys.argv[2]) if "." in sys.argv[2] else int(sys.argv[2]))
from reconciler.cli import run
sys.exit(run(["validate", sys.argv[3]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [("MEMORY_BYTES", 40 << 20, "more than 40 MiB"), ("CPU_SECONDS", 0.1, "more than 0.1 s of computing")],
)
def test_validate_beyond_a_limit_ends_with_a_sentence(tmp_path: Path, limit: str, value: float, why: str):
    for file in tree(4_000).files:
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    command = [sys.executable, "-c", VALIDATE, limit, str(value), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"reconciler: reading these files takes {why}")
