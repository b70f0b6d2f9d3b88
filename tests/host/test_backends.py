"""What depends on a host's kind, and that a host of child processes loads nothing of systemd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.config.settings import HostSettings
from reconciler.host.backends import make_backend
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.staging.fetcher import FetchProcess
from reconciler.host.systemd.fetch import FetchUnit
from reconciler.host.systemd.supervisor import UnitSupervisor

ENGINES = [{"image": "*", "podman": True}]


@pytest.mark.parametrize(
    ("kind", "parts", "user"),
    [
        ("process", (ProcessSupervisor, FetchProcess), None),
        ("systemd", (UnitSupervisor, FetchUnit), "reconciler-engine"),
    ],
)
def test_backend_of_a_kind_has_the_parts_of_that_kind(
    tmp_path: Path, kind: str, parts: tuple[type, type], user: str | None
) -> None:
    target = HostSettings.model_validate({"name": "box", "kind": kind, "paths": ["box"]})
    backend = make_backend(target, Inventory(tmp_path), Gpus(()))
    assert (type(backend.supervisor), type(backend.fetcher)) == parts
    assert backend.images is None
    assert target.replica_user == user


def test_images_are_kept_only_where_an_engine_runs_in_podman(tmp_path: Path) -> None:
    target = HostSettings.model_validate({"name": "box", "kind": "systemd", "paths": ["box"], "engines": ENGINES})
    assert make_backend(target, Inventory(tmp_path), Gpus(())).images is not None


def test_host_of_child_processes_loads_nothing_of_systemd(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reconciler.config.settings import HostSettings\n"
        "from reconciler.host.target import HostTarget\n"
        f"target = HostSettings(name='box', paths=('box',)); HostTarget(target, Path({str(tmp_path)!r}), print)\n"
        "print([name for name in sys.modules if name == 'jeepney' or 'host.systemd' in name])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
