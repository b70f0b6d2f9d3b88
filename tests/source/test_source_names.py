"""URLs, references and ranges: what is understood, and that nothing else gets through to git."""

from __future__ import annotations

import difflib
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.config.settings import SourceSettings
from reconciler.config.values import is_ref_name
from reconciler.errors import Terminal
from reconciler.formats.git_address import parse_address, shown_address
from reconciler.source.access import ssh_command
from reconciler.source.git import GitFailed
from reconciler.source.git_errors import clean, explain
from reconciler.source.reference import ConfiguredReference, Kind, configured_reference, highest, nothing_found
from tests.support.examples import examples

# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "scheme", "given_to_git", "shown"),
    [
        ("/srv/git/models", "file", "/srv/git/models", "/srv/git/models"),
        ("/srv/a@b?c:d", "file", "/srv/a@b?c:d", "/srv/a@b?c:d"),
        ("file:///srv/my%20models.git", "file", "/srv/my models.git", "/srv/my models.git"),
        ("file://localhost/srv/m", "file", "/srv/m", "/srv/m"),
        ("https://example.com/o/m.git", "https", "https://example.com/o/m.git", "https://example.com/o/m.git"),
        ("HTTPS://me@example.com:8443/~o/m", "https", "https://example.com:8443/~o/m", "https://example.com:8443/~o/m"),
        ("https://[::1]:8443/@scope/m", "https", "https://[::1]:8443/@scope/m", "https://[::1]:8443/@scope/m"),
        ("ssh://git@example.com:22/o/m.git", "ssh", "ssh://git@example.com:22/o/m.git", "ssh://example.com:22/o/m.git"),
        ("git@example.com:o/m.git", "ssh", "git@example.com:o/m.git", "example.com:o/m.git"),
        ("git@[::1]:m.git", "ssh", "git@[::1]:m.git", "[::1]:m.git"),
        ("git:m.git", "ssh", "git:m.git", "git:m.git"),
        ("example.com:/abs/m.git", "ssh", "example.com:/abs/m.git", "example.com:/abs/m.git"),
    ],
)
def test_each_form_of_url_is_understood(url: str, scheme: str, given_to_git: str, shown: str) -> None:
    address = parse_address(url)
    assert (address.scheme, address.url, address.shown) == (scheme, given_to_git, shown)


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "models", "./models", "../m", "~/models", "C:\\models"),
        *("http://example.com/m", "git://example.com/m", "ftp://example.com/m", "ssh+git://e.com/m", "rsync://e.com/m"),
        *("ext::sh -c touch% x", "fd::17", "ext::https://example.com/m", "https::https://example.com/m", "file::/m"),
        *("-oProxyCommand=x", "--upload-pack=x", "-x:y", "ssh://-oProxyCommand=x/m", "ssh://-x@e.com/m", "-u@e.com:m"),
        *("git@-example.com:m", "git@example.com:-x", "git@example.com:", "https://-x/m", "https://example.com"),
        *("https://example.com/", "https:///m", "https://example.com:99999999/m", "https://exa mple.com/m"),
        *("https://e.com/m\n", "https://e.com/\nhost=evil", "https://e.com/m%0ahost=evil", "https://e.com%0d/m"),
        *("file://host/m", "file://m", "file:///m%00", "file:m", "https://e.com/m?token=s3cr3t", "https://e.com/m#x"),
        *("ssh://git:s3cr3t@e.com/m", "git:s3cr3t@e.com:m", "https://git:s3cr3t@e.com/m", "https://a:s3/cr3t@e.com/m"),
        *("https:e.com/m", "HTTP:e.com/m"),
        *("http://s3cr3t@e.com/m", "ext::https://u:s3cr3t@e.com", "/srv/\x1b[31m", "/srv/m "),
    ],
)
def test_every_other_url_is_refused_and_no_secret_is_repeated(url: str) -> None:
    with pytest.raises(Terminal, match=r"^source\.url ") as refused:
        parse_address(url)
    message = str(refused.value)
    assert "s3cr3t" not in message
    assert "cr3t@" not in message
    assert message.isprintable()
    assert message.endswith("or an absolute path")


def test_password_in_the_url_is_told_where_it_belongs() -> None:
    with pytest.raises(Terminal, match=r"it holds a password; put it into a file, set source\.token_file"):
        parse_address("https://git:hunter2@example.com/o/m.git")


_URLISH = st.text(alphabet="abc/:@-.~%?#[]\\ \n\0=+019é", max_size=30)


@settings(max_examples=examples(1000), deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.builds("{}{}".format, st.sampled_from(["https://", "ssh://", "file://", "ext::", "a@b:", "/"]), _URLISH),
        _URLISH,
    )
)
@example("a@b:-x")
def test_no_text_becomes_an_option_another_protocol_or_a_crash(url: str) -> None:
    try:
        address = parse_address(url)
    except Terminal:
        return
    assert address.scheme in ("file", "https", "ssh")
    assert not address.url.startswith("-")
    if address.scheme == "ssh":
        assert "::" not in address.url.partition("[")[0].partition("/")[0]
    assert address.url.isprintable()
    starts = {"file": "/", "https": "https://", "ssh": ""}
    assert address.url.startswith(starts[address.scheme])
    if address.scheme != "file":
        assert not address.host.startswith("-")
        assert "@" not in address.shown.partition("://")[2].partition("/")[0]


# ---------------------------------------------------------------- references

_REFISH = st.text(alphabet="ab/.-@{}~^:?*[\\ \n\x7f\0lock", max_size=12)


@settings(max_examples=examples(400), deadline=None)
@given(st.one_of(_REFISH, st.text(max_size=12)))
@example("a.lock/b")
@example("a./b")
@example("@")
@example("a/@")
@example(".a")
@example("a.lock")
@example("a..b")
@example("a/.b")
@example("main")
def test_name_is_allowed_exactly_when_git_allows_it_and_it_is_no_option(name: str) -> None:
    allowed = is_ref_name(name)
    if name.startswith("-") or "\0" in name or not _is_utf8(name):
        assert not allowed
        return
    asked = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False)
    assert allowed == (asked.returncode == 0)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@pytest.mark.parametrize("kind", ["branch", "tag"])
@pytest.mark.parametrize("name", ["", "-x", "--upload-pack=x", "a b", "a..b", "a:b", "x^{}", "a\nb", "@{1}", "*"])
def test_bad_name_in_the_config_names_its_key(kind: str, name: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?s){kind}.* is not a name that git allows"):
        SourceSettings.model_validate({"url": "/x", kind: name})


@pytest.mark.parametrize("commit", ["", "abc", "g" * 40, "a" * 39, "a" * 41, "a" * 64, "-" * 40, "main"])
def test_commit_needs_all_its_digits(commit: str) -> None:
    with pytest.raises(ValidationError, match=r"(?s)commit.* write all 40 hexadecimal digits"):
        SourceSettings(url="/x", commit=commit)


def test_branch_main_is_meant_when_nothing_is_named() -> None:
    wanted = configured_reference(SourceSettings(url="/x"))
    assert (wanted.kind, wanted.text) == (Kind.BRANCH, "main")


# ---------------------------------------------------------------- ranges

TAGS = [
    "v0.9.0",
    "1.0.0",
    "v1.2.3",
    "v1.2.3+build.7",
    "v1.10.0",
    "v1.11.0-rc.1",
    "2.0.0-rc.1",
    "v2.0.0",
    "v3",
    "latest",
]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (">=1.0.0 <2.0.0", "v1.10.0"),
        (">= 1.0.0, < 2.0.0", "v1.10.0"),
        ("1.x", "v1.10.0"),
        ("1.2", "v1.2.3+build.7"),
        ("^1.2.0", "v1.10.0"),
        ("~1.2.0", "v1.2.3+build.7"),
        ("~> 1.2.0", "v1.2.3+build.7"),
        ("v1.2.3", "v1.2.3+build.7"),
        ("1.0 - 1.5", "v1.2.3+build.7"),
        ("0.x || 1.0.x", "1.0.0"),
        ("*", "v2.0.0"),
        (">=1.11.0-0 <2", "v1.11.0-rc.1"),
        (">=4", None),
    ],
)
def test_range_takes_the_highest_tag_that_is_no_pre_release(text: str, tag: str | None) -> None:
    assert highest(text, TAGS) == tag
    assert highest(text, reversed(TAGS)) == tag


@pytest.mark.parametrize(
    "text", ["", "latest", ">=a.b.c", "1.2.3.4", ">>1", "!=1.0.0", "1.0.0 ||", "9" * 5000, "=>1", "-"]
)
def test_what_is_no_range_names_its_key(text: str) -> None:
    with pytest.raises(ValidationError, match=r"(?s)semver.* is not a range of versions"):
        SourceSettings(url="/x", semver=text)


@settings(max_examples=examples(500), deadline=None)
@given(st.text(alphabet="0123456789.xX*<>=~^|-+ vrc,\n!", max_size=25), st.lists(st.text(max_size=15), max_size=5))
def test_no_range_and_no_tag_name_can_crash_the_choice(text: str, tags: list[str]) -> None:
    try:
        chosen = highest(text, [*tags, *TAGS])
    except ValueError:
        return
    assert chosen is None or chosen in tags or chosen in TAGS


# ---------------------------------------------------------------- ssh's command line and git's words


def test_ssh_command_survives_blanks_and_percent_signs(tmp_path: Path) -> None:
    odd = tmp_path / "it's 100% mine"
    odd.mkdir()
    for name in ("key", "hosts"):
        (odd / name).write_text("")
    command = ssh_command(SourceSettings(url="/x", ssh_key_file=odd / "key", known_hosts_file=odd / "hosts"))
    seen = subprocess.run([*shlex.split(command), "-G", "example.com"], capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in seen.stdout.splitlines() if " " in line)
    assert told["identityfile"] == f"{str(odd).replace('%', '%%')}/key"
    assert told["userknownhostsfile"] == f"{odd}/hosts"
    assert told["stricthostkeychecking"] == "true"
    assert (told["batchmode"], told["identitiesonly"], told["clearallforwardings"]) == ("yes", "yes", "yes")


@pytest.mark.parametrize("name", ['a"b', "a$b", "a\\b"])
def test_path_that_ssh_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Terminal, match=r"^source\.ssh_key_file: ssh cannot be given a path"):
        ssh_command(SourceSettings(url="/x", ssh_key_file=tmp_path / name))


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=200))
def test_what_git_says_is_repeated_without_the_token_on_one_printable_line(noise: str) -> None:
    address = parse_address("ssh://git@example.com/m.git")
    said = f"{noise}\nfatal: unable to access 'https://bob:s3cr3t@evil.example/x': s3cr3t\x1b[2J\nremote: {noise}s3cr3t"
    shown = clean(said, address, ("s3cr3t",))
    assert "s3cr3t" not in shown
    assert "bob" not in shown or "bob" in noise
    assert shown.isprintable()
    assert len(shown) <= 400


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Host key verification failed.\nfatal: Could not read from remote repository.", "source.known_hosts_file"),
        ("git@example.com: Permission denied (publickey).\nfatal: Could not read from", "source.ssh_key_file"),
        ("fatal: unable to access 'https://e/m': server certificate verification failed", "source.ca_file"),
        ("fatal: unable to access 'https://e/m': Could not resolve host: e", "at the next interval"),
        ("", "git gave no reason"),
    ],
)
def test_failure_says_what_to_check(said: str, hint: str) -> None:
    error = explain(GitFailed(128, said), parse_address("ssh://git@example.com/m"), "ask")
    assert hint in str(error)
    assert str(error).startswith("cannot ask ssh://example.com/m: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://s3cret@git.example.com/m.git", "https://git.example.com/m.git"),
        ("https://bot:s3cret@git.example.com/m.git", "https://git.example.com/m.git"),
        ("ssh://bot@git.example.com/m.git", "ssh://git.example.com/m.git"),
        ("/srv/m.git", "/srv/m.git"),
    ],
)
def test_shown_address_holds_no_user_name_or_password(url: str, shown: str) -> None:
    assert shown_address(url) == shown


def test_missing_branch_among_a_hundred_thousand_is_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = difflib.get_close_matches

    def close_matches(word: str, known: list[str], *limits: float) -> list[str]:
        compared.append(len(known))
        return real(word, known, *limits)  # type: ignore[type-var]

    monkeypatch.setattr(difflib, "get_close_matches", close_matches)
    refs = {f"refs/heads/{'x' * 500}-{number}": "" for number in range(20_000)} | {"refs/heads/production": ""}
    said = str(nothing_found(ConfiguredReference(Kind.BRANCH, "prodution"), refs, "git.example"))
    assert "it has production; push it" in said
    assert compared == [1_000]
    assert len(str(nothing_found(ConfiguredReference(Kind.BRANCH, "other"), refs, "git.example"))) < 2_000


def test_names_that_a_server_makes_up_are_shown_in_one_printable_line() -> None:
    refs = {"refs/heads/ma\x1b[31min\u202e": "a" * 40, "refs/heads/x\r\nSynced": "a" * 40}
    for branch in ("main", "other"):
        assert str(nothing_found(ConfiguredReference(Kind.BRANCH, branch), refs, "https://example.com/m")).isprintable()
