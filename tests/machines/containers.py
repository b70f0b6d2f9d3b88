"""A rig whose services run in containers: real podman in the machine, an image made here, and a registry.

The image holds a launcher only. What it launches lies out here, interpreter, libraries and vLLM, and podman in the
machine is configured to mount it into every container: nothing of its 6 GB is copied.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import yaml

from tests.machines.machine import NoMachine, check
from tests.machines.registry import Registry
from tests.machines.rig import MachineRig

NAME = "vllm/vllm-openai-cpu"
TAG = "v0.32.0"
# Copying is fast enough for a few kilobytes, and needs nothing of the machine's file system.
_STORAGE = """\
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
_RUNTIME = "/usr/local/bin/crun-for-tests"
# Where tests run, nobody may load the program that keeps a container from devices, or make a keyring.
_WITHOUT_BPF = """\
#!/usr/bin/python3 -IS
import json, os, sys
words = sys.argv[1:]
if "--bundle" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    config = json.load(open(path))
    config["linux"].get("resources", {}).pop("devices", None)
    json.dump(config, open(path, "w"))
os.execv("/usr/bin/crun", ["crun", *words])
"""


def check_podman() -> None:
    """Raises NoMachine."""
    check()
    missing = [tool for tool in ("podman", "crun", "conmon") if shutil.which(tool) is None]
    if missing:
        raise NoMachine(f"containers need {', '.join(missing)}: apt-get install podman crun")


@dataclass
class ContainerRig(MachineRig):
    """`registry` has the image that the manifests name; podman in the machine takes it for docker.io.

    A container that is given a GPU finds its UUID in the variable GAVE: that much of a GPU can be had here.
    """

    def __post_init__(self) -> None:
        self.registry = Registry()
        self.digest = self.registry.add(NAME, TAG, self._files(), {"PATH": "/engine:/usr/bin:/bin"})
        try:
            super().__post_init__()
        except BaseException:
            self.registry.close()
            raise
        self._configure_podman()

    def write_config(self, **source: object) -> None:
        super().write_config(**source)
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text())
        settings["targets"][0]["engines"] = [{"image": f"{NAME}*", "podman": True}]
        self.config.write_text(yaml.safe_dump(settings))

    def podman(self, *words: str) -> str:
        return self.machine.run("podman", *words)

    def environment(self) -> dict[str, str]:
        """The variables of the one engine that runs."""
        (unit,) = self.units("active")
        pid = self.machine.run("systemctl", "show", "-P", "MainPID", unit).strip()
        (engine,) = self.machine.run("cat", f"/proc/{pid}/task/{pid}/children").split()
        return dict(
            line.split("=", 1) for line in self.machine.run("cat", f"/proc/{engine}/environ").split("\0") if line
        )

    def containers(self) -> int:
        """How many podman knows of, running or not."""
        return len(self.podman("ps", "--all", "--quiet").split())

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.registry.close()

    def _files(self) -> dict[str, str]:
        """Asked about arguments, it first notes who it is there and what it may do."""
        look = "id -u; touch /etc/written; touch /mnt/models/written; cat /proc/net/dev | wc -l"
        note = f'case "$*" in *preflight_probe*) {{ {look}; }} > ~/asked 2>&1;; esac'
        folders = ["etc/", "tmp/", "proc/", "sys/", "dev/", "run/", "usr/", "var/", "mnt/", "engine/"]
        links = {name: f"-> usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        launcher = f'#!/bin/sh\n{note}\nexec {self.python} "$@"\n'
        files = {"etc/passwd": "root:x:0:0:root:/:/bin/sh\n", "engine/python": launcher, "engine/python3": launcher}
        return {**dict.fromkeys(folders, ""), **links, **files}

    def _configure_podman(self) -> None:
        shown = sorted({"/usr", *(path.removesuffix(":ro") for path in self._binds() if path.endswith(":ro"))})
        volumes = ", ".join(f'"{path}:{path}:ro"' for path in shown)
        runtime = f'[engine]\nruntime = "crun"\n[engine.runtimes]\ncrun = ["{_RUNTIME}"]\n'
        files = {
            "/etc/containers/storage.conf": _STORAGE,
            "/etc/containers/containers.conf": f"[containers]\nkeyring = false\nvolumes = [{volumes}]\n{runtime}",
            "/etc/containers/registries.conf": (
                f'[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:{self.registry.port}"\ninsecure = true\n'
            ),
            "/etc/cdi/nvidia.yaml": yaml.safe_dump(
                {
                    "cdiVersion": "0.5.0",
                    "kind": "nvidia.com/gpu",
                    "devices": [{"name": gpu, "containerEdits": {"env": [f"GAVE={gpu}"]}} for gpu in self.gpus],
                }
            ),
            "/etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}\n',
            _RUNTIME: _WITHOUT_BPF,
        }
        # This machine's own images are none of its.
        shutil.rmtree(self.machine.root / "var/lib/containers", ignore_errors=True)
        for path, text in files.items():
            file = self.machine.root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
