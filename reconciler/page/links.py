"""Where the forge shows commits and lines of git that pages link to. Pure.

Our own addresses: `report/addresses.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from reconciler.config.settings import Settings
from reconciler.errors import ReconcileError
from reconciler.forge.remote import Kind, Remote, find_remote, pages_of

_REVISION = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class ForgeLinks:
    """Where a forge shows commits and files. Without a known forge all are empty."""

    remote: Remote | None = None

    def commit(self, revision: str) -> str:
        """A commit; `revision` has at least 7 digits."""
        if self.remote is None or not _REVISION.fullmatch(revision):
            return ""
        return f"{_page(self.remote)}{_COMMITS[self.remote.kind]}/{revision}"

    def line(self, revision: str, file: str | None, line: int | None = None) -> str:
        """A file of the repository at a commit, at a line where it is given. A folder (`models/`) has no lines."""
        path = (file or "").strip("/")
        if self.remote is None or not path or not _REVISION.fullmatch(revision):
            return ""
        at = 0 if file is None or file.endswith("/") else line or 0
        return _page(self.remote) + _FILES[self.remote.kind](revision, path, at)


def forge_links(settings: Settings) -> ForgeLinks:
    """Those of the repository that is followed. A local one has none, and neither has a forge of no known kind."""
    try:
        return ForgeLinks(find_remote(settings.source.url, settings.forge))
    except ReconcileError:
        return ForgeLinks()


def _part(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _path(path: str) -> str:
    return quote(path, safe="/~", errors="surrogateescape")


def _page(remote: Remote) -> str:
    """The page of the repository."""
    base, repository = pages_of(remote), remote.repository
    if remote.kind == "bitbucket-server":
        project, _, name = repository.partition("/")
        return f"{base}/projects/{_path(project)}/repos/{_path(name)}"
    if remote.kind == "azure-devops":
        organization, project, name = map(_part, repository.split("/"))
        return f"{base}/{organization}/{project}/_git/{name}"
    return f"{base}/{_path(repository)}"


_COMMITS: Mapping[Kind, str] = {
    "github": "/commit",
    "gitlab": "/-/commit",
    "gitea": "/commit",
    "bitbucket": "/commits",
    "bitbucket-server": "/commits",
    "azure-devops": "/commit",
}


def _fragment(prefix: str, line: int) -> str:
    return f"#{prefix}{line}" if line else ""


def _azure_file(revision: str, path: str, line: int) -> str:
    ends = {"line": line, "lineEnd": line + 1, "lineStartColumn": 1, "lineEndColumn": 1} if line else {}
    named = {"path": f"/{path}".encode("utf-8", "surrogateescape"), "version": f"GC{revision}"}
    return f"?{urlencode({**named, **ends}, quote_via=quote, safe='/')}"


_FILES: Mapping[Kind, Callable[[str, str, int], str]] = {
    "github": lambda revision, path, line: f"/blob/{revision}/{_path(path)}{_fragment('L', line)}",
    "gitlab": lambda revision, path, line: f"/-/blob/{revision}/{_path(path)}{_fragment('L', line)}",
    "gitea": lambda revision, path, line: f"/src/commit/{revision}/{_path(path)}{_fragment('L', line)}",
    "bitbucket": lambda revision, path, line: f"/src/{revision}/{_path(path)}{_fragment('lines-', line)}",
    "bitbucket-server": lambda revision, path, line: f"/browse/{_path(path)}?at={revision}{_fragment('', line)}",
    "azure-devops": _azure_file,
}
