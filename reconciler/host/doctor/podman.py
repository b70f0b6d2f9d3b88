"""Podman, where images run in containers: is it installed, and does it know this host's GPUs?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from reconciler.config.settings import HostSettings
from reconciler.host.doctor.ask import ask
from reconciler.host.gpus.devices import Gpus
from reconciler.host.systemd.podman import PODMAN
from reconciler.report.findings import CheckResult, ok, problem

# The first that takes names of CDI for devices.
_OLDEST = (4, 1)
CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
# Older ones name devices by their index alone.
_GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, of nvidia-container-toolkit 1.15 or newer"


def check_podman(target: HostSettings) -> Iterator[CheckResult]:
    """No finding where no image runs in a container."""
    if not any(engine.podman for engine in target.engines):
        return
    answer = ask((PODMAN, "version", "--format", "{{.Client.Version}}"))
    if not answer.succeeded:
        yield problem("podman", f"{target.name}: {PODMAN} does not start: {answer.last_line}", "apt-get install podman")
        return
    version = answer.last_line
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST:
        yield problem("podman", f"podman {version} cannot hand out GPUs by their names", "install podman 4.1 or newer")
        return
    yield ok("podman", f"podman {version}{_images()}")
    yield from _devices(target)


def _images() -> str:
    """How much disk images take: we pull them, and never delete them."""
    answer = ask((PODMAN, "system", "df", "--format", "{{.Type}} {{.Total}} {{.Size}} {{.Reclaimable}}"))
    found = re.search(r"^Images (\d+) (\S+) (\S+)", answer.text, re.MULTILINE) if answer.succeeded else None
    if found is None:
        return ""
    return f": {found[1]} images take {found[2]}; `podman image prune --all` gives back {found[3]}"


def _devices(target: HostSettings) -> Iterator[CheckResult]:
    needed = [gpu.uuid for gpu in Gpus(target.gpus).list()]
    if not needed:
        return
    known = _known_devices()
    if missing := [uuid for uuid in needed if uuid not in known]:
        message = f"{target.name}: no CDI specification in {' or '.join(map(str, CDI))} names {', '.join(missing)}"
        yield problem("podman", message, _GENERATE)
    else:
        yield ok("podman", f"{target.name}: {len(needed)} GPUs by CDI")


def _known_devices() -> set[str]:
    """The names of NVIDIA's devices in all specifications of this host."""
    found: set[str] = set()
    for path in (each for folder in CDI for pattern in ("*.yaml", "*.json") for each in sorted(folder.glob(pattern))):
        try:
            text = path.read_text()
            spec = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
            if spec["kind"] == "nvidia.com/gpu":
                found |= {str(device["name"]) for device in spec["devices"]}
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            continue
    return found
