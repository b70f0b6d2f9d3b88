"""Which build of the package this is: version and the files that were installed, by their hashes."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

from reconciler import __version__

RESTART = "systemctl restart reconciler"


@cache
def build_id() -> str:
    """What was installed when this was first asked: a daemon asks at its start. Empty where no installer noted it."""
    try:
        record = distribution("vllm-reconciler").read_text("RECORD") or ""
    except PackageNotFoundError:
        return ""
    lines = sorted(line for line in record.splitlines() if line.startswith("reconciler/") and ".pyc," not in line)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""


def is_outdated(version: str, build: str | None) -> str:
    """Why a daemon of that version and build does not run what is installed here; empty when it does.

    `build` is None for a daemon that does not tell it: an older one, or one that no installer installed.
    """
    if version != __version__:
        return f"the daemon runs version {version}, installed is {__version__}"
    if (build or "") != build_id():
        return f"the daemon was started before version {version} was installed again"
    return ""
