"""Is what was pushed what this daemon follows? Pure. What is not named may be ours."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.config.forge import ForgeSettings
from reconciler.config.settings import SourceSettings
from reconciler.errors import Terminal
from reconciler.formats.git_address import parse_address
from reconciler.source.reference import Kind, configured_reference


class Followed:
    """The repository and the reference of the config."""

    def __init__(self, source: SourceSettings, forge: ForgeSettings) -> None:
        self._repositories = _repositories(source, forge)
        self._is_followed = _followed_refs(source)

    def is_repository(self, name: str) -> bool:
        """`name` is OWNER/NAME as the forge says it; it may say less, or more, of its path than the config does."""
        said = _parts(name)
        return not said or not self._repositories or any(_end_alike(said, known) for known in self._repositories)

    def is_one_of(self, refs: tuple[str, ...]) -> bool:
        """Full names."""
        return not refs or any(map(self._is_followed, refs))


def _repositories(source: SourceSettings, forge: ForgeSettings) -> list[list[str]]:
    """Paths of the configured repository; none where it is local, which any webhook may be about."""
    try:
        path = parse_address(source.url).remote_path
    except Terminal:
        path = ""
    return [parts for text in (path, forge.repository or "") if (parts := _parts(text))]


def _parts(path: str) -> list[str]:
    return [part for part in path.lower().removesuffix(".git").split("/") if part]


def _end_alike(one: list[str], other: list[str]) -> bool:
    """A forge below a path of its host, or Bitbucket's `/scm/`, has more before the name."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def _followed_refs(source: SourceSettings) -> Callable[[str], bool]:
    reference = configured_reference(source)
    match reference.kind:
        case Kind.BRANCH:
            return f"refs/heads/{reference.text}".__eq__
        case Kind.TAG:
            return f"refs/tags/{reference.text}".__eq__
        case Kind.SEMVER:
            return lambda ref: ref.startswith("refs/tags/")
        case Kind.COMMIT:
            # Any push may bring it.
            return lambda _: True
