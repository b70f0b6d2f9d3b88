"""A git server that sends what it wants: it stands on PATH as `ssh`, and speaks the oldest protocol.

hostile_server.py PACK      sends the bytes of a file as the pack
hostile_server.py           sends a pack that never ends
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

COMMIT = "1" * 40
_PIECE = 1 << 20


def line(text: str) -> bytes:
    return f"{len(text) + 4:04x}{text}".encode()


def endless() -> Iterator[bytes]:
    """One object of which there is always more, and which cannot be compressed."""
    yield b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
    yield bytes([0xB0, *[0x80] * 5, 0x7F])
    packer = zlib.compressobj(0)
    while True:
        yield packer.compress(bytes(_PIECE))


def main(pack: Path | None) -> None:
    out = sys.stdout.buffer
    out.write(line(f"{COMMIT} HEAD\0\n") + line(f"{COMMIT} refs/heads/main\n") + b"0000")
    out.flush()
    while (said := sys.stdin.buffer.readline()) and b"done" not in said:
        if said == b"0000":  # an `ls-remote` wants no more
            return
    if not said:
        return
    out.write(line("NAK\n"))
    for piece in [pack.read_bytes()] if pack else endless():
        out.write(piece)
    out.flush()


def install(folder: Path, *arguments: str) -> str:
    """Put it into a folder for PATH; the url of a repository that it answers for."""
    program = folder / "ssh"
    words = " ".join(f"'{word}'" for word in (sys.executable, __file__, *arguments))
    program.write_text(f"#!/bin/sh\nexec {words}\n")
    os.chmod(program, 0o755)
    return "ssh://hostile.example/models.git"


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(Path(sys.argv[1]) if sys.argv[1:] else None)
    os._exit(0)
