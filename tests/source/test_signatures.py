"""Which revisions are believed: real git, gpg and ssh-keygen, and what hostile commits make of their answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.config.settings import SourceSettings
from reconciler.errors import Retryable, RevisionRefused, Terminal, Unverified
from reconciler.source import GitSource, signature_verdicts, signatures, trusted_keys
from tests.source.parts import source_of
from tests.support.git_repository import Repository
from tests.support.signing import (
    IN_TIME,
    LONG_AGO,
    WHY_NOT,
    GpgHome,
    commit,
    make_ssh_key,
    ssh_signing,
    tag,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

ALICE, EVE = "Alice <alice@example.invalid>", "Eve <eve@example.invalid>"
Signing = tuple[str, ...]


@pytest.fixture(scope="module")
def home() -> Iterator[GpgHome]:
    """With a key of Alice, who is trusted, and of Eve, who is not."""
    made = GpgHome()
    made.make_key(ALICE)
    made.make_key(EVE)
    yield made
    made.close()


@pytest.fixture
def alice(home: GpgHome) -> Signing:
    return home.signing("alice@example.invalid")


@pytest.fixture
def eve(home: GpgHome) -> Signing:
    return home.signing("eve@example.invalid")


@pytest.fixture
def keys(home: GpgHome, tmp_path: Path) -> Path:
    (file := tmp_path / "keys.asc").write_bytes(home.export("alice@example.invalid"))
    return file


@pytest.fixture
def follow(repository: Repository, mirror: Path, keys: Path) -> Callable[..., GitSource]:
    """A source that trusts Alice's key, or those of `verify`."""

    def make(mode: str = "head", verify: dict[str, object] | None = None, **settings: object) -> GitSource:
        trusted = {"gpg_keys_file": keys} if verify is None else verify
        return source_of(repository, mirror, verify={"mode": mode} | trusted, **settings)

    return make


def refused(source: GitSource, text: str = "is not verified") -> RevisionRefused:
    with pytest.raises(Unverified, match=text) as error:
        source.poll()
    return error.value


# ---------------------------------------------------------------- gpg


def test_signed_head_is_accepted_and_its_signer_named(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, home: GpgHome
) -> None:
    revision = commit(repository, "Signed", alice)
    source = follow()
    snapshot = source.poll()
    assert (snapshot.revision, len(snapshot.files)) == (revision, 2)
    assert snapshot.signer is not None
    assert snapshot.signer.name == ALICE
    assert snapshot.signer.fingerprint.encode() in home.gpg("--fingerprint", "--with-colons", ALICE)
    assert source.poll() is snapshot
    assert follow().last_good() == snapshot


def test_without_verification_nobody_is_named(repository: Repository, mirror: Path, alice: Signing) -> None:
    commit(repository, "Signed", alice)
    source = source_of(repository, mirror)
    assert source.poll().signer is None
    assert not (mirror / "keys").exists()


def test_unsigned_head_is_refused_and_last_good_one_stays(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    source = follow()
    good = commit(repository, "Signed", alice)
    source.poll()
    bad = commit(repository, "Unsigned")
    error = refused(source, f"{bad[:12]} is not verified: it is not signed; the last good revision stays; push")
    assert error.revision == bad
    assert (kept := source.last_good()) is not None
    assert kept.revision == good
    better = commit(repository, "Signed again", alice)
    assert source.poll().revision == better


def test_unknown_key_is_named_with_where_to_add_it(
    repository: Repository, follow: Callable[..., GitSource], eve: Signing, home: GpgHome, keys: Path
) -> None:
    fingerprint = home.gpg("--list-keys", "--with-colons", EVE).decode().split("fpr:::::::::")[1][:40]
    commit(repository, "Eve's", eve)
    refused(follow(), f"signed by the unknown OpenPGP key {fingerprint}; .* add it to {keys}")


def test_expired_key_counts_no_more_though_it_signed_in_time(
    repository: Repository, follow: Callable[..., GitSource], home: GpgHome, keys: Path
) -> None:
    old = home.make_key("Old <old@example.invalid>", "1d", LONG_AGO)
    keys.write_bytes(home.export(old))
    commit(repository, "In time", home.signing(old, IN_TIME))
    refused(follow(), r"signed by Old <old@example.invalid> \([0-9A-F]{16}\), whose key has expired; .*extend that key")


def test_revoked_key_does_not_count(
    repository: Repository, follow: Callable[..., GitSource], home: GpgHome, keys: Path
) -> None:
    lost = home.make_key("Lost <lost@example.invalid>")
    keys.write_bytes(home.export_revoked(lost))
    commit(repository, "Lost", home.signing(lost))
    refused(follow(), "whose key is revoked")


def test_binary_export_of_several_keys_is_read(
    repository: Repository, follow: Callable[..., GitSource], home: GpgHome, keys: Path, eve: Signing
) -> None:
    keys.write_bytes(home.gpg("--export"))
    commit(repository, "Eve's", eve)
    assert follow().poll().signer is not None


def test_exports_one_after_the_other_in_a_file_all_count(
    repository: Repository, follow: Callable[..., GitSource], home: GpgHome, keys: Path, eve: Signing, alice: Signing
) -> None:
    keys.write_bytes(b"# Whom we trust.\n" + keys.read_bytes() + home.export("eve@example.invalid"))
    source = follow()
    for signing in (eve, alice):
        commit(repository, "Signed", signing)
        assert source.poll().signer is not None


@pytest.mark.parametrize("content", [b"", b"no keys\n", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n"])
def test_file_without_a_key_is_refused_by_name(
    repository: Repository, follow: Callable[..., GitSource], keys: Path, content: bytes, alice: Signing
) -> None:
    commit(repository, "Signed", alice)
    keys.write_bytes(content)
    with pytest.raises(Terminal, match="gpg_keys_file"):
        follow().poll()


def test_private_key_in_the_file_is_refused(
    repository: Repository, follow: Callable[..., GitSource], keys: Path, home: GpgHome
) -> None:
    keys.write_bytes(home.gpg("--passphrase", "", "--pinentry-mode", "loopback", "--export-secret-keys", EVE))
    with pytest.raises(Terminal, match="holds a private key"):
        follow().poll()


def test_file_that_is_away_is_retried(repository: Repository, follow: Callable[..., GitSource], keys: Path) -> None:
    keys.unlink()
    with pytest.raises(Retryable, match=r"gpg_keys_file: .* cannot be read"):
        follow().poll()


@pytest.mark.parametrize("program", ["gpg", "ssh-keygen"])
def test_missing_program_is_named_with_its_package(
    follow: Callable[..., GitSource], tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch, keys: Path
) -> None:
    monkeypatch.setattr(trusted_keys.shutil, "which", lambda name: None if name == program else f"/usr/bin/{name}")
    verify = {"gpg_keys_file" if program == "gpg" else "allowed_signers_file": keys}
    with pytest.raises(Terminal, match=f"{program} is not installed.*install {trusted_keys.PACKAGES[program][:6]}"):
        follow(verify=verify).poll()


def test_no_agent_and_nothing_else_is_left_running(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, mirror: Path
) -> None:
    """Deep folders as well: gpg's sockets may have no more than 108 characters."""
    deep = mirror.joinpath(*["deep" * 10] * 3)
    commit(repository, "Signed", alice)
    verify = {"mode": "head", "gpg_keys_file": mirror.parents[1] / "keys.asc"}
    assert source_of(repository, deep, verify=verify).poll().signer is not None
    (there,) = (deep / "keys").iterdir()
    assert not [each for each in there.rglob("*") if each.is_socket()]
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _is_readable(path)]
    assert not [each for each in running if os.fsencode(deep) in each and b"gpg" in each]


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_users_own_keys_and_the_repositorys_config_do_not_count(
    repository: Repository,
    follow: Callable[..., GitSource],
    eve: Signing,
    home: GpgHome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(home.path))
    commit(repository, "Eve's", eve)
    repository.git("config", "gpg.program", "/bin/true")
    source = follow()
    refused(source, "unknown OpenPGP key")


# ---------------------------------------------------------------- ssh


@pytest.fixture
def ssh_key(tmp_path: Path) -> Path:
    make_ssh_key(tmp_path / "id")
    return tmp_path / "id"


@pytest.fixture
def allowed(tmp_path: Path, ssh_key: Path) -> Path:
    file = tmp_path / "allowed_signers"
    file.write_text(f'alice@example.invalid namespaces="git" {_public(ssh_key)}\n')
    return file


def _public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text().strip()


def test_ssh_signature_is_accepted_and_its_principal_named(
    repository: Repository, follow: Callable[..., GitSource], ssh_key: Path, allowed: Path
) -> None:
    commit(repository, "Signed", ssh_signing(ssh_key))
    signer = follow(verify={"allowed_signers_file": allowed}).poll().signer
    assert signer is not None
    assert signer.name == "alice@example.invalid"
    assert signer.fingerprint.startswith("SHA256:")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ('namespaces="file"', "other namespaces only"),
        ('valid-before="20200101"', "does not allow at its date"),
        ('valid-after="21000101"', "does not allow at its date"),
    ],
)
def test_line_that_does_not_allow_it_is_explained(
    repository: Repository, follow: Callable[..., GitSource], ssh_key: Path, allowed: Path, options: str, why: str
) -> None:
    allowed.write_text(f"alice@example.invalid {options} {_public(ssh_key)}\n")
    commit(repository, "Signed", ssh_signing(ssh_key))
    refused(follow(verify={"allowed_signers_file": allowed}), why)


def test_unknown_ssh_key_is_named(
    repository: Repository, follow: Callable[..., GitSource], tmp_path: Path, allowed: Path
) -> None:
    make_ssh_key(tmp_path / "other")
    commit(repository, "Eve's", ssh_signing(tmp_path / "other"))
    refused(follow(verify={"allowed_signers_file": allowed}), r"unknown SSH key SHA256:\S{43}; .*add it to")


def test_each_kind_of_key_counts_only_where_it_is_configured(
    repository: Repository, follow: Callable[..., GitSource], ssh_key: Path, allowed: Path, alice: Signing, keys: Path
) -> None:
    commit(repository, "By ssh", ssh_signing(ssh_key))
    refused(follow(), "signed with SSH, and no such key is trusted; .*allowed_signers_file")
    both = follow(verify={"allowed_signers_file": allowed, "gpg_keys_file": keys})
    assert both.poll().signer is not None
    commit(repository, "By gpg", alice)
    refused(follow(verify={"allowed_signers_file": allowed}), "OpenPGP, and no such key is trusted; .*gpg_keys_file")
    assert both.poll().signer is not None


# ---------------------------------------------------------------- tags


@pytest.mark.parametrize("reference", [{"tag": "v1.0.0"}, {"semver": ">=1"}])
def test_signed_tag_vouches_for_an_unsigned_commit(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, reference: dict[str, str]
) -> None:
    revision = commit(repository, "Unsigned")
    tag(repository, "v1.0.0", alice)
    snapshot = follow("tag", **reference).poll()
    assert snapshot.revision == revision
    assert snapshot.signer is not None
    assert follow("tag", **reference).last_good() == snapshot


def test_tag_that_nobody_signed_is_refused_until_it_is_signed(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, eve: Signing
) -> None:
    revision = commit(repository, "Signed", alice)
    source = follow("tag", tag="v1.0.0")
    repository.git("tag", "v1.0.0")
    refused(source, r"the tag v1\.0\.0 is lightweight")
    tag(repository, "v1.0.0")
    refused(source, r"the tag object \w{40} is not signed; .*git tag --sign")
    tag(repository, "v1.0.0", eve)
    refused(source, r"the tag object \w{40} is signed by the unknown OpenPGP key")
    tag(repository, "v1.0.0", alice)
    assert source.poll().revision == revision


def test_signed_tag_under_another_name_is_refused(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    """Whoever may push could otherwise offer an old release as the newest one."""
    commit(repository, "Old")
    oid = tag(repository, "v1.0.0", alice)
    repository.git("update-ref", "refs/tags/v2.0.0", oid)
    refused(follow("tag", semver=">=1"), rf"the tag object {oid} of v2\.0\.0 was not made as v2\.0\.0")


def test_tag_of_a_tag_is_refused(repository: Repository, follow: Callable[..., GitSource], alice: Signing) -> None:
    tag(repository, "inner", alice)
    tag(repository, "v1", alice, "inner")
    refused(follow("tag", tag="v1"), "was not made as v1")


@pytest.mark.parametrize("reference", [{}, {"branch": "main"}, {"commit": "1" * 40}])
def test_tag_mode_without_a_tag_is_a_fault_of_the_config(reference: dict[str, str], keys: Path) -> None:
    with pytest.raises(ValidationError, match=r"verify\.mode: tag needs tag or semver"):
        SourceSettings.model_validate({"url": "/x", "verify": {"mode": "tag", "gpg_keys_file": keys}} | reference)


# ---------------------------------------------------------------- every commit


def test_unsigned_commit_in_the_middle_is_named(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    source = follow("every")
    commit(repository, "First", alice)
    source.poll()
    commit(repository, "Good", alice)
    bad = commit(repository, "Unsigned")
    head = commit(repository, "Good again", alice)
    error = refused(source, f"{head[:12]} is not verified: {bad} is not signed; .*git rebase")
    assert error.revision == head
    follow("head").poll()


def test_unsigned_commit_of_a_merged_branch_is_named(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    source = follow("every")
    commit(repository, "First", alice)
    source.poll()
    repository.git("checkout", "--quiet", "-b", "side")
    bad = commit(repository, "On the side")
    commit(repository, "On the side, signed", alice)
    repository.git("checkout", "--quiet", "main")
    commit(repository, "Main goes on", alice)
    repository.git(*alice, "merge", "--quiet", "--no-ff", "--gpg-sign", "--message", "Merge", "side")
    refused(source, f"{bad} is not signed")


def test_first_start_asks_for_the_head_alone(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    commit(repository, "Unsigned")
    head = commit(repository, "Signed", alice)
    assert follow("every").poll().revision == head


def test_history_that_may_be_rewritten_is_verified_from_where_it_parted(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    source = follow("every", allow_rewrites=True)
    base = commit(repository, "Base", alice)
    commit(repository, "Dropped", alice)
    source.poll()
    repository.git("reset", "--quiet", "--hard", base)
    bad = commit(repository, "Unsigned")
    commit(repository, "Signed", alice)
    refused(source, f"{bad} is not signed")
    repository.git("reset", "--quiet", "--hard", base)
    good = commit(repository, "Signed", alice)
    assert source.poll().revision == good


def test_old_signed_revision_is_not_taken_again(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    source = follow()
    old = commit(repository, "Old", alice)
    commit(repository, "New", alice)
    source.poll()
    repository.git("reset", "--quiet", "--hard", old)
    with pytest.raises(RevisionRefused, match="was rewritten"):
        source.poll()


def test_more_commits_than_can_be_verified_are_refused(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "MOST_COMMITS", 3)
    source = follow("every")
    commit(repository, "First", alice)
    source.poll()
    for number in range(3):
        commit(repository, f"Good {number}", alice)
    source.poll()
    for number in range(4):
        commit(repository, f"More {number}", alice)
    refused(source, "it brings more than 3 commits")


def test_bad_one_of_many_is_found(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "_AT_ONCE", 4)
    source = follow("every")
    commit(repository, "First", alice)
    source.poll()
    made = [commit(repository, f"Commit {number}", alice if number != 6 else ()) for number in range(10)]
    refused(source, made[6])


def test_answer_of_git_that_changes_accepts_nothing(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the commit that seemed bad was not verified yet."""
    source = follow("every")
    commit(repository, "First", alice)
    source.poll()
    doubted = commit(repository, "Doubted", alice)
    commit(repository, "Unsigned")
    commit(repository, "Signed", alice)
    real, alone = signatures.Mirror.ask_about_signatures, 0

    def doubt(self: signatures.Mirror, keys: trusted_keys.TrustedKeys, *arguments: str) -> tuple[bool, str]:
        nonlocal alone
        alone += arguments[-1] == doubted
        return (False, "") if doubted in arguments and alone < 2 else real(self, keys, *arguments)

    monkeypatch.setattr(signatures.Mirror, "ask_about_signatures", doubt)
    with pytest.raises(Retryable, match=f"the signature of {doubted} for bad, then for good"):
        source.poll()


def test_what_came_since_a_revision_that_is_gone_is_not_believed(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, mirror: Path
) -> None:
    gone = commit(repository, "First", alice)
    follow("every", allow_rewrites=True).poll()
    repository.git("checkout", "--quiet", "--orphan", "fresh")
    commit(repository, "Another history", alice)
    repository.git("branch", "--force", "main", "fresh")
    shutil.rmtree(mirror / "repository")
    refused(follow("every", allow_rewrites=True), f"{gone} is gone, so what came after it is unknown")
    follow("head", allow_rewrites=True).poll()


# ---------------------------------------------------------------- keys and settings that change


def test_added_key_is_believed_and_removed_one_is_not(
    repository: Repository, follow: Callable[..., GitSource], eve: Signing, home: GpgHome, keys: Path, mirror: Path
) -> None:
    source = follow()
    revision = commit(repository, "Eve's", eve)
    refused(source)
    keys.write_bytes(home.export())
    assert source.poll().revision == revision
    assert len(list((mirror / "keys").iterdir())) == 1
    keys.write_bytes(home.export("alice@example.invalid"))
    error = refused(source, "what runs stays as it is, and nothing new is started from this revision")
    assert error.revision == revision
    assert follow().last_good() is None
    keys.write_bytes(home.export())
    assert source.poll().revision == revision
    assert follow().last_good() is not None


def test_revision_from_before_verification_is_verified_at_a_start(
    repository: Repository, mirror: Path, follow: Callable[..., GitSource], alice: Signing
) -> None:
    commit(repository, "Unsigned")
    source_of(repository, mirror).poll()
    assert follow().last_good() is None
    refused(follow(), "nothing new is started from this revision")
    commit(repository, "Signed", alice)
    snapshot = follow().poll()
    assert snapshot.signer is not None
    assert follow().last_good() == snapshot


def test_verdicts_are_kept_and_not_asked_for_again(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(repository, "Signed", alice)
    follow().poll()
    asked: list[tuple[str, ...]] = []
    real = signatures.Mirror.ask_about_signatures

    def count(self: signatures.Mirror, keys: trusted_keys.TrustedKeys, *arguments: str) -> tuple[bool, str]:
        asked.append(arguments)
        return real(self, keys, *arguments)

    monkeypatch.setattr(signatures.Mirror, "ask_about_signatures", count)
    source = follow()
    assert source.last_good() is not None
    source.poll()
    assert asked == []
    commit(repository, "Unsigned")
    for _ in range(3):
        refused(source, "is not signed")
    assert len(asked) == 1
    source.retry()
    refused(source)
    assert len(asked) == 2


def test_preview_of_an_unsigned_commit_is_not_refused(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    good = commit(repository, "Signed", alice)
    bad = commit(repository, "Unsigned")
    assert follow().snapshot(good).signer is not None
    assert follow().snapshot(bad).signer is None
    assert follow().snapshot(bad).revision == bad


# ---------------------------------------------------------------- hostile commits


def test_signature_of_other_content_is_bad(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, ssh_key: Path, allowed: Path, keys: Path
) -> None:
    source = follow(verify={"allowed_signers_file": allowed, "gpg_keys_file": keys})
    for signing in (alice, ssh_signing(ssh_key)):
        commit(repository, "Signed", signing)
        push(repository, read(repository).replace(b"\n\nSigned", b"\n\nForged"))
        refused(source, "has a bad signature: it was not made for this content")


def read(repository: Repository) -> bytes:
    return (repository.git("cat-file", "commit", "HEAD") + "\n").encode()


def push(repository: Repository, data: bytes) -> str:
    """Make this the commit of main, whatever it is."""
    oid = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=data)
    repository.git("update-ref", "refs/heads/main", oid)
    return oid


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"BEGIN PGP SIGNATURE", b"BEGIN GARBAGE", "no known kind"),
        (b"BEGIN PGP SIGNATURE", b"BEGIN SIGNED MESSAGE", "X.509 certificate, which is not supported"),
        (b"BEGIN PGP SIGNATURE", b"BEGIN SSH SIGNATURE", "signed with SSH, and no such key is trusted"),
        (b"\n \n ", b"\n \n " + b"\x1b[31m\xff" * 40 + b"\n ", "cannot verify"),
        (b"\n \n ", b"\n \n " + b"A" * (3 << 20) + b"\n ", "no known kind"),
        (b"\ngpgsig ", b"\ngpgsig x\ngpgsig ", "cannot verify"),
        (b"\ngpgsig ", b"\nencoding utf-16\ngpgsig ", "bad signature"),
    ],
)
def test_strange_signature_is_refused_in_printable_words(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, old: bytes, new: bytes, why: str
) -> None:
    commit(repository, "Signed", alice)
    data = read(repository)
    assert old in data
    oid = push(repository, data.replace(old, new, 1))
    error = refused(follow(), why)
    assert error.revision == oid
    assert str(error).isprintable()


def test_two_signatures_vouch_for_nothing(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, eve: Signing
) -> None:
    """gpg answers for each of them, and one good answer among bad ones is none."""
    commit(repository, "Signed", eve)
    other = read(repository)
    header = other[other.index(b"gpgsig ") : other.index(b"\n\nSigned") + 1]
    repository.git(*alice, "commit", "--quiet", "--allow-empty", "--amend", "--no-edit", "--gpg-sign")
    push(repository, read(repository).replace(b"\ngpgsig ", b"\n" + header + b"gpgsig ", 1))
    refused(follow(), "unknown OpenPGP key|bad signature|cannot verify")


def test_replaced_and_grafted_objects_change_nothing(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing
) -> None:
    bad = commit(repository, "Unsigned")
    good = commit(repository, "Signed", alice)
    repository.git("update-ref", "refs/heads/main", bad)
    repository.git("replace", bad, good)
    refused(follow(), f"{bad[:12]} is not verified: it is not signed")


@given(st.binary(max_size=300))
def test_no_output_of_programs_is_taken_for_a_signer_by_chance(said: bytes) -> None:
    text = said.decode("utf-8", "replace")
    assert signature_verdicts.signers_of(text) == []
    for explain in (signature_verdicts._gpg_fault, signature_verdicts._ssh_fault):
        assert explain(text, "/keys").what.isprintable()


# ---------------------------------------------------------------- a crash


_POLL = """
import os, sys
from pathlib import Path
from reconciler.config.settings import SourceSettings
from reconciler.source import GitSource
verify = {"mode": "head", "gpg_keys_file": sys.argv[3]}
GitSource(SourceSettings.model_validate({"url": sys.argv[1], "verify": verify}), Path(sys.argv[2]), ("",)).poll()
"""


def test_kill_at_any_time_leaves_a_usable_folder(
    repository: Repository, follow: Callable[..., GitSource], alice: Signing, mirror: Path, keys: Path
) -> None:
    revision = commit(repository, "Signed", alice)
    command = [sys.executable, "-c", _POLL, str(repository.path), str(mirror), str(keys)]
    for number in range(8):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while not (mirror / "keys").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.004 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        keys.write_bytes(keys.read_bytes() + b"\n")
    snapshot = follow().poll()
    assert snapshot.revision == revision
    assert snapshot.signer is not None
    assert len(list((mirror / "keys").iterdir())) == 1
