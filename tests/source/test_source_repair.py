"""Failures, restarts, damage and kill -9: the last good revision stays and the next poll repairs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import Retryable, RevisionRefused, Stopping
from reconciler.model import Snapshot
from reconciler.source import GitSource
from tests.source.parts import make_pack, source_of
from tests.support.git_repository import Repository, git
from tests.support.world import eventually, exists

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- failures and restarts


def test_last_good_revision_survives_a_restart_without_the_remote(repository: Repository, mirror: Path) -> None:
    good = source_of(repository, mirror).poll()
    repository.path.rename(repository.path.with_name("away"))
    restarted = source_of(repository, mirror)
    assert restarted.last_good() == good
    with pytest.raises(Retryable, match="is not there or cannot be read"):
        restarted.poll()
    assert restarted.last_good() == good
    repository.path.with_name("away").rename(repository.path)
    assert restarted.poll() == good


@pytest.mark.parametrize("text", ["", "[]", '{"revision": 7}'])
def test_lost_note_of_the_accepted_revision_costs_it_not_offline(
    repository: Repository, mirror: Path, text: str
) -> None:
    good = source_of(repository, mirror).poll()
    (mirror / "accepted.json").write_text(text)
    repository.path.rename(repository.path.with_name("away"))
    restarted = source_of(repository, mirror)
    assert restarted.last_good() == good
    with pytest.raises(Retryable, match="is not there or cannot be read"):
        restarted.poll()


def test_accepted_revision_of_a_newer_version_still_guards_history(repository: Repository, mirror: Path) -> None:
    good = source_of(repository, mirror).poll()
    note = mirror / "accepted.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"signed": {"by": "x"}}))
    repository.git("commit", "--quiet", "--amend", "--allow-empty", "--message", "Another history")
    rewritten = source_of(repository, mirror)
    assert rewritten.last_good() == good
    with pytest.raises(RevisionRefused, match="was rewritten"):
        rewritten.poll()


def test_before_the_first_poll_nothing_is_good_and_nothing_is_written(source: GitSource, mirror: Path) -> None:
    assert source.last_good() is None
    assert not mirror.exists()


def test_folder_that_is_no_repository_is_named(tmp_path: Path, mirror: Path) -> None:
    with pytest.raises(Retryable, match=r"cannot ask .*not appear to be a git repository; check source\.url"):
        source_of(tmp_path, mirror).poll()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
@pytest.mark.parametrize("bare", [False, True])
def test_local_repository_of_another_user_can_be_read(repository: Repository, mirror: Path, bare: bool) -> None:
    path = repository.path
    if bare:
        path = path.with_name("bare.git")
        git(repository.path, "clone", "--quiet", "--bare", ".", str(path))
    subprocess.run(["chown", "-R", "65534:65534", path], check=True)
    assert source_of(path, mirror).poll().files
    link = path.with_name("link")
    link.symlink_to(path)
    assert source_of(f"file://{link}", mirror.with_name("git2")).poll().files


def test_linked_working_tree_is_a_source_too(repository: Repository, mirror: Path, tmp_path: Path) -> None:
    repository.git("worktree", "add", "--quiet", "-b", "linked", str(tmp_path / "linked tree"))
    assert source_of(tmp_path / "linked tree", mirror).poll().files
    assert source_of(f"file://{tmp_path}/linked%20tree", mirror.with_name("git2")).poll().files


def test_folder_is_closed_to_others(source: GitSource, mirror: Path) -> None:
    mirror.mkdir(parents=True, mode=0o755)
    source.poll()
    assert mirror.stat().st_mode & 0o777 == 0o700
    assert (mirror / "askpass").stat().st_mode & 0o777 == 0o700
    assert list((mirror / "home").iterdir()) == []


def damage_pack(mirror: Path) -> None:
    for pack in (mirror / "repository/objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        pack.write_bytes(data)


DAMAGES = {
    "gone": lambda mirror: shutil.rmtree(mirror / "repository"),
    "a file": lambda mirror: (shutil.rmtree(mirror / "repository"), (mirror / "repository").write_text("?")),
    "no head": lambda mirror: (mirror / "repository/HEAD").unlink(),
    "bad head": lambda mirror: (mirror / "repository/HEAD").write_bytes(b"\0\0"),
    "bad config": lambda mirror: (mirror / "repository/config").write_text("[[["),
    "no objects": lambda mirror: shutil.rmtree(mirror / "repository/objects"),
    "empty objects": lambda mirror: (
        shutil.rmtree(mirror / "repository/objects"),
        (mirror / "repository/objects").mkdir(),
    ),
    "bad packs": damage_pack,
    "bad reference": lambda mirror: (mirror / "repository/refs/reconciler/accepted").write_bytes(b"\0" * 41),
    "bad record": lambda mirror: (mirror / "accepted.json").write_bytes(b"\0" * 41),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pushed", [False, True])
def test_damaged_mirror_is_built_anew(repository: Repository, mirror: Path, damage: str, pushed: bool) -> None:
    source_of(repository, mirror).poll()
    if pushed:
        repository.write("hosts/a/new.yaml")
        repository.commit()
    DAMAGES[damage](mirror)
    restarted = source_of(repository, mirror)
    restarted.last_good()
    snapshot = restarted.poll()
    assert snapshot.revision == repository.git("rev-parse", "main")
    assert len(snapshot.files) == 2 + pushed
    assert source_of(repository, mirror).last_good() == snapshot


def test_other_bytes_under_an_object_id_are_noticed(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    oid = repository.git("rev-parse", "main:hosts/a/chat.yaml")
    git(mirror / "repository", "unpack-objects", "-q", stdin=_all_packs(mirror))
    forged = repository.git("hash-object", "-w", "--stdin", stdin=b"kind: Forged\n")
    loose = mirror / "repository/objects" / oid[:2] / oid[2:]
    loose.chmod(0o600)
    loose.write_bytes((repository.path / ".git/objects" / forged[:2] / forged[2:]).read_bytes())
    restarted = source_of(repository, mirror)
    assert restarted.last_good() is None
    assert restarted.poll().files[0].data == b"kind: InferenceService\n"


def _all_packs(mirror: Path) -> bytes:
    folder = mirror / "repository/objects/pack"
    (pack,) = folder.glob("*.pack")
    data = pack.read_bytes()
    for file in list(folder.iterdir()):
        file.unlink()
    return data


def test_what_a_killed_git_left_behind_blocks_nothing(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    inside = mirror / "repository"
    for name in ("HEAD.lock", "config.lock", "packed-refs.lock", "refs/reconciler/accepted.lock", "shallow.lock"):
        (inside / name).write_text("")
    (inside / "refs/reconciler/wanted.lock").write_text("")
    (inside / "objects/pack/tmp_pack_x").write_text("half")
    (mirror / "repository.new").mkdir()
    revision = repository.commit()
    assert source_of(repository, mirror).poll().revision == revision
    assert not [path for path in inside.rglob("*") if path.suffix == ".lock" or path.name.startswith("tmp_")]


@pytest.mark.slow
def test_killed_anywhere_the_next_poll_repairs(repository: Repository, mirror: Path) -> None:
    """Kill a poll just before its n-th git call or write, for every n until it gets through."""
    for name in range(30):
        repository.write(f"hosts/a/{name}.yaml", f"a: {name}\n")
    base = repository.commit()
    source_of(repository, mirror).poll()
    with subprocess.Popen(
        [sys.executable, "-c", _POLL_AND_DIE, repository.path, mirror], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for step in range(50):
            revision = repository.commit(f"Step {step}")
            child.stdin.write(b"%d\n" % step)
            child.stdin.flush()
            status = int(child.stdout.readline())
            good = source_of(repository, mirror).last_good()
            assert good is not None
            assert good.revision in (base, revision)
            assert source_of(repository, mirror).poll().revision == revision
            base = revision
            if status == 0:
                break
            assert status == -9
    assert status == 0
    assert step >= 8


_POLL_AND_DIE = """
import os, signal, sys
from pathlib import Path
import git
from reconciler.config.settings import SourceSettings as Source
from reconciler.source import GitSource, access, mirror, poll
def deadly(real):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*arguments, **options)
    return call
poll.run_git = mirror.run_git = deadly(mirror.run_git)
mirror.write_file = deadly(mirror.write_file)
access.os.rename = deadly(os.rename)
for line in sys.stdin:
    left = int(line)
    child = os.fork()
    if child == 0:
        GitSource(Source(url=sys.argv[1]), Path(sys.argv[2]), ("runtimes", "hosts/a")).poll()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_two_processes_take_turns_on_one_mirror(repository: Repository, mirror: Path) -> None:
    sources = [source_of(repository, mirror) for _ in range(4)]
    found: list[Snapshot] = []
    threads = [threading.Thread(target=lambda s=source: found.append(s.poll())) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(each == found[0] for each in found)


def test_mirror_in_use_by_another_process_is_retried_later(repository: Repository, mirror: Path) -> None:
    source_of(repository, mirror).poll()
    with open(mirror / "lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retryable, match="is in use by another git call"):
            source_of(repository, mirror, timeout=0.1).poll()
    assert source_of(repository, mirror).poll()


@pytest.mark.parametrize("daemon", ["dead", "alive"])
def test_git_that_hangs_is_ended_once_its_daemon_died(repository: Repository, mirror: Path, daemon: str) -> None:
    source_of(repository, mirror).poll()
    hold = "import fcntl, sys; fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX)"
    mark = f"GIT_CONFIG_GLOBAL={mirror / 'gitconfig'}"
    last = "wait" if daemon == "alive" else "exit"
    script = f'exec 9<>{mirror}/lock; {sys.executable} -c "{hold}" 9; {mark} setsid sleep 600 & echo $!; {last}'
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        git = int(owner.stdout.readline())
        if daemon == "dead":
            owner.wait(30)
            assert source_of(repository, mirror, timeout="1s").poll()
        else:
            with pytest.raises(Retryable, match="is in use by another git call"):
                source_of(repository, mirror, timeout="1s").poll()
            os.kill(git, signal.SIGKILL)
    eventually(lambda: not exists(git))


def test_unwritable_state_directory_is_one_clear_error(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Retryable, match=r"cannot prepare .*: Not a directory; check state_dir and its disk"):
        source_of(repository, tmp_path / "file" / "git").poll()


def test_many_small_pushes_do_not_pile_up_packs(repository: Repository, source: GitSource, mirror: Path) -> None:
    source.poll()
    for number in range(55):
        pack = make_pack([(3, b"%d" % number)])
        git(mirror / "repository", "index-pack", "--stdin", stdin=pack)
    repository.commit()
    source.poll()
    assert len(list((mirror / "repository/objects/pack").glob("*.pack"))) < 5
    assert source.last_good() == source_of(repository, mirror).last_good()


def test_variables_of_daemon_and_configuration_of_its_user_reach_no_git(
    repository: Repository, source: GitSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text('[url "/nowhere/"]\n\tinsteadOf = /\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url./nowhere/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "/")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nowhere")
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.chdir(repository.path)
    assert source.poll().files
    assert not (tmp_path / "trace").exists()


def test_git_missing_from_the_machine_is_one_clear_error(repository: Repository, mirror: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _POLL_AND_SAY, repository.path, mirror],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "Terminal git cannot be run: no git was found on PATH; install git 2.32 or newer\n"


def test_git_that_was_stopped_is_one_clear_error(repository: Repository, mirror: Path, tmp_path: Path) -> None:
    """Also before GitPython is imported, which asks git for its version."""
    stopped = tmp_path / "git"
    stopped.write_text("#!/bin/sh\nkill -STOP $$\n")
    stopped.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", _POLL_AND_SAY, repository.path, mirror, "1s"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("Retryable")
    assert "no response within 1 s" in done.stdout


_POLL_AND_SAY = """
import sys
from pathlib import Path
from reconciler.config.settings import SourceSettings as Source
from reconciler.source import GitSource
try:
    timeout = {"timeout": sys.argv[3]} if len(sys.argv) > 3 else {}
    GitSource(Source(url=sys.argv[1], **timeout), Path(sys.argv[2]), ("",)).poll()
except Exception as error:
    print(type(error).__name__, error)
"""


# ---------------------------------------------------------------- an end that does not wait


@pytest.mark.parametrize("what", ["remote", "lock"])
def test_end_cuts_short_who_waits_for_a_remote_or_a_lock(mirror: Path, repository: Repository, what: str) -> None:
    """With the default timeout: as long as systemd waits three times."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/m.git" if what == "remote" else str(repository.path)
        source = source_of(url, mirror, timeout="300s")
        mirror.mkdir(mode=0o700, parents=True)
        with (mirror / "lock").open("w") as held, ThreadPoolExecutor(1) as pool:
            if what == "lock":
                fcntl.flock(held, fcntl.LOCK_EX)
            polling = pool.submit(source.poll)
            kept = silent.accept() if what == "remote" else ()
            source.end()
            with pytest.raises(Stopping):
                polling.result(60)
            assert all(kept)
