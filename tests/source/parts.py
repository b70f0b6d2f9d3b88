"""What the tests of the source share."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from reconciler.config.settings import SourceSettings
from reconciler.model import Snapshot
from reconciler.source import GitSource
from tests.support.git_repository import Repository

PATHS = ("runtimes", "hosts/a")


def source_of(
    where: Repository | Path | str, mirror: Path, paths: tuple[str, ...] = PATHS, **settings: object
) -> GitSource:
    """A source on a local repository."""
    url = str(where.path if isinstance(where, Repository) else where)
    return GitSource(SourceSettings.model_validate({"url": url, **settings}), mirror, paths)


def codes(snapshot: Snapshot) -> dict[str, str]:
    """What was refused: file → code."""
    return {reason.origin.file: reason.code for reason in snapshot.refused if reason.origin}


def make_pack(objects: list[tuple[int, bytes]]) -> bytes:
    """Objects (2 is a tree, 3 a blob, 7 a delta after its base's id) as one pack: calls of git would take a minute."""
    pack = bytearray(b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big"))
    for kind, body in objects:
        base, body = (body[:20], body[20:]) if kind == 7 else (b"", body)
        size, first = len(body) >> 4, kind << 4 | len(body) & 15
        while size:
            pack.append(first | 0x80)
            size, first = size >> 7, size & 0x7F
        pack.append(first)
        pack += base + zlib.compress(body, 1)
    return bytes(pack) + hashlib.sha1(pack).digest()
