"""One revision, read from the object store: two git calls, whatever the number of files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from reconciler.config import Source, normalize_path
from reconciler.errors import Terminal
from reconciler.model import File, Origin, Reason, Snapshot
from reconciler.source.mirror import Damaged, Mirror

_SUFFIXES = (b".yaml", b".yml")
_LONGEST_PATH = 1024
# Some hundred thousand files: kilobytes of trees that name each other can list for hours.
_LONGEST_LISTING = 32 << 20
# The year 9999, which is as far as a calendar here goes.
_LATEST = 253_370_764_800.0
# Of a blob: its id, its kind and its size.
_LONGEST_HEADER = 80
_LINK, _SUBMODULE = b"120000", b"160000"


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: bytes
    oid: str
    size: int
    path: bytes


def read_snapshot(
    mirror: Mirror, revision: str, paths: tuple[str, ...], settings: Source, before: Snapshot | None = None
) -> Snapshot:
    """Read the YAML files under `paths`; what `before` has already is not read again.

    Raises Terminal beyond the limits, Damaged for a bad mirror.
    """
    try:
        clean = {path: normalize_path(path) for path in paths}
    except ValueError as error:
        raise Terminal(f"targets.paths: {error}") from None
    entries, present = _entries(mirror, revision, tuple(dict.fromkeys(clean.values())))
    refused = {entry.path: reason for entry in entries if (reason := _refusal(entry, settings))}
    wanted = [entry for entry in entries if entry.path not in refused and entry.path.endswith(_SUFFIXES)]
    _check_limits(wanted, revision, settings)
    files = []
    blobs = {file.oid: file.data for file in before.files} if before else {}
    unread = [entry.oid for entry in wanted if entry.oid not in blobs]
    blobs |= _blobs(mirror, unread, settings.max_total_bytes)
    for entry in wanted:
        data = blobs[entry.oid]
        if b"\0" in data:
            refused[entry.path] = _reason(entry.path, "BinaryFile", "it holds a NUL byte, so it is not text")
        else:
            files.append(File(entry.path.decode(), entry.oid, data))
    subject, committed_at = _describe(mirror, revision)
    return Snapshot(
        revision=revision,
        files=tuple(files),
        refused=tuple(refused[path] for path in sorted(refused)),
        missing=tuple(path for path in paths if clean[path] not in present),
        subject=subject,
        committed_at=committed_at,
    )


def _entries(mirror: Mirror, revision: str, places: tuple[str, ...]) -> tuple[list[_Entry], set[str]]:
    """What may matter of the tree, and which of the places are there."""
    asked = () if "" in places else places
    listing = mirror.read("ls-tree", "-r", "-z", "-l", "--full-tree", revision, "--", *asked, most=_LONGEST_LISTING)
    entries, present = [], set[str]()
    begin = 0
    while (end := listing.find(b"\0", begin)) >= 0:
        about, _, path = listing[begin:end].partition(b"\t")
        begin = end + 1
        mode, _kind, oid, size = about.split()
        present |= {place for place in places if place not in present and _is_in(path, place.encode())}
        if path.endswith(_SUFFIXES) or mode in (_LINK, _SUBMODULE):
            entries.append(_Entry(mode, oid.decode(), 0 if size == b"-" else int(size), path))
    return entries, present


def _is_in(path: bytes, place: bytes) -> bool:
    return not place or path == place or path.startswith(place + b"/")


def _refusal(entry: _Entry, settings: Source) -> Reason | None:
    """Why an entry may not be read. Links and submodules count whatever their name: they may stand for a folder."""
    if entry.mode == _LINK:
        return _reason(entry.path, "Symlink", "it is a symbolic link; put the file or folder itself there")
    if entry.mode == _SUBMODULE:
        return _reason(entry.path, "Submodule", "it is a submodule; put its files here, or give it a source of its own")
    if not entry.path.endswith(_SUFFIXES):
        return None
    if (bad := _bad_path(entry.path)) is not None:
        return bad
    if entry.size > settings.max_file_bytes:
        why = f"it has {entry.size:,} bytes, more than source.max_file_bytes = {settings.max_file_bytes:,}"
        return _reason(entry.path, "FileTooLarge", f"{why}; split it")
    return None


def _bad_path(path: bytes) -> Reason | None:
    if len(path) > _LONGEST_PATH:
        return _reason(
            path, "PathTooLong", f"its path has {len(path):,} bytes, more than {_LONGEST_PATH:,}; shorten it"
        )
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return _reason(path, "PathNotUtf8", "its path is not UTF-8; rename it")
    if not text.isprintable():
        return _reason(path, "UnprintablePath", "its path has characters that cannot be printed; rename it")
    if any(part.lower() in (".", "..", ".git", "") for part in text.split("/")):
        return _reason(path, "PathOutsideRepository", "its path leaves the repository; rename it")
    return None


def _reason(path: bytes, code: str, message: str) -> Reason:
    text = path.decode("utf-8", "backslashreplace")
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    shown = safe if len(safe) <= _LONGEST_PATH else safe[:200] + "…"
    return Reason(code, f"not read: {message}", Origin(shown, 1))


def _check_limits(wanted: list[_Entry], revision: str, settings: Source) -> None:
    if len(wanted) > settings.max_files:
        what = f"{len(wanted):,} manifest files, more than source.max_files = {settings.max_files:,}"
    elif (total := sum(entry.size for entry in wanted)) > settings.max_total_bytes:
        what = f"{total:,} bytes of manifests, more than source.max_total_bytes = {settings.max_total_bytes:,}"
    else:
        return
    raise Terminal(
        f"revision {revision[:12]} has {what}; the last good revision stays; remove files or raise the limit"
    )


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
        raise Damaged(f"object {oid} holds other bytes than its name says")
    return data


def _describe(mirror: Mirror, revision: str) -> tuple[str, float]:
    text = mirror.read("log", "-1", "--no-show-signature", "--format=%ct%x00%s", revision, "--").decode(
        "utf-8", "replace"
    )
    seconds, _, subject = text.partition("\0")
    printable = "".join(c for c in subject.rstrip("\n") if c.isprintable())
    # git says nothing, or a number without end, where the commit holds no date that it can read.
    return printable[:200], min(float(seconds or 0), _LATEST)
