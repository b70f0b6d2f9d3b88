"""The source over ssh: a real sshd on loopback, a key, and host keys that are always checked."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.settings import SourceSettings
from reconciler.errors import Retryable
from reconciler.source import GitSource
from tests.support.git_repository import Repository, git
from tests.support.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def why_not() -> str:
    """What this machine needs for a test server and does not have; empty when it has everything."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        return "sshd is not installed (Debian: openssh-server)"
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        return "sshd as root needs the folder /run/sshd"
    if os.geteuid() == 0 and "sshd" not in {user.pw_name for user in pwd.getpwall()}:
        return "sshd as root needs the user sshd (Debian: openssh-server)"
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """An sshd that accepts the key `client`."""
    number = free_port()
    host_key, client = make_key(tmp_path / "host key"), make_key(tmp_path / "client 100%")
    (tmp_path / "authorized").write_text(client.with_name(f"{client.name}.pub").read_text())
    options = [f"HostKey={tmp_path}/host key", f"AuthorizedKeysFile={tmp_path}/authorized", "StrictModes=no"]
    options += ["UsePAM=no", "PasswordAuthentication=no", "PermitRootLogin=yes", "PidFile=none", "UseDNS=no"]
    options[0:2] = [option.replace("=", '="', 1) + '"' for option in options[0:2]]
    assert SSHD is not None
    argv = [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(number), "-oListenAddress=127.0.0.1"]
    with open(tmp_path / "sshd.log", "wb") as log:
        server = subprocess.Popen([*argv, *(f"-o{option}" for option in options)], stderr=log)
    try:
        await_port(number, server, tmp_path / "sshd.log")
        public = host_key.with_name("host key.pub").read_text()
        (tmp_path / "known hosts").write_text(f"[127.0.0.1]:{number} {public}")
        yield number
    finally:
        server.terminate()
        server.wait()


def await_port(number: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(500):
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "work")
    made.write("hosts/a/chat.yaml", "kind: InferenceService\n")
    made.commit("Serve chat")
    git(tmp_path, "clone", "--quiet", "--bare", "work", "served.git")
    return made


def source_of(tmp_path: Path, port: int, **changes: object) -> GitSource:
    config = {
        "url": f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/served.git",
        "ssh_key_file": tmp_path / "client 100%",
        "known_hosts_file": tmp_path / "known hosts",
    }
    return GitSource(SourceSettings.model_validate(config | changes), tmp_path / "state", ("hosts/a",))


def test_key_opens_the_repository_and_a_push_is_fetched(tmp_path: Path, port: int, repository: Repository) -> None:
    source = source_of(tmp_path, port)
    assert [file.path for file in source.poll().files] == ["hosts/a/chat.yaml"]
    revision = repository.commit()
    repository.git("push", "--quiet", str(tmp_path / "served.git"), "main")
    assert source.poll().revision == revision


def test_host_that_is_not_known_is_never_trusted(tmp_path: Path, port: int, repository: Repository) -> None:
    known = tmp_path / "known hosts"
    other = make_key(tmp_path / "other").with_name("other.pub").read_text()
    for content in ("", f"[127.0.0.1]:{port} {other}"):
        known.write_text(content)
        with pytest.raises(Retryable, match=r"Host key verification failed.*source\.known_hosts_file"):
            source_of(tmp_path, port).poll()
        assert known.read_text() == content


def test_key_that_is_not_authorized_is_said(tmp_path: Path, port: int, repository: Repository) -> None:
    make_key(tmp_path / "stranger")
    with pytest.raises(Retryable, match=r"Permission denied \(publickey.*check source\.ssh_key_file"):
        source_of(tmp_path, port, ssh_key_file=tmp_path / "stranger").poll()
    with pytest.raises(Retryable, match=r"source\.ssh_key_file: .*/none is not there"):
        source_of(tmp_path, port, ssh_key_file=tmp_path / "none").poll()


def test_no_key_but_the_named_one_is_offered(
    tmp_path: Path, port: int, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = dict(
        line.split(";")[0].split("=")
        for line in subprocess.check_output(["ssh-agent", "-s"], text=True).splitlines()
        if "=" in line
    )
    monkeypatch.setenv("SSH_AUTH_SOCK", agent["SSH_AUTH_SOCK"])
    try:
        subprocess.run(["ssh-add", "-q", tmp_path / "client 100%"], check=True)
        make_key(tmp_path / "stranger")
        with pytest.raises(Retryable, match="Permission denied"):
            source_of(tmp_path, port, ssh_key_file=tmp_path / "stranger").poll()
    finally:
        os.kill(int(agent["SSH_AGENT_PID"]), 15)
