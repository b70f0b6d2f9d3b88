"""Models that are fetched by units: as whom, seen by whom, and what becomes of them when they are cut off."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.host.staging.fetcher import USER
from tests.machines.conftest import CODE, binds, refuse
from tests.machines.machine import Machine, NoMachine

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]


@pytest.fixture
def storage(storage_python: Path, tmp_path: Path) -> Iterator[tuple[Machine, Path]]:
    """A machine, and the interpreter that fetches models in there."""
    venv = storage_python.parent.parent.resolve()
    try:
        made = Machine(tmp_path / "machine", "fetches", binds() | {f"{venv}:ro": venv})
    except NoMachine as error:
        refuse(str(error))
        raise
    made.run("useradd", "--system", USER)
    yield made, venv / "bin" / "python"
    made.close()


def test_model_is_fetched_by_a_user_who_has_nothing_else(storage: tuple[Machine, Path]) -> None:
    machine, python = storage
    run = ("env", "-C", CODE, f"PYTHONPATH={CODE}", sys.executable, "-m", "tests.machines.fetching", str(python))
    # Logs stand before it.
    said = json.loads(machine.run(*run).splitlines()[-1])
    seen = said["seen"]
    assert seen["user"] == said["uid"] != 0
    assert (seen["NoNewPrivs"], seen["Seccomp"], int(seen["CapBnd"], 16), seen["nice"]) == ("1", "2", 0, 10)
    read_only = 30
    assert seen["refused"] == [[path, read_only] for path in ("/etc/written", "/srv/written", "/var/lib/written")]
    assert (seen["package"], seen["secret"], len(seen["proc"])) == (False, False, 1)
    assert (len(seen["mounted"]), "TOKEN" in seen["environ"]) == (1, False), "other models are nothing to look at"

    no_file, no_entry, no_user = said["failed"]
    assert "nothing: No such file or directory" in no_file
    assert f"(as {USER}); check targets[].storage.python" in no_entry
    assert no_user == "no user nobody-there to download models; reconciler host install creates it"

    assert said["child"] == -9, "the program of a daemon of before still ran"
    assert said["spied"] == []
    assert float(said["exposure"].split(":")[-1].split()[0]) <= 3.0, said["exposure"]
    # Two failures were known before.
    assert said["cut"] == ["DownloadInterrupted", 3]
    assert said["outcome"] == ["Staged", 8 << 20, 0], said["log"]
    assert said["same"]
    assert said["again"] < 6 << 20, "it went on where it was"
    assert said["modes"] == [f"{USER} 555", f"{USER} 444"]
    assert said["left"] == ""
