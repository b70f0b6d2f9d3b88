"""Commits that nobody trusted signed, met by a running daemon: models keep serving, and nothing new is started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.git_repository import git
from tests.support.light_rig import LightRig
from tests.support.signing import WHY_NOT, make_ssh_key

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class SigningRig(LightRig):
    """Its commits are signed by Alice, whom its daemon trusts, unless `sign(False)`."""

    def __init__(self, folder: Path) -> None:
        self.key, self.allowed = folder / "id", folder / "allowed_signers"
        self.public = make_ssh_key(self.key)
        verify = {"mode": "every", "allowed_signers_file": str(self.allowed)}
        super().__init__(folder, source={"verify": verify})
        for name, value in (("gpg.format", "ssh"), ("user.signingkey", f"{self.key}.pub")):
            git(self.clone, "config", name, value)
        self.trust("alice@example.invalid")
        self.sign(True)
        self.write({"README.md": "Signed from here on.\n"})

    def sign(self, yes: bool) -> None:
        git(self.clone, "config", "commit.gpgsign", str(yes).lower())

    def trust(self, name: str) -> None:
        self.allowed.write_text(f"{name} {self.public}\n" if name else "# Nobody.\n")

    def revision(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.status() or {}).get("revision", {})
        return found

    def kill_replica(self) -> None:
        """It must come back by itself, as it was."""
        (before,) = self.records()
        assert before.process is not None
        os.kill(before.process.pid, signal.SIGKILL)
        pid = before.process.pid
        self.wait("it to serve again", lambda: self.pids() and pid not in self.pids() and self.serves_now())
        assert {each.digest for each in self.records()} == {before.digest}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SigningRig]:
    made = SigningRig(tmp_path)
    yield made
    made.close()


def test_unsigned_commit_changes_nothing_until_it_is_signed(rig: SigningRig) -> None:
    rig.start()
    rig.settle()
    good = rig.revision()
    assert good["signer"] == {"name": "alice@example.invalid", "fingerprint": good["signer"]["fingerprint"]}
    assert "signed by alice@example.invalid" in rig.ask("status").stdout
    signed = [one for one in rig.history() if one["event"] == "revision_verified"]
    assert [one["revision"] for one in signed] == [good["desired"]]
    rig.sign(False)
    file = "runtimes/vllm-cpu.yaml"
    changed = rig.read(file).replace("--port=8080", "--port=8080\n        - --disable-log-stats", 1)
    bad = rig.write({file: changed})
    rig.wait("its refusal", lambda: (rig.revision().get("refused") or {}).get("revision") == bad)
    assert rig.revision()["desired"] == good["desired"]
    assert f"{bad[:12]} is not verified: it is not signed" in str(rig.revision()["error"])
    assert [one["revision"] for one in rig.history() if one["event"] == "revision_refused"] == [bad]
    rig.kill_replica()
    before = {each.digest for each in rig.records()}
    rig.sign(True)
    git(rig.clone, "commit", "--quiet", "--amend", "--no-edit")
    git(rig.clone, "push", "--quiet", "--force", "origin", "HEAD:main")
    rig.wait("the signed one to serve", lambda: before.isdisjoint(each.digest for each in rig.records()))
    rig.settle()


def test_signer_who_is_trusted_no_more_costs_no_model(rig: SigningRig) -> None:
    rig.start()
    rig.settle()
    pids = rig.pids()
    rig.trust("")
    rig.wait("its refusal", lambda: "nothing new is started from this revision" in str(rig.revision().get("error")))
    assert rig.revision()["desired"] == ""
    assert (rig.pids(), rig.serves_now()) == (pids, True)
    rig.kill_replica()
    pids = rig.pids()
    rig.kill()
    rig.start()
    rig.wait("its refusal", lambda: "nothing new is started from this revision" in str(rig.revision().get("error")))
    assert (rig.pids(), rig.serves_now()) == (pids, True)
    rig.trust("alice@example.invalid")
    rig.settle()
    assert (rig.pids(), rig.serves_now()) == (pids, True)
