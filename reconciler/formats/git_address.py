"""Where a git repository is, and by which protocol alone it may be reached. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from reconciler.errors import Terminal

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

    `host` is as git names it when it asks for credentials. `remote_path` is the path there, decoded, without slashes at
    its ends; `path` is set only for a local repository.
    """

    scheme: str
    url: str
    shown: str
    host: str = ""
    username: str = ""
    path: Path | None = None
    remote_path: str = ""


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
    return Address("https", bare, bare, match["host"], unquote(match["user"] or ""), remote_path=_path(match))


def _why_not_https(url: str) -> str:
    if re.match(r"https://[^/@]*:[^/]*@", url, re.IGNORECASE):
        return "it holds a password; put it into a file, set source.token_file to that file, and remove it from the URL"
    return "it is not https://HOST/PATH"


def _ssh(url: str) -> Address:
    match = _SSH.fullmatch(url)
    if not match:
        raise _refusal(url, "it is not ssh://USER@HOST/PATH (a password has no place in it)")
    shown = f"ssh://{match['host']}{match['path']}"
    return Address("ssh", url, shown, match["host"], match["user"] or "", remote_path=_path(match))


def _scp(url: str) -> Address:
    match = _SCP.fullmatch(url)
    if not match or "\\" in url or (not match["user"] and match["host"].lower() in _NO_HOSTS):
        raise _refusal(url, "it is neither a URL nor an absolute path")
    shown, path = f"{match['host']}:{match['path']}", match["path"].strip("/")
    return Address("ssh", url, shown, match["host"], match["user"] or "", remote_path=path)


def _path(match: re.Match[str]) -> str:
    return unquote(match["path"]).strip("/")
