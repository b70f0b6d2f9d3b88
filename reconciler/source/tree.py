"""One revision, read from the object store: two git calls, whatever the number of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.config import Source, normalize_path
from reconciler.errors import Terminal
from reconciler.model import File, Origin, Reason, Snapshot
from reconciler.source.mirror import Damaged, Mirror

_SUFFIXES = (b".yaml", b".yml")
_LONGEST_PATH = 1024


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
    entries = list(_entries(mirror, revision, () if "" in clean.values() else tuple(clean.values())))
    refused = {entry.path: reason for entry in entries if (reason := _refusal(entry, settings))}
    wanted = [entry for entry in entries if entry.path not in refused and entry.path.endswith(_SUFFIXES)]
    _check_limits(wanted, revision, settings)
    files = []
    blobs = {file.oid: file.data for file in before.files} if before else {}
    blobs |= _blobs(mirror, [entry.oid for entry in wanted if entry.oid not in blobs])
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
        missing=tuple(path for path in paths if not _is_present(clean[path], entries)),
        subject=subject,
        committed_at=committed_at,
    )


def _entries(mirror: Mirror, revision: str, paths: tuple[str, ...]) -> Iterator[_Entry]:
    listing = mirror.read("ls-tree", "-r", "-z", "-l", "--full-tree", revision, "--", *paths)
    for line in listing.split(b"\0")[:-1]:
        about, _, path = line.partition(b"\t")
        mode, _kind, oid, size = about.split()
        yield _Entry(mode, oid.decode(), 0 if size == b"-" else int(size), path)


def _refusal(entry: _Entry, settings: Source) -> Reason | None:
    """Why an entry may not be read. Links and submodules count whatever their name: they may stand for a folder."""
    if entry.mode == b"120000":
        return _reason(entry.path, "Symlink", "it is a symbolic link; put the file or folder itself there")
    if entry.mode == b"160000":
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


def _blobs(mirror: Mirror, wanted: list[str]) -> dict[str, bytes]:
    if not (oids := list(dict.fromkeys(wanted))):
        return {}
    stream = memoryview(mirror.read("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in oids).encode()))
    blobs, position = {}, 0
    for oid in oids:
        header = bytes(stream[position : position + 80]).partition(b"\n")[0]
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
    return printable[:200], float(seconds)


def _is_present(path: str, entries: list[_Entry]) -> bool:
    name, folder = path.encode(), f"{path}/".encode() if path else b""
    return any(entry.path == name or entry.path.startswith(folder) for entry in entries)
