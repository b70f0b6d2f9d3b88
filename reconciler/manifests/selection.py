"""Which files of a tree are manifests: by name, unless hidden or ignored. The same for git and for folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.errors import ManifestError
from reconciler.model import File, Origin, Reason, ReasonCode, Snapshot, is_under

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern


SUFFIXES = (".yaml", ".yml", ".json")
# What kustomize builds a folder from; the last one has no suffix.
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
IGNORE_FILE = ".reconcilerignore"
MAX_IGNORE_BYTES = 64 << 10
MAX_PATTERNS = 500
MAX_PATTERN_LENGTH = 200
_NEAR = re.compile(r"\.(ya?ml|json)([._~-][^/]*)?$|\.(jsonnet|libsonnet|cue)$", re.IGNORECASE)
_CLASS = re.compile(r"\[[:=.].*[:=.]\]")


def is_manifest(path: str) -> bool:
    """Is a file read, by its name? A dot in front hides it; that is for `is_hidden` to say."""
    return path.endswith(SUFFIXES) or is_kustomization(path)


def is_kustomization(path: str) -> bool:
    return path.rpartition("/")[2] in KUSTOMIZATIONS


def is_near_manifest(path: str) -> bool:
    """Is a name that is not read one that manifests get: a copy, a template, another case?"""
    return bool(_NEAR.search(path)) and not is_manifest(path)


def misnamed(path: str) -> Reason:
    """What is said of such a file where it holds what a manifest does."""
    text = f"not read, though it holds what a manifest does: names end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    return Reason(ReasonCode.MISNAMED_MANIFEST, text, Origin(path, 1))


def is_hidden(path: str, roots: Iterable[str]) -> bool:
    """Does a name below every root that it is under begin with a dot? A root itself may."""
    return not any(not _has_dot(rest) for rest in _below(path, roots))


def _below(path: str, roots: Iterable[str]) -> Iterator[str]:
    for root in roots:
        if not root:
            yield path
        elif path == root:
            yield ""
        elif path.startswith(f"{root}/"):
            yield path[len(root) + 1 :]


def _has_dot(rest: str) -> bool:
    return any(part.startswith(".") for part in rest.split("/"))


@dataclass(frozen=True, slots=True)
class _Rules:
    """One ignore file. `lines` are numbers and texts of its patterns, in their order."""

    file: str
    spec: GitIgnoreSpec
    lines: tuple[tuple[int, str], ...]

    def check(self, path: str) -> Reason | bool | None:
        """Why a path is ignored; False: it is taken back in; None: nothing is said about it."""
        found = self.spec.check_file(path)
        if found.include is None or found.index is None:
            return None
        number, text = self.lines[found.index]
        return (
            Reason(ReasonCode.FILE_IGNORED, f"ignored by `{text}`", Origin(self.file, number))
            if found.include
            else False
        )


class Ignore:
    """What the ignore files of a tree leave out, each in its own folder, by gitignore's rules."""

    def __init__(self) -> None:
        self._rules: dict[str, _Rules] = {}
        self._folders: dict[str, Reason | None] = {}

    def add(self, folder: str, data: bytes | None, shown: str) -> None:
        """The ignore file of a folder; None: it is no file. Raises ManifestError for one that cannot be followed."""
        self._rules[folder] = _parsed(data, shown)
        self._folders.clear()

    def rules_above(self, folder: str) -> int:
        """How many ignore files say something about what is in a folder."""
        return sum(each in self._rules for each in ("", *_folders_of(folder)))

    def why(self, path: str) -> Reason | None:
        """The line that ignores a file, or a folder above it; None when none does."""
        if not self._rules:
            return None
        for folder in _folders_of(path):
            if folder not in self._folders:
                self._folders[folder] = self._decide(f"{folder}/")
            if reason := self._folders[folder]:
                return reason
        return self._decide(path)

    def _decide(self, path: str) -> Reason | None:
        """The nearest ignore file that says something counts."""
        for folder in (*reversed(_folders_of(path.rstrip("/"))), ""):
            rules = self._rules.get(folder)
            verdict = rules.check(path[len(folder) + 1 :] if folder else path) if rules else None
            if verdict is not None:
                return verdict if isinstance(verdict, Reason) else None
        return None


def ignore_files(roots: Iterable[str]) -> tuple[str, ...]:
    """Where ignore files may stand that say something about these roots, from above."""
    folders = {"", *(folder for root in roots for folder in _folders_of(root))}
    return tuple(sorted(f"{folder}/{IGNORE_FILE}".lstrip("/") for folder in folders))


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _folders_of(path: str) -> list[str]:
    """The folders above a path, the outermost first, without the tree itself."""
    return [path[: match.start()] for match in re.finditer("/", path)]


def _parsed(data: bytes | None, file: str) -> _Rules:
    # Most trees have no such file, and a command need not wait for what it does not use.
    import re2
    from pathspec import GitIgnoreSpec

    if data is None or len(data) > MAX_IGNORE_BYTES:
        raise ManifestError(file, 1, "", f"expected a plain file of {MAX_IGNORE_BYTES >> 10} KiB at most")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        raise ManifestError(file, 1, "", "is not UTF-8 text; save it as UTF-8") from None
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    if len(lines) > MAX_PATTERNS:
        raise ManifestError(
            file, lines[MAX_PATTERNS][0], "", f"more than {MAX_PATTERNS} patterns; ignore whole folders"
        )
    patterns = [pattern for number, line in lines for pattern in _pattern(file, number, line)]
    try:
        # RE2 takes as long as the name, whatever the pattern.
        return _Rules(file, GitIgnoreSpec(patterns, backend="re2"), tuple(lines))
    except re2.error:
        raise ManifestError(file, 1, "", "its patterns are too large together; ignore whole folders") from None


def _pattern(file: str, number: int, line: str) -> Iterable[GitIgnoreSpecPattern]:
    if len(line) > MAX_PATTERN_LENGTH:
        raise ManifestError(file, number, "", f"a pattern has {MAX_PATTERN_LENGTH} characters at most; split it")
    if _CLASS.search(line):
        # The library takes them for other characters, and would leave out more than git does.
        raise ManifestError(file, number, "", f"`{line}`: write `[a-z]` instead of a class like `[[:lower:]]`")
    import re2
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines([line], backend="re2").patterns
    except (ValueError, re.error, re2.error):
        raise ManifestError(file, number, "", f"`{line}` is not a valid gitignore pattern; correct it") from None


def narrow(snapshot: Snapshot, paths: Sequence[str]) -> Snapshot:
    """The snapshot as one that reads these paths has it.

    A file that only another target reads is no manifest here, but a kustomization may still use it.
    """
    own, others = list[File](), list[File]()
    for each in snapshot.files:
        (others if is_hidden(each.path, paths) else own).append(each)
    return replace(
        snapshot,
        files=tuple(own),
        supporting=(*snapshot.supporting, *others),
        refused=tuple(each for each in snapshot.refused if _touches(each, paths)),
        missing=tuple(path for path in snapshot.missing if path in paths),
        skipped={path: why for path, why in snapshot.skipped.items() if is_under(path, paths)},
    )


def _touches(reason: Reason, paths: Sequence[str]) -> bool:
    """Also what exists instead of one of the target's parent folders, or blocks access to it."""
    if not reason.origin:
        return True
    if reason.code is ReasonCode.FOLDER_TOO_LARGE:
        return reason.origin.file in paths
    refused = reason.origin.file.removesuffix(f"/{IGNORE_FILE}")
    return is_under(refused, paths) or any(path.startswith(f"{refused}/") for path in paths)
