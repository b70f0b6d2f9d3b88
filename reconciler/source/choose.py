"""What becomes of each entry of a revision's tree: it is read, refused with a reason, or passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reconciler.config.settings import SourceSettings
from reconciler.manifests import (
    IGNORE_FILE,
    Ignore,
    is_hidden,
    is_manifest,
    is_near_manifest,
    may_hide_services,
    misnamed,
)
from reconciler.model import NO_ORIGIN, Origin, Reason, ReasonCode, is_under

LINK, SUBMODULE = b"120000", b"160000"
MAKE_ROOM = f"remove files, list them in {IGNORE_FILE}, or raise the limit"
_LONGEST_PATH = 1024
# Larger files are not even checked for supported kinds.
_LONGEST_LOOK = 16 << 20


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a tree, with its full path."""

    mode: bytes
    oid: str
    size: int
    path: bytes

    @property
    def shown(self) -> str:
        """The path as text that can be printed."""
        text = self.path.decode("utf-8", "backslashreplace")
        safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        return safe if len(safe) <= _LONGEST_PATH else safe[:200] + "…"


@dataclass(frozen=True, slots=True)
class _Excess:
    """What a revision has too much of, and how much of it is one entry."""

    total: int
    what: str
    weigh: Callable[[TreeEntry], int]


@dataclass(slots=True)
class ChosenEntries:
    """What becomes of the entries.

    `links` are those that may lead to a folder, `large` those above the limit, `near` those whose names alone keep them
    from being read.
    """

    wanted: list[TreeEntry] = field(default_factory=list)
    refused: dict[bytes, Reason] = field(default_factory=dict)
    skipped: dict[str, Reason] = field(default_factory=dict)
    links: list[TreeEntry] = field(default_factory=list)
    large: list[TreeEntry] = field(default_factory=list)
    near: list[TreeEntry] = field(default_factory=list)

    def refuse(self, entry: TreeEntry, code: ReasonCode, message: str) -> None:
        self.refused[entry.path] = _reason(entry, code, message)


def choose(
    entries: Iterable[TreeEntry], roots: tuple[str, ...], ignore: Ignore, settings: SourceSettings
) -> ChosenEntries:
    """Classify the entries by their names and sizes."""
    chosen = ChosenEntries()
    for entry in entries:
        is_near = entry.mode not in (LINK, SUBMODULE) and not is_manifest(entry.path.decode("utf-8", "replace"))
        if (bad := _bad_path(entry)) is not None:
            if not is_near:
                chosen.refused[entry.path] = bad
            continue
        path = entry.path.decode()
        if is_under(path, roots) and is_hidden(path, roots):
            # The path is to blame, and no line of the file.
            text = "its name, or that of a folder above, begins with a dot"
            chosen.skipped[path] = Reason(ReasonCode.HIDDEN, text, NO_ORIGIN)
        elif (ignored := ignore.why(path)) is not None:
            chosen.skipped[path] = ignored
        elif is_near:
            chosen.near += [entry] if is_near_manifest(path) else []
        elif entry.mode == SUBMODULE:
            chosen.refuse(
                entry, ReasonCode.SUBMODULE, "it is a submodule; put its files here, or give it a source of its own"
            )
        elif entry.mode == LINK:
            chosen.links.append(entry)
        elif entry.size > settings.max_file_bytes:
            chosen.large.append(entry)
        else:
            chosen.wanted.append(entry)
    return chosen


def refuse_links(chosen: ChosenEntries, leads_to_file: Callable[[list[TreeEntry]], list[bool]]) -> None:
    """A link that leads to a file in the tree, and is itself not named like a manifest, is not for us."""
    doubtful = [entry for entry in chosen.links if not is_manifest(entry.path.decode())]
    harmless = {entry.path for entry, fine in zip(doubtful, leads_to_file(doubtful), strict=True) if fine}
    for entry in chosen.links:
        if entry.path not in harmless:
            chosen.refuse(entry, ReasonCode.SYMLINK, "it is a symbolic link; put the file or folder itself there")


def note_near(chosen: ChosenEntries, entry: TreeEntry, data: bytes) -> None:
    """A file that holds a manifest, but does not have the name of one, is noted."""
    if may_hide_services(data) and b"\0" not in data:
        chosen.skipped[entry.path.decode()] = misnamed(entry.shown)


def refuse_large(
    chosen: ChosenEntries, settings: SourceSettings, read: Callable[[list[TreeEntry]], list[bytes]]
) -> None:
    """A file above the limit may hold services, unless what is in it shows that it does not."""
    seen, room = list[TreeEntry](), settings.max_total_bytes
    for entry in chosen.large:
        if entry.size <= min(room, _LONGEST_LOOK):
            seen.append(entry)
            room -= entry.size
    harmless = {each.path for each, data in zip(seen, read(seen), strict=True) if not may_hide_services(data)}
    for entry in chosen.large:
        why = f"it has {entry.size:,} bytes, more than source.max_file_bytes = {settings.max_file_bytes:,}"
        if entry.path in harmless:
            chosen.skipped[entry.path.decode()] = _reason(
                entry, ReasonCode.FILE_TOO_LARGE, f"{why}, and names no InferenceService"
            )
        else:
            chosen.refuse(entry, ReasonCode.FILE_TOO_LARGE, f"{why}; split it")


def refuse_folders(chosen: ChosenEntries, readers: Sequence[tuple[str, ...]], settings: SourceSettings) -> str:
    """Where the total is too large, the largest folder is not read: readers of other folders are not affected.

    `readers` are the folders of each target. Returns what there is too much of, where no target would be left.
    """
    left = sorted({root for roots in readers for root in roots}, key=len, reverse=True)
    while (excess := _excess(chosen.wanted, settings)) is not None:
        shares = {root: sum(map(excess.weigh, _below(root, chosen.wanted))) for root in left}
        largest = max(left, key=lambda root: shares[root])
        left.remove(largest)
        if not any(set(roots) <= set(left) for roots in readers):
            return f"{excess.total:,} {excess.what}"
        text = f"it has {shares[largest]:,} of the revision's {excess.total:,} {excess.what}; {MAKE_ROOM}"
        place = largest.encode()
        chosen.refused[place] = _reason(TreeEntry(b"", "", 0, place), ReasonCode.FOLDER_TOO_LARGE, text)
        chosen.wanted = [each for each in chosen.wanted if is_under(each.path.decode(), left)]
    return ""


def _excess(wanted: list[TreeEntry], settings: SourceSettings) -> _Excess | None:
    if (count := len(wanted)) > settings.max_files:
        return _Excess(count, f"manifest files, more than source.max_files = {settings.max_files:,}", lambda _: 1)
    if (total := sum(each.size for each in wanted)) > settings.max_total_bytes:
        what = f"bytes of manifests, more than source.max_total_bytes = {settings.max_total_bytes:,}"
        return _Excess(total, what, lambda each: each.size)
    return None


def _below(root: str, entries: list[TreeEntry]) -> Iterator[TreeEntry]:
    return (each for each in entries if is_under(each.path.decode(), (root,)))


def refuse_binary(chosen: ChosenEntries, entry: TreeEntry) -> None:
    chosen.refuse(entry, ReasonCode.NOT_TEXT, "it holds a NUL byte, so it is not text")


def _bad_path(entry: TreeEntry) -> Reason | None:
    length = len(entry.path)
    if length > _LONGEST_PATH:
        return _reason(
            entry, ReasonCode.INVALID_PATH, f"its path has {length:,} bytes, more than {_LONGEST_PATH:,}; shorten it"
        )
    try:
        text = entry.path.decode()
    except UnicodeDecodeError:
        return _reason(entry, ReasonCode.INVALID_PATH, "its path is not UTF-8; rename it")
    if not text.isprintable():
        return _reason(entry, ReasonCode.INVALID_PATH, "its path has characters that cannot be printed; rename it")
    if any(part.lower() in (".", "..", ".git", "") for part in text.split("/")):
        return _reason(entry, ReasonCode.INVALID_PATH, "its path leaves the repository; rename it")
    return None


def _reason(entry: TreeEntry, code: ReasonCode, message: str) -> Reason:
    return Reason(code, f"not read: {message}", Origin(entry.shown, 1))
