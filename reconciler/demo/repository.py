"""The demo's git: a bare repository as on a forge, and a clone in which the demo edits, commits and pushes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from reconciler.errors import Terminal

_IDENTITY = ("-c", "user.name=Reconciler demo", "-c", "user.email=demo@example.com")


def find_layout() -> Path:
    """The repository layout: inside the installed package, or at the top of a checkout. Raises Terminal."""
    for folder in (Path(__file__).parent / "repo_layout", Path(__file__).parents[2] / "repo_layout"):
        if (folder / "demo" / "host.yaml").is_file():
            return folder
    raise Terminal("repo_layout is missing from this installation; install vllm-reconciler again")


class Repository:
    """`bare` is what the daemon follows and users clone; `clone` is where the demo works."""

    def __init__(self, bare: Path, clone: Path) -> None:
        self.bare = bare
        self._clone = clone

    def create(self, layout: Path) -> None:
        """Fill a new repository with the layout, or take up the one that is there."""
        if not (self.bare / "HEAD").exists():
            shutil.rmtree(self.bare, ignore_errors=True)
            partial = self.bare.with_name(self.bare.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            git("init", "--quiet", "--bare", "--initial-branch=main", str(partial))
            partial.rename(self.bare)
        shutil.rmtree(self._clone, ignore_errors=True)
        git("clone", "--quiet", str(self.bare), str(self._clone))
        if not self._run("ls-remote", "origin", "refs/heads/main"):
            self._run("checkout", "--quiet", "-B", "main")
            shutil.copytree(layout, self._clone, dirs_exist_ok=True)
            self.push("Begin with the layout that ships with the reconciler")

    def edit(self, path: str, pattern: str, replacement: str) -> str:
        """Change the one line that matches and return it as `path:line: text`. Raises Terminal if none does."""
        file = self._clone / path
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            if re.search(pattern, line):
                lines[number - 1] = re.sub(pattern, replacement, line)
                file.write_text("\n".join(lines) + "\n", "utf-8")
                return f"{path}:{number}: {lines[number - 1].strip()}"
        raise Terminal(
            f"{self.bare}: {path} is no longer what the demo needs ({pattern} is not in it); "
            "run `reconciler demo` in another folder with --dir"
        )

    def holds(self, path: str, pattern: str) -> bool:
        """Does a line of this file match?"""
        file = self._clone / path
        return file.exists() and re.search(pattern, file.read_text("utf-8")) is not None

    def push(self, subject: str) -> str:
        """Commit all that was changed, push it, and return the commit."""
        self._run("add", "--all")
        self._run(*_IDENTITY, "commit", "--quiet", "--message", subject)
        return self._pushed()

    def revert(self) -> str:
        """Undo the latest commit by another one, push it, and return that."""
        self._run(*_IDENTITY, "revert", "--no-edit", "HEAD")
        return self._pushed()

    def head(self) -> str:
        """The commit that was pushed last."""
        return self._run("rev-parse", "HEAD").strip()

    def _pushed(self) -> str:
        self._run("push", "--quiet", "origin", "HEAD:main")
        return self.head()

    def _run(self, *arguments: str) -> str:
        return git("-C", str(self._clone), *arguments)


def git(*arguments: str) -> str:
    """Git as it is by default: no hooks, no templates, nothing of the user's own settings. Raises Terminal."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    argv = ("git", "-c", "core.hooksPath=/dev/null", *arguments)
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except FileNotFoundError:
        raise Terminal("git is not installed; install it (Debian, Ubuntu: apt-get install git)") from None
    except subprocess.TimeoutExpired:
        raise Terminal(f"{' '.join(argv)}: no end after 60 s") from None
    if done.returncode:
        raise Terminal(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
