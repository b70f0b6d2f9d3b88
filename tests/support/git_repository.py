"""A real git repository for tests: commits are made as people make them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_IDENTITY = {
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "Ada"),)},
    **{f"GIT_{who}_EMAIL": "ada@example.invalid" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """What git says in this folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _IDENTITY
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], input=stdin, env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def entry(mode: str, oid: str, name: bytes) -> bytes:
    """One line of a tree for `mktree -z`."""
    kind = {"040000": "tree", "160000": "commit"}.get(mode, "blob")
    return f"{mode} {kind} {oid}\t".encode() + name + b"\0"


class Repository:
    """A working folder that can be pushed from, or polled itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git(path, "init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        return git(self.path, *arguments, stdin=stdin)

    def write(self, name: str, text: str | bytes = "kind: Any\n") -> None:
        """Put a file into the working folder."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self, message: str = "Change something") -> str:
        """Commit all that is there; the new revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def tree(self, *entries: bytes) -> str:
        """The id of a stored tree, whether or not a working folder could hold it."""
        return self.git("mktree", "-z", "--missing", stdin=b"".join(entries))

    def commit_tree(self, *entries: bytes) -> str:
        """Commit exactly this tree on top of main."""
        revision = self.git("commit-tree", self.tree(*entries), "-p", "main", "-m", "Made by hand")
        self.git("update-ref", "refs/heads/main", revision)
        return revision

    def blob(self, data: bytes) -> str:
        """The id of a stored blob."""
        return self.git("hash-object", "-w", "--stdin", stdin=data)
