"""One revision, read from the object store: two git calls, whatever the number of files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reconciler.config.settings import SourceSettings
from reconciler.config.values import normalize_path
from reconciler.errors import ManifestError, Retryable, Terminal
from reconciler.manifests import (
    IGNORE_FILE,
    MAX_IGNORE_BYTES,
    SUFFIXES,
    Ignore,
    find_supporting,
    folder_of,
    ignore_files,
    is_hidden,
    is_kustomization,
)
from reconciler.model import File, Origin, Reason, ReasonCode, Snapshot, is_under
from reconciler.source.choose import (
    LINK,
    MAKE_ROOM,
    SUBMODULE,
    ChosenEntries,
    TreeEntry,
    choose,
    note_near,
    refuse_binary,
    refuse_folders,
    refuse_large,
    refuse_links,
)
from reconciler.source.mirror import Damaged, Endless, Mirror

_SUFFIXES, _IGNORE = tuple(suffix.encode() for suffix in SUFFIXES), IGNORE_FILE.encode()
# Names that are looked at more closely.
_MAY_MATTER = re.compile(rb"\.(ya?ml|json|libsonnet|cue)|(^|/)Kustomization$", re.IGNORECASE)
_KEPT = "the last good revision stays"
# Some hundred thousand files: kilobytes of trees that name each other can list for hours.
_LONGEST_LISTING = 32 << 20
# Of all ignore files below one folder of `targets[].paths`, and of those that one file is looked for in.
_MOST_IGNORE_LINES = 10_000
_MOST_IGNORES_ABOVE = 10
# Names in one call of git, and files that are looked at only to see whether they should have another name.
_MOST_ASKED, _MOST_NEAR = 500, 50
# The year 9999, which is as far as a calendar here goes.
_LATEST = 253_370_764_800.0
_FOLDER = b"040000"
# Of a blob: its id, its kind and its size.
_LONGEST_HEADER = 80


@dataclass(frozen=True, slots=True)
class ReadPaths:
    """What is read of a revision: the folders that any target reads, and those of each; none: one reads all."""

    paths: tuple[str, ...]
    readers: tuple[tuple[str, ...], ...] = ()


def read_snapshot(
    mirror: Mirror, revision: str, paths_read: ReadPaths, settings: SourceSettings, before: Snapshot | None = None
) -> Snapshot:
    """Read the manifests under the paths; what `before` has already is not read again.

    Raises Terminal beyond the limits and for an ignore file of all that is read that cannot be followed, Damaged for a
    bad mirror.
    """
    paths = paths_read.paths
    try:
        clean = {path: normalize_path(path) for path in paths}
    except ValueError as error:
        raise Terminal(f"targets.paths: {error}") from None
    roots = tuple(dict.fromkeys(clean.values()))
    readers = [tuple(clean[path] for path in each) for each in paths_read.readers or (paths,)]
    listing, endless = _listing(mirror, revision, roots, readers)
    entries, ignore_files, present = _entries(listing, roots)
    ignore, closed = _ignore(mirror, ignore_files, roots)
    chosen = choose([each for each in entries if not _is_closed(each, closed)], roots, ignore, settings)
    chosen.refused |= {f"{folder}/{IGNORE_FILE}".encode(): reason for folder, reason in closed.items()} | endless
    refuse_links(chosen, lambda links: _lead_to_files(mirror, revision, links))
    if what := refuse_folders(chosen, readers, settings):
        raise Terminal(f"revision {revision[:12]} has {what}; {_KEPT}; {MAKE_ROOM}")
    blobs = {file.oid: file.data for file in (*before.files, *before.supporting)} if before else {}
    unread = [entry.oid for entry in chosen.wanted if entry.oid not in blobs]
    blobs |= _blobs(mirror, unread, settings.max_total_bytes)
    refuse_large(chosen, settings, lambda large: _contents(mirror, large))
    files = []
    for entry in chosen.wanted:
        if b"\0" in (data := blobs[entry.oid]):
            refuse_binary(chosen, entry)
        else:
            files.append(File(entry.path.decode(), entry.oid, data))
    _note_near(mirror, chosen, settings)
    supporting = _supporting(mirror, revision, files, blobs, settings)
    subject, committed_at = _describe(mirror, revision)
    return Snapshot(
        revision=revision,
        files=tuple(files),
        refused=tuple(chosen.refused[path] for path in sorted(chosen.refused)),
        missing=tuple(path for path in paths if clean[path] not in present and clean[path].encode() not in endless),
        subject=subject,
        committed_at=committed_at,
        skipped=chosen.skipped,
        supporting=tuple(supporting[path] for path in sorted(supporting)),
    )


def _note_near(mirror: Mirror, chosen: ChosenEntries, settings: SourceSettings) -> None:
    """Files whose names only begin as those of manifests do: those that hold one are noted."""
    seen = [each for each in chosen.near if each.size <= settings.max_file_bytes][:_MOST_NEAR]
    for entry, data in zip(seen, _contents(mirror, seen), strict=True):
        note_near(chosen, entry, data)


def _supporting(
    mirror: Mirror, revision: str, files: list[File], blobs: dict[str, bytes], settings: SourceSettings
) -> dict[str, File]:
    """What kustomizations among the files name outside them, wherever it is in this revision, within the limits."""
    room = settings.max_total_bytes - sum(len(file.data) for file in files)

    def look(paths: Collection[str]) -> dict[str, File]:
        nonlocal room
        entries = []
        for entry in _named_entries(mirror, revision, paths):
            if entry.size <= min(room, settings.max_file_bytes):
                entries.append(entry)
                room -= entry.size
        unread = [entry for entry in entries if entry.oid not in blobs]
        blobs.update(zip((entry.oid for entry in unread), _contents(mirror, unread), strict=True))
        return {path: File(path, entry.oid, blobs[entry.oid]) for entry in entries for path in (entry.path.decode(),)}

    if not any(is_kustomization(file.path) for file in files):
        return {}
    return find_supporting({file.path: file for file in files}, look)


def _named_entries(mirror: Mirror, revision: str, paths: Collection[str]) -> list[TreeEntry]:
    """The plain files among these paths."""
    names, found = sorted(paths), list[TreeEntry]()
    for begin in range(0, len(names), _MOST_ASKED):
        asked = names[begin : begin + _MOST_ASKED]
        listing = mirror.read("ls-tree", "-z", "-l", "--full-tree", revision, "--", *asked, most=_LONGEST_LISTING)
        for line in filter(None, listing.split(b"\0")):
            about, _, path = line.partition(b"\t")
            mode, kind, oid, size = about.split()
            if kind == b"blob" and mode != LINK:
                found.append(TreeEntry(mode, oid.decode(), int(size), path))
    return found


def _listing(
    mirror: Mirror, revision: str, roots: tuple[str, ...], readers: list[tuple[str, ...]]
) -> tuple[bytes, dict[bytes, Reason]]:
    """What stands under the roots, and those of them whose list has no end, if there are targets without these."""
    asked = () if "" in roots else (*roots, *ignore_files(roots))
    try:
        return _listed(mirror, revision, asked, _LONGEST_LISTING), {}
    except Endless:
        share = _LONGEST_LISTING // len(roots)
        long = {root for root in roots if not root or not _has_end(mirror, revision, root, share)}
        left = tuple(root for root in roots if root not in long)
        if not long or not any(set(each) <= set(left) for each in readers):
            raise
    text = f"not read: the list of its files has more than {share:,} bytes; move files out of it"
    endless = {root.encode(): Reason(ReasonCode.FOLDER_TOO_LARGE, text, Origin(root, 1)) for root in long}
    return _listed(mirror, revision, (*left, *ignore_files(left)), _LONGEST_LISTING), endless


def _has_end(mirror: Mirror, revision: str, root: str, most: int) -> bool:
    try:
        _listed(mirror, revision, (root,), most)
    except Endless:
        return False
    return True


def _listed(mirror: Mirror, revision: str, asked: tuple[str, ...], most: int) -> bytes:
    # With `-t` folders are listed as well: those that hold no file could otherwise be walked endlessly without output.
    return mirror.read("ls-tree", "-r", "-t", "-z", "-l", "--full-tree", revision, "--", *asked, most=most)


def _entries(listing: bytes, roots: tuple[str, ...]) -> tuple[list[TreeEntry], list[TreeEntry], set[str]]:
    """What may matter of the tree, the ignore files among it and above it, and which of the roots are there."""
    entries, ignoring, present = list[TreeEntry](), list[TreeEntry](), set[str]()
    begin = 0
    while (end := listing.find(b"\0", begin)) >= 0:
        about, _, path = listing[begin:end].partition(b"\t")
        begin = end + 1
        mode, _kind, oid, size = about.split()
        if mode == _FOLDER:
            continue
        present |= {root for root in roots if root not in present and _is_in(path, root.encode())}
        # Links and submodules count whatever their name: they may stand for a folder.
        is_ignore = path.endswith(_IGNORE) and path.rpartition(b"/")[2] == _IGNORE
        if is_ignore or path.endswith(_SUFFIXES) or _MAY_MATTER.search(path) or mode in (LINK, SUBMODULE):
            entry = TreeEntry(mode, oid.decode(), 0 if size == b"-" else int(size), path)
            (ignoring if is_ignore else entries).append(entry)
    return entries, ignoring, present


def _is_in(path: bytes, place: bytes) -> bool:
    return not place or path == place or path.startswith(place + b"/")


def _ignore(mirror: Mirror, files: list[TreeEntry], roots: tuple[str, ...]) -> tuple[Ignore, dict[str, Reason]]:
    """What is ignored, and the folders whose ignore file cannot be followed: what it leaves out is unknown.

    Raises Terminal where such a folder is all that is read.
    """
    ignore, closed, spent = Ignore(), dict[str, Reason](), Counter[str]()
    plain = [each for each in files if each.mode not in (LINK, SUBMODULE) and each.size <= MAX_IGNORE_BYTES]
    contents = dict(zip(plain, _contents(mirror, plain), strict=True))
    for each in sorted(files, key=lambda one: one.path.count(b"/")):
        path = each.path.decode("utf-8", "surrogateescape")
        folder = folder_of(path)
        if ignore.why(path) or (is_under(folder, roots) and is_hidden(folder, roots)):
            continue
        if is_under(folder, closed):
            continue
        spent[root := _root_of(folder, roots)] += contents.get(each, b"").count(b"\n") + 1
        try:
            _check_ignores(each, spent[root], ignore.rules_above(folder))
            ignore.add(folder, contents.get(each), each.shown)
        except ManifestError as error:
            text = f"{error.message}; nothing in this folder is read"
            closed[folder] = Reason(ReasonCode.INVALID_IGNORE_FILE, text, Origin(error.file, error.line))
    for folder, reason in closed.items():
        if all(is_under(root, (folder,)) for root in roots):
            raise Terminal(f"{reason}; {_KEPT}")
    return ignore, closed


def _root_of(folder: str, roots: tuple[str, ...]) -> str:
    return next((root for root in roots if is_under(folder, (root,))), "")


def _check_ignores(file: TreeEntry, lines: int, above: int) -> None:
    """Raises ManifestError where the ignore files together would take long to follow."""
    if lines > _MOST_IGNORE_LINES:
        text = f"more than {_MOST_IGNORE_LINES:,} lines in this and other ignore files; ignore whole folders"
        raise ManifestError(file.shown, 1, "", text)
    if above >= _MOST_IGNORES_ABOVE:
        text = f"{above} folders above have ignore files as well; write one file for all of them"
        raise ManifestError(file.shown, 1, "", text)


def _is_closed(entry: TreeEntry, closed: Mapping[str, Reason]) -> bool:
    return bool(closed) and is_under(entry.path.decode("utf-8", "surrogateescape"), closed)


def _lead_to_files(mirror: Mirror, revision: str, links: list[TreeEntry]) -> list[bool]:
    """For each link whether it ends at a file of this tree. git follows them, and says where each ends in a line.

    Where that takes too long (each step reads a whole folder) none of them is taken for harmless.
    """
    if not links:
        return []
    asked = "".join(f"{revision}:{link.path.decode()}\n" for link in links).encode()
    try:
        output = mirror.read("cat-file", "--batch-check=%(objecttype)", "--follow-symlinks", stdin=asked)
    except Retryable:
        return [False] * len(links)
    found = []
    for _ in links:
        line, _, output = output.partition(b"\n")
        word, _, size = line.partition(b" ")
        if word in (b"symlink", b"dangling", b"loop", b"notdir") and size.isdigit():
            output = output[int(size) + 1 :]  # where it leads, as text
        found.append(line == b"blob")
    return found


def _contents(mirror: Mirror, entries: list[TreeEntry]) -> list[bytes]:
    blobs = _blobs(mirror, [each.oid for each in entries], sum(each.size for each in entries))
    return [blobs[each.oid] for each in entries]


def _blobs(mirror: Mirror, wanted: list[str], most: int) -> dict[str, bytes]:
    if not (oids := list(dict.fromkeys(wanted))):
        return {}
    asked = "".join(f"{oid}\n" for oid in oids).encode()
    stream = memoryview(mirror.read("cat-file", "--batch", stdin=asked, most=most + _LONGEST_HEADER * len(oids)))
    blobs, position = {}, 0
    for oid in oids:
        header = bytes(stream[position : position + _LONGEST_HEADER]).partition(b"\n")[0]
        name, kind, *size = header.split()
        if kind != b"blob" or name.decode() != oid:
            raise Damaged(f"object {oid} is {kind.decode('utf-8', 'replace')}")
        begin = position + len(header) + 1
        blobs[oid] = _verified(oid, bytes(stream[begin : begin + int(size[0])]))
        position = begin + int(size[0]) + 1
    return blobs


def _verified(oid: str, data: bytes) -> bytes:
    # git does not hash what it reads from a pack, and equal ids must be equal bytes.
    if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != oid:
        raise Damaged(f"object {oid} does not match its hash")
    return data


def _describe(mirror: Mirror, revision: str) -> tuple[str, float]:
    text = mirror.read("log", "-1", "--no-show-signature", "--format=%ct%x00%s", revision, "--").decode(
        "utf-8", "replace"
    )
    seconds, _, subject = text.partition("\0")
    printable = "".join(c for c in subject.rstrip("\n") if c.isprintable())
    # git says nothing, or a number without end, where the commit holds no date that it can read.
    return printable[:200], min(float(seconds or 0), _LATEST)
