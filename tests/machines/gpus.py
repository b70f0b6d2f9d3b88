"""A rig on a machine with GPUs: NVIDIA's library is simulated there, and processes on GPUs take memory of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests.machines.rig import MachineRig
from tests.support.nvml.driver import Driver, make


@dataclass
class GpuRig(MachineRig):
    """vLLM itself computes on the CPU. Its memory comes back some `grace` seconds after its end."""

    grace: float = 2.0
    driver: Driver = field(init=False)

    def __post_init__(self) -> None:
        self.target = {"gpus": "auto"} | self.target
        with make(self.folder / "gpus") as self.driver:
            super().__post_init__()
        # Out of their sandbox, processes reach a driver that no file system protects.
        drop_in = self.machine.root / "etc/systemd/system/reconciler-.service.d/gpus.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(f"[Service]\nReadWritePaths={self.driver.folder}\n")
        self.machine.run("systemctl", "daemon-reload")

    @property
    def engine(self) -> Path:
        """A server takes memory of its GPUs first, as the real one would."""
        script = self.folder / "engine-on-gpus"
        if not script.exists():
            plain, user = super().engine, shlex.join(self.driver.user(0.92, self.grace))
            serve = f'NVML_STANDIN={self.driver.folder} exec {user} {plain} "$@"'
            script.write_text(f'#!/bin/sh\ncase "$*" in *api_server*) {serve};; esac\nexec {plain} "$@"\n')
            script.chmod(0o755)
        return script

    def inside(self, *command: str) -> list[str]:
        return super().inside(*(f"{name}={value}" for name, value in self.driver.env().items()), *command)

    def take(self, gpu: str, share: float) -> int:
        """A foreign process uses a GPU: the number of that process in there."""
        env = {"NVML_STANDIN": str(self.driver.folder), "CUDA_VISIBLE_DEVICES": gpu}
        words = [f"--setenv={name}={value}" for name, value in env.items()]
        self.machine.run("systemd-run", "--unit=other", *words, *self.driver.user(share), "sleep", "600")
        self.wait("it to have its memory", self.driver.log)
        return int(self.machine.run("systemctl", "show", "-P", "MainPID", "other"))

    def devices(self, unit: str) -> set[str]:
        """The GPUs' own nodes that a unit may open."""
        allowed = self.machine.run("systemctl", "show", "-P", "DeviceAllow", unit).split()
        assert self.machine.run("systemctl", "show", "-P", "DevicePolicy", unit) == "closed\n"
        return {each for each in allowed if each.removeprefix("/dev/nvidia").isdigit()}
