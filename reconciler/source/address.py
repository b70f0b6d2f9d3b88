"""Where the repository is, by which protocol alone it may be reached, and why it could not be read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.source.git import MOST_MEMORY, GitFailed

_FORMS = "write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH or an absolute path"
_HOST = r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?)"
_HTTPS = re.compile(rf"https://(?:(?P<user>[^/@:]+)@)?{_HOST}(?P<path>/[^?#]+)", re.IGNORECASE)
_SSH = re.compile(rf"ssh://(?:(?P<user>[A-Za-z0-9._][A-Za-z0-9._-]*)@)?{_HOST}(?P<path>/[^?#]+)", re.IGNORECASE)
_SCP = re.compile(
    r"(?:(?P<user>[A-Za-z0-9._][A-Za-z0-9._-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]):(?P<path>(?!-|[^/]*[@:])[^?#]+)"
)
# `https:example.com/m` is a slip of the pen, not a host named https.
_NO_HOSTS = frozenset(("file", "ftp", "http", "https", "ssh"))
# A percent-encoded control character would be decoded by git and could end a line of its credential protocol.
_HIDDEN_CONTROL = re.compile(r"%(?:0[0-9a-f]|1[0-9a-f]|7f)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """A repository. `url` is what git is given, `shown` what people are: without user name or password.

    `host` is as git names it when it asks for credentials. `path` is set only for a local repository.
    """

    scheme: str
    url: str
    shown: str
    host: str = ""
    username: str = ""
    path: Path | None = None


def parse_address(url: str) -> Address:
    """Understand `source.url`. Raises Terminal for every form but https, ssh and a local path."""
    if not url.isprintable() or url != url.strip() or _HIDDEN_CONTROL.search(url):
        raise _refusal(url, "it holds blanks at an end or characters that cannot be printed")
    if url.startswith("/"):
        return _local(url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _scp(url)
    match scheme.lower():
        case "file":
            return _file(url, rest)
        case "https":
            return _https(url)
        case "ssh":
            return _ssh(url)
    raise _refusal(url, f"{_hide(scheme)} is not a supported protocol")


def shown_address(url: str) -> str:
    """What people may see of `source.url`: no user name, which may be a token, and no password."""
    try:
        return parse_address(url).shown
    except Terminal:
        return _hide(url)


def _hide(url: str) -> str:
    """What of a refused URL may be shown: whatever may be a name, a password or a query is cut."""
    scheme = url.partition("://")[0] + "://" if "://" in url else ""
    text = scheme + url.removeprefix(scheme).rpartition("@")[2].partition("?")[0]
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 200 else text[:199] + "…"


def _refusal(url: str, why: str) -> Terminal:
    return Terminal(f'source.url "{_hide(url)}" cannot be used: {why}; {_FORMS}')


def _local(path: str) -> Address:
    return Address("file", path, path, path=Path(path))


def _file(url: str, rest: str) -> Address:
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/") or not path.isprintable():
        raise _refusal(url, "a file URL has three slashes and then a path on this machine")
    return _local(path)


def _https(url: str) -> Address:
    match = _HTTPS.fullmatch(url)
    if not match:
        raise _refusal(url, _why_not_https(url))
    bare = f"https://{match['host']}{match['path']}"
    return Address("https", bare, bare, match["host"], unquote(match["user"] or ""))


def _why_not_https(url: str) -> str:
    if re.match(r"https://[^/@]*:[^/]*@", url, re.IGNORECASE):
        return "it holds a password; put it into a file, set source.token_file to that file, and remove it from the URL"
    return "it is not https://HOST/PATH"


def _ssh(url: str) -> Address:
    match = _SSH.fullmatch(url)
    if not match:
        raise _refusal(url, "it is not ssh://USER@HOST/PATH (a password has no place in it)")
    return Address("ssh", url, f"ssh://{match['host']}{match['path']}", match["host"], match["user"] or "")


def _scp(url: str) -> Address:
    match = _SCP.fullmatch(url)
    if not match or "\\" in url or (not match["user"] and match["host"].lower() in _NO_HOSTS):
        raise _refusal(url, "it is neither a URL nor an absolute path")
    return Address("ssh", url, f"{match['host']}:{match['path']}", match["host"], match["user"] or "")


def git_folder(path: Path) -> Path | None:
    """Where a repository keeps its references: itself if bare, `.git`, or what a `.git` file points to."""
    inner = path / ".git"
    if inner.is_file():
        inner = _follow(inner, "gitdir: ")
        common = inner / "commondir"
        return _follow(common, "") if common.is_file() else inner
    folder = inner if inner.is_dir() else path
    return folder if (folder / "HEAD").is_file() else None


def _follow(pointer: Path, prefix: str) -> Path:
    text = pointer.read_text("utf-8", "replace").strip().removeprefix(prefix)
    return Path(os.path.normpath(pointer.parent / text))


_LOGIN = {
    "https": "check source.token_file and source.username",
    "ssh": "check source.ssh_key_file, and that the server has its public key",
    "file": "check that this user may read it",
}
AGAIN = "trying again at the next interval"
_HINTS = (
    (r"host key verification failed|no .* host key is known", "put the server's key into source.known_hosts_file"),
    (
        r"out of memory|cannot allocate",
        f"git is given {MOST_MEMORY >> 30} GiB of memory: take out of the history what unfolds to more",
    ),
    (r"certificate|SSL", "check source.ca_file, or the server's certificate"),
    (r"could not read (username|password)|authentication failed|permission denied|access denied| 40[13]\b", ""),
    (r"not appear to be a git repository|not found|no such file", "check source.url, and that this login may read it"),
    (r"could not resolve|failed to connect|connection|timed out|no answer|network", AGAIN),
)
_NOISE = re.compile(r"^(fatal|error|remote|warning|hint):\s*", re.IGNORECASE)
# What a fetch says of how far it is, and what an older git says of checks that it does not know.
_PROGRESS = re.compile(
    r"^(remote: )?((Enumerating|Counting|Compressing|Receiving|Unpacking) objects|Resolving deltas|Total \d)"
    r"|^warning: Skipping unknown msg id",
    re.IGNORECASE,
)
_GENERIC = ("could not read from remote repository.", "please make sure you have the correct access rights", "and the")


def explain(error: GitFailed, address: Address, what: str, secrets: tuple[str, ...] = ()) -> ReconcileError:
    """The error to raise when git could not do `what` ("ask", "fetch from"). Only a broken history is Terminal."""
    output = clean(error.output, address, secrets)
    if re.search(r"fsck error|mismatched algorithms|unsupported object format", error.output):
        return Terminal(
            f"cannot {what} {address.shown}: {output}; its history is damaged or of an unknown format; the last good "
            "revision stays: push a history without that object"
        )
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, output, re.IGNORECASE)), _HINTS[-1][1])
    return Retryable(f"cannot {what} {address.shown}: {output}; {hint or _LOGIN[address.scheme]}")


def clean(output: str, address: Address, secrets: tuple[str, ...] = ()) -> str:
    """git's last message on one line, without credentials, control characters or uninformative sentences."""
    for secret in secrets:
        output = output.replace(secret, "***")
    output = re.sub(r"//[^/\s'\"]*@", "//", output.replace(address.url, address.shown))
    lines = [line.strip() for line in re.split(r"[\r\n]", output)]
    lines = [_NOISE.sub("", line) for line in lines if not _PROGRESS.search(line)]
    lines = ["".join(character if character.isprintable() else " " for character in line) for line in lines]
    telling = [line for line in lines if line and not line.lower().startswith(_GENERIC)]
    return (", ".join(dict.fromkeys(telling[-3:])) or "git gave no reason")[:400].rstrip(".")
