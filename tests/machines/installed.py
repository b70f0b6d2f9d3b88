"""A rig on a machine that `reconciler host install` made a host of: user, folders and unit are the product's."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import yaml

from reconciler.config.settings import Settings
from reconciler.host.install import CONFIG
from tests.machines.rig import ROOT, MachineRig

UNIT = "reconciler.service"


@dataclass
class InstalledRig(MachineRig):
    """The daemon is a service of the machine, and all that it keeps is where deploy/README.md says."""

    def make_users(self) -> None:
        # An operator's drop-in: the daemon is to run from this checkout, whatever the environment has installed.
        drop_in = self.machine.root / f"etc/systemd/system/{UNIT}.d/checkout.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f"[Service]\nEnvironment=PYTHONPATH={ROOT}\n")
        assert "next: set the git repository and the vLLM interpreter in /etc/reconciler/config.yaml" in self.host(
            "install"
        )

    @property
    def state_dir(self) -> Path:
        return Path("/var/lib/reconciler")

    @property
    def state(self) -> Path:
        return self.machine.root / "var/lib/reconciler" / self.name

    @property
    def config_there(self) -> str:
        return CONFIG

    @property
    def settings(self) -> Settings:
        """With the daemon's folder as we see it."""
        return super().settings.model_copy(update={"state_dir": self.state.parent})

    def write_config(self, **source: object) -> None:
        super().write_config(**source)
        settings = yaml.safe_load(self.config.read_text())
        del settings["state_dir"]
        self.config.write_text(yaml.safe_dump(settings))

    def start(self, *, crash_at: int | None = None) -> None:
        assert crash_at is None, "a service of systemd dies where systemd says"
        (self.machine.root / CONFIG.lstrip("/")).write_text(self.config.read_text())
        self.host("install")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """It is not started again by itself."""
        self.machine.run("systemctl", "kill", "--kill-who=main", f"--signal={number}", UNIT, expect=None)
        self.machine.run("systemctl", "stop", UNIT)

    def enable(self, wanted: bool) -> None:
        """Does a boot start the daemon?"""
        self.machine.run("systemctl", "enable" if wanted else "disable", UNIT)

    def is_running(self) -> bool:
        return self.machine.run("systemctl", "is-active", UNIT, expect=None).strip() == "active"

    def words(self, lines: int = 60) -> str:
        return self.machine.run("journalctl", "--output=cat", "--no-pager", f"--lines={lines}", f"--unit={UNIT}")
