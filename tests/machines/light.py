"""A rig of a whole host whose engines are engines in name only: for what many replicas cost, and what daemons cost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.rig import free_range
from tests.machines.rig import MachineRig
from tests.support.engine.fixtures import Place

ENGINE = Path(__file__).with_name("light_engine.py")
_PORTS = 160


class LightRig(MachineRig):
    """`fill` says how many services there are."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        model = folder / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        place = Place(Path(sys.prefix), folder / "engine", "light")
        place.folder.mkdir()
        first = free_range(_PORTS)
        ports = {"ports": f"{first}-{first + _PORTS - 1}"}
        super().__init__(folder / "rig", Path(sys.executable), model, target=ports, place=place)
        self.example = self.read("demo/tiny.yaml").replace("memory: 2Gi", "memory: 16Mi")

    @property
    def engine(self) -> Path:
        script = self.place.folder / "python"
        if not script.exists():
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {ENGINE} "$@"\n')
            script.chmod(0o755)
        return script

    def fill(self, count: int) -> None:
        """Git wants so many services: s0, s1 and so on."""
        wanted = {f"demo/s{n}.yaml": self.example.replace("name: tiny\n", f"name: s{n}\n", 1) for n in range(count)}
        have = {str(path.relative_to(self.clone)) for path in (self.clone / "demo").glob("*.yaml")} - {"demo/host.yaml"}
        self.write({**dict.fromkeys(have - wanted.keys()), **wanted})

    # ------------------------------------------------------------ what is there

    def daemon(self) -> int:
        """The daemon's process, by its number out here."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(self.wait("the daemon", path.read_text).split()[0])

    def is_settled(self) -> bool:
        """Is everything in sync with git, and has the daemon nothing to do any more?"""
        status = self.status()
        services = status["targets"][0]["services"] if status else []
        return self.is_applied() and all(each["ready"] == "1/1" and not each["step"] for each in services)

    def unit_of(self, service: str) -> str:
        (name,) = (unit for unit in self.units("active") if f".{service}." in unit)
        return name

    def started_after(self, service: str, moment: float) -> float | None:
        """When systemd began the service's latest process after this moment, both in seconds of the clock."""
        offset = time.time() - time.monotonic()
        found = [
            int(self.machine.run("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", unit)) / 1e6 + offset
            for unit in self.units()
            if f".{service}." in unit
        ]
        return max((at for at in found if at > moment), default=None)

    def told(self) -> list[tuple[float, str]]:
        """When the daemon said something, and about which service."""
        found = []
        for line in self.words(400).splitlines():
            event = json.loads(line)
            found.append((datetime.fromisoformat(event["timestamp"]).timestamp(), event.get("service", "")))
        return found

    def passes(self, count: int) -> dict[str, Any]:
        """What passes cost; while no daemon runs."""
        argv = self.inside(sys.executable, "-m", "tests.machines.passes", str(self.config), str(count))
        found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        return found

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.folder.parent, ignore_errors=True)
