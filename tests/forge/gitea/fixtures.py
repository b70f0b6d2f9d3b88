"""A Gitea for tests: one for all tests of a worker, started at the first use. Mark them `forge`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge.gitea.account import Account, ForgeRepository
from tests.forge.gitea.server import Gitea, NoGitea, find_program


@pytest.fixture(scope="session")
def gitea() -> Iterator[Gitea]:
    """A running Gitea 1.26. Who stops it starts it again."""
    try:
        program = find_program()
    except NoGitea as error:
        pytest.skip(str(error))
    # Not below pytest's folder, which is closed to the user that Gitea runs as.
    folder = Path(tempfile.mkdtemp(prefix="reconciler-gitea-"))
    folder.chmod(0o755)
    try:
        made = Gitea(folder, program)
        yield made
        made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def account(gitea: Gitea) -> Account:
    """A user of the test's own."""
    return Account.create(gitea)


@pytest.fixture
def forge_repository(account: Account) -> ForgeRepository:
    """An empty repository of that user: `models`."""
    return account.new_repository()
