"""The source over https with a login: git's own http-backend on loopback, with a CA of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.config.settings import SourceSettings
from reconciler.errors import Retryable, Terminal
from reconciler.model import Snapshot
from reconciler.source import GitSource
from reconciler.source import git as git_module
from tests.source.https_server import GitServer, make_certificate, serve
from tests.support.git_repository import Repository, git

TOKEN = "s3cr3t-t0ken/with+signs=&'\"$x"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: no certificate for https"),
    pytest.mark.skipif(
        not (Path(subprocess.getoutput("git --exec-path")) / "git-http-backend").exists(),
        reason="this git has no http-backend",
    ),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "work")
    made.write("hosts/a/chat.yaml", "kind: InferenceService\n")
    made.commit("Serve chat")
    (tmp_path / "served").mkdir()
    git(tmp_path, "clone", "--quiet", "--bare", "work", "served/m.git")
    made.git("remote", "add", "origin", str(tmp_path / "served/m.git"))
    return made


@pytest.fixture
def server(tmp_path: Path, repository: Repository, certificates: tuple[Path, Path]) -> Iterator[GitServer]:
    with serve(tmp_path / "served", TOKEN, certificates[1]) as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, server: GitServer, certificates: tuple[Path, Path]) -> dict[str, object]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    url = f"https://127.0.0.1:{server.server_port}/m.git"
    return {"url": url, "token_file": tmp_path / "token", "ca_file": certificates[0], "timeout": 30}


class AskedAgain(GitSource):
    """Seen twice in some thousand handshakes on a busy machine: GnuTLS 3.7 takes what the server sends for something
    else. The daemon asks again as well."""

    def poll(self) -> Snapshot:
        for _ in range(3):
            try:
                return super().poll()
            except Retryable as error:
                if "unexpected TLS packet" not in str(error):
                    raise
        return super().poll()


def source_of(tmp_path: Path, config: dict[str, object], **changes: object) -> GitSource:
    return AskedAgain(SourceSettings.model_validate(config | changes), tmp_path / "state", ("hosts/a",))


def message_of(source: GitSource) -> str:
    with pytest.raises(Retryable) as failed:
        source.poll()
    assert TOKEN not in str(failed.value)
    return str(failed.value)


def test_token_opens_the_repository_and_is_written_nowhere(
    tmp_path: Path,
    repository: Repository,
    server: GitServer,
    config: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    real = git_module.subprocess.Popen.__init__

    def noting(self: object, command: list[str], *arguments: object, **options: object) -> None:
        calls.append(" ".join(command))
        real(self, command, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("subprocess.Popen.__init__", noting)
    source = source_of(tmp_path, config)
    assert [file.path for file in source.poll().files] == ["hosts/a/chat.yaml"]
    repository.write("hosts/a/more.yaml")
    revision = repository.commit()
    repository.git("push", "--quiet", "origin", "main")
    assert source.poll().revision == revision
    assert {login for _, login in server.seen if login} == {f"git:{TOKEN}"}
    assert len(calls) > 5
    assert not [call for call in calls if TOKEN in call]
    for file in (tmp_path / "state").rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


@pytest.mark.parametrize(("user", "settings"), [("ada", {"username": "ada"}), ("x@y z", {"username": "x@y z"})])
def test_user_name_is_sent_too(
    tmp_path: Path, server: GitServer, config: dict[str, object], user: str, settings: dict[str, str]
) -> None:
    source_of(tmp_path, config, **settings).poll()
    assert {login for _, login in server.seen if login} == {f"{user}:{TOKEN}"}


def test_user_name_in_the_url_wins(tmp_path: Path, server: GitServer, config: dict[str, object]) -> None:
    url = str(config["url"]).replace("https://", "https://bob@")
    source_of(tmp_path, config, url=url).poll()
    assert {login for _, login in server.seen if login} == {f"bob:{TOKEN}"}


def test_wrong_token_is_said_and_a_corrected_file_needs_no_restart(tmp_path: Path, config: dict[str, object]) -> None:
    token = tmp_path / "token"
    source = source_of(tmp_path, config)
    token.write_text("wr0ng-token\n")
    said = message_of(source)
    assert "Authentication failed" in said
    assert "check source.token_file" in said
    assert "wr0ng" not in said
    token.write_text("")
    assert "must hold the token alone, on one line" in message_of(source)
    token.unlink()
    assert f"{token} cannot be read: No such file" in message_of(source)
    token.write_text(TOKEN)
    assert source.poll().files


def test_without_a_token_nobody_is_asked_for_one(tmp_path: Path, config: dict[str, object]) -> None:
    said = message_of(source_of(tmp_path, config, token_file=None))
    assert "could not read Username" in said
    assert "check source.token_file" in said


def test_token_in_the_home_of_the_user_is_not_used(
    tmp_path: Path, server: GitServer, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login git password {TOKEN}\n")
    (tmp_path / ".gitconfig").write_text("[credential]\n\thelper = store\n")
    (tmp_path / ".git-credentials").write_text(f"https://git:x@127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    message_of(source_of(tmp_path, config, token_file=None))
    assert {login for _, login in server.seen} == {None}


def test_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    said = message_of(source_of(tmp_path, config, ca_file=None))
    assert "certificate" in said
    assert "check source.ca_file" in said
    assert "ca_file: /nowhere is not there" in message_of(source_of(tmp_path, config, ca_file="/nowhere"))


def test_redirect_to_another_server_gets_no_token(
    tmp_path: Path, server: GitServer, config: dict[str, object], certificates: tuple[Path, Path]
) -> None:
    with serve(tmp_path / "served", TOKEN, certificates[1]) as thief:
        server.redirect_to = f"https://localhost:{thief.server_port}"
        said = message_of(source_of(tmp_path, config))
        assert thief.seen
        assert {login for _, login in thief.seen} == {None}
        assert "could not read Username" in said


def test_redirect_on_the_same_server_is_followed(tmp_path: Path, server: GitServer, config: dict[str, object]) -> None:
    server.redirect_to, server.redirected_paths = f"https://127.0.0.1:{server.server_port}/m.git", "/old-name/"
    source = source_of(tmp_path, config, url=str(config["url"]).replace("m.git", "old-name"))
    assert source.poll().files
    assert server.seen[0][0].startswith("/old-name/info/refs")


def test_redirect_to_plain_http_is_not_followed(tmp_path: Path, server: GitServer, config: dict[str, object]) -> None:
    server.redirect_to = "http://localhost:9"
    assert "cannot ask" in message_of(source_of(tmp_path, config))


def test_missing_repository_and_missing_server_are_named(tmp_path: Path, config: dict[str, object]) -> None:
    url = str(config["url"])
    said = message_of(source_of(tmp_path, config, url=url.replace("m.git", "other.git")))
    assert "not found" in said
    assert "check source.url" in said
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"https://127.0.0.1:{closed.getsockname()[1]}/m.git"
        assert f"cannot ask {gone}: " in message_of(source_of(tmp_path, config, url=gone))


def test_silent_server_is_given_up_on_and_no_process_is_left(tmp_path: Path, config: dict[str, object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/m.git"
        said = message_of(source_of(tmp_path, config, url=url, timeout=0.5))
        assert "no response within 0.5 s" in said
        assert not running(url)


@pytest.mark.slow
def test_fetch_that_goes_on_is_not_cut_at_source_timeout(
    tmp_path: Path, server: GitServer, repository: Repository, config: dict[str, object]
) -> None:
    for number in range(40):
        repository.write(f"hosts/a/{number}.bin", os.urandom(4000))
    repository.commit()
    repository.git("push", "--quiet", str(tmp_path / "served/m.git"), "main")
    server.drip = 0.15
    assert source_of(tmp_path, config, timeout=1.5).poll().files


def test_fetch_that_stalls_names_the_key_of_its_deadline(
    tmp_path: Path, server: GitServer, config: dict[str, object]
) -> None:
    server.hold_fetches = threading.Event()
    said = message_of(source_of(tmp_path, config, timeout=0.5))
    server.hold_fetches.set()
    assert "no response within 0.5 s, which is source.timeout" in said


def running(text: str) -> list[str]:
    """The processes that have this text on their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in command and f"/{os.getpid()}/" not in str(file):
            found.append(command)
    return found


def test_fetch_that_outlives_a_killed_daemon_is_waited_for(
    tmp_path: Path, server: GitServer, config: dict[str, object]
) -> None:
    server.hold_fetches = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-c", _POLL, str(config["url"]), config["token_file"], config["ca_file"], tmp_path / "state"]
    ) as daemon:
        assert server.fetching.wait(60)
        daemon.send_signal(signal.SIGKILL)
    held, server.hold_fetches = server.hold_fetches, None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source_of(tmp_path, config).poll)
        with pytest.raises(TimeoutError):
            waiting.result(1.5)
        held.set()
        assert waiting.result(60).files


_POLL = """
import sys
from pathlib import Path
from reconciler.config.settings import SourceSettings as Source
from reconciler.model import Snapshot
from reconciler.source import GitSource
url, token, ca, state = sys.argv[1:]
GitSource(Source(url=url, token_file=token, ca_file=ca), Path(state), ("",)).poll()
"""


def test_commit_that_no_branch_reaches_any_more_is_terminal(
    tmp_path: Path, repository: Repository, config: dict[str, object]
) -> None:
    with pytest.raises(Terminal, match="is not a commit of any branch or tag"):
        source_of(tmp_path, config, commit="1" * 40).poll()
    first = repository.git("rev-parse", "main")
    assert source_of(tmp_path, config, commit=first).poll().revision == first


def test_server_of_many_files_cannot_send_more_than_is_allowed(
    tmp_path: Path, server: GitServer, repository: Repository, config: dict[str, object]
) -> None:
    server.dumb = True
    for number in range(8):
        repository.write("hosts/a/noise.bin", os.urandom(300_000))
        repository.commit(f"Noise {number}")
        repository.git("push", "--quiet", "origin", "main")
    git(tmp_path / "served/m.git", "update-server-info")
    assert source_of(tmp_path, config).poll().subject == "Noise 7"
    shutil.rmtree(tmp_path / "state")
    source = source_of(tmp_path, config, max_repository_bytes=1 << 20)
    with pytest.raises(Terminal, match=r"it sends more than 1,048,576 bytes, and source\.max_repository_bytes"):
        source.poll()
