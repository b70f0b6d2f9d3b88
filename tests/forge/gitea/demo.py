"""`reconciler demo --forge` against a Gitea of our own, and what stands on its commits afterwards.

usage: python -m tests.forge.gitea.demo --python PYTHON [--once]. With --once all ends with it, and the exit code is 0
only if every step was as promised; else it goes on until Ctrl-C.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from reconciler.demo.narrator import Narrator
from tests.forge.gitea.account import Account, Document, ForgeRepository
from tests.forge.gitea.server import PASSWORD, Gitea, find_program

ROOT = Path(__file__).parents[3]
DEMO = (sys.executable, "-m", "reconciler", "demo")


def main(arguments: list[str]) -> int:
    say = Narrator(sys.stdout)
    say.act("A Gitea with an empty repository")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="reconciler-forge-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        gitea = Gitea(folder / "gitea", find_program())
        stack.callback(gitea.close)
        repository = Account.create(gitea).new_repository()
        say.tell(f"{gitea.url}/{repository.path} (user {repository.owner.name}, password {PASSWORD})")
        place = ("--dir", str(folder / "demo"))
        stack.callback(subprocess.run, [*DEMO, "--stop", *place], cwd=ROOT, stdout=subprocess.DEVNULL)
        code = subprocess.run([*DEMO, *forge_options(folder, repository), *place, *arguments], cwd=ROOT).returncode
        say.act("What Gitea tells of each commit")
        told = [_told(repository, commit) for commit in reversed(repository.ask("GET", "/commits?stat=false"))]
        say.block("\n".join(told))
        if "--once" not in arguments:
            say.tell("it goes on until Ctrl-C")
            with suppress(KeyboardInterrupt):
                signal.pause()
    return code


def forge_options(folder: Path, repository: ForgeRepository) -> list[str]:
    """Those that put a demo on a repository, whose owner's token is kept in the folder."""
    gitea = repository.owner.gitea
    token = folder / "token"
    token.touch(0o600)
    token.write_text(repository.owner.new_token())
    options = {"--forge": repository.url, "--forge-kind": "gitea", "--token-file": token, "--ca-file": gitea.ca_file}
    return [str(word) for option in options.items() for word in option]


def _told(repository: ForgeRepository, commit: Document) -> str:
    subject = commit["commit"]["message"].splitlines()[0]
    statuses = [
        f"  {each['context']} {each['status']}: {each['description']} {each['target_url']}"
        for each in repository.statuses(commit["sha"])
    ]
    return "\n".join([f"{commit['sha'][:8]} {subject}", *statuses])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
