"""The demo's git: a repository on a forge, or a bare one here, and a clone in which the demo edits, commits, pushes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Terminal

_EMAIL = "demo@example.com"
_IDENTITY = ("-c", "user.name=Reconciler demo", "-c", f"user.email={_EMAIL}")
_FIRST = "Begin with the layout that ships with the reconciler"


def find_layout() -> Path:
    """The repository layout: inside the installed package, or at the top of a checkout. Raises Terminal."""
    for folder in (Path(__file__).parent / "repo_layout", Path(__file__).parents[2] / "repo_layout"):
        if (folder / "demo" / "host.yaml").is_file():
            return folder
    raise Terminal("repo_layout is missing from this installation; install vllm-reconciler again")


@dataclass(frozen=True, slots=True)
class RemoteRepository:
    """A repository on a forge, over https. git reads the token from its file when it is asked for a password."""

    url: str
    token_file: Path
    username: str = "git"
    ca_file: Path | None = None

    def __str__(self) -> str:
        return self.url

    @property
    def options(self) -> tuple[str, ...]:
        """For every call of git that talks to it: nobody else gets the token."""
        server = "/".join(self.url.split("/")[:3])
        name, token = shlex.quote(f"username={self.username}"), shlex.quote(str(self.token_file))
        helper = f"!f() {{ echo {name}; printf password=; cat -- {token}; echo; }}; f"
        settings = ["http.followRedirects=false", f"credential.{server}.helper={helper}"]
        settings += [f"http.sslCAInfo={self.ca_file}"] if self.ca_file else []
        return tuple(word for setting in settings for word in ("-c", setting))


class Repository:
    """`origin` is what the daemon follows and users clone; `clone` is where the demo works."""

    def __init__(self, origin: Path | RemoteRepository, clone: Path) -> None:
        self.origin = origin
        self._clone = clone
        self._options = () if isinstance(origin, Path) else origin.options

    def create(self, layout: Path) -> None:
        """Fill a new repository with the layout, or take up the one that an earlier run filled.

        Raises Terminal for one that holds anything else, which stays as it is.
        """
        if isinstance(self.origin, Path):
            _make_bare(self.origin)
        shutil.rmtree(self._clone, ignore_errors=True)
        git("clone", "--quiet", str(self.origin), str(self._clone), options=self._options)
        if self._run("ls-remote", "origin", "refs/heads/*"):
            self._take_up()
            return
        self._run("checkout", "--quiet", "-B", "main")
        shutil.copytree(layout, self._clone, dirs_exist_ok=True)
        self.push(_FIRST)

    def _take_up(self) -> None:
        found = self._run("log", "--max-parents=0", "--format=%ae %s", "--all").splitlines()
        if found != [f"{_EMAIL} {_FIRST}"] or not self._run("ls-remote", "origin", "refs/heads/main"):
            raise Terminal(f"{self.origin}: is not empty, and the demo did not make it; name an empty repository")
        self._run("checkout", "--quiet", "-B", "main", "origin/main")

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
            f"{self.origin}: {path} is no longer what the demo needs ({pattern} is not in it); "
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
        return git("-C", str(self._clone), *arguments, options=self._options)


def _make_bare(folder: Path) -> None:
    if (folder / "HEAD").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    git("init", "--quiet", "--bare", "--initial-branch=main", str(partial))
    partial.rename(folder)


def git(*arguments: str, options: tuple[str, ...] = ()) -> str:
    """Git as it is by default: no hooks, no templates, nothing of the user's own settings. Raises Terminal."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    argv = ("git", "-c", "core.hooksPath=/dev/null", *options, *arguments)
    called = " ".join(("git", *arguments))
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except FileNotFoundError:
        raise Terminal("git is not installed; install it (Debian, Ubuntu: apt-get install git)") from None
    except subprocess.TimeoutExpired:
        raise Terminal(f"{called}: no end after 60 s") from None
    if done.returncode:
        raise Terminal(f"{called}: {done.stderr.strip()}")
    return done.stdout
