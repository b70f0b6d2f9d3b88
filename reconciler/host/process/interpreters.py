"""Whether an engine's interpreter runs right now: an upgrade may take it away under what serves."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from typing import Any

from reconciler.system.files import Stamp, stamp_of
from reconciler.system.programs import kill_group

_SECONDS = 1.0
# What ran runs again while its files stay; what did not is asked again after a moment, for its cause may lie elsewhere.
_AGAIN_SECONDS = 10.0
# A shell's exit codes for a program that does not exist, or cannot be run.
_NOT_RUN = (126, 127)
_BROKEN = ("Fatal Python error", "error while loading shared libraries")
_HINT = "repair that environment, or correct engines[].python"


class Interpreters:
    """Remembers by the files involved. `user` runs the engines; empty: we do."""

    def __init__(self, user: str = "") -> None:
        self._user = user
        self._known: dict[str, tuple[tuple[Stamp, ...], str, float]] = {}

    def fault(self, python: str) -> str:
        """Why it does not run; empty: it does, or that is unknown."""
        real = os.path.realpath(python)
        if missing := _missing(python, real):
            return missing
        stamps = tuple(stamp_of(path) for path in _involved(python, real))
        known = self._known.get(python)
        if known is not None and known[0] == stamps and (not known[1] or time.monotonic() < known[2]):
            return known[1]
        fault = _try(python, self._user)
        self._known[python] = stamps, fault, time.monotonic() + _AGAIN_SECONDS
        return fault


def _missing(python: str, real: str) -> str:
    try:
        os.stat(python)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(python):
            return f"{python} leads to {real}, which is not there (was it upgraded?); {_HINT}"
        return f"{python} is not there; {_HINT}"
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}; {_HINT}"
    return ""


def _involved(python: str, real: str) -> tuple[str, ...]:
    """A folder's time changes with what is put into it or taken away."""
    home = os.path.dirname(os.path.dirname(real))
    return python, real, os.path.join(os.path.dirname(os.path.dirname(python)), "pyvenv.cfg"), f"{home}/lib"


def _try(python: str, user: str) -> str:
    try:
        process = subprocess.Popen(
            [python, "-I", "-S", "-c", ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
            **_as(user),
        )
    except OSError as error:
        return f"{python} cannot be run: {error.strerror}; {_HINT}"
    with process:
        try:
            errors = process.communicate(timeout=_SECONDS)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            # It runs, and that was the question.
            kill_group(process)
            return ""
    lines = errors.strip().splitlines()
    told = next((line.strip() for line in lines if any(each in line for each in _BROKEN)), "")
    if process.returncode >= 0 and process.returncode not in _NOT_RUN and not told:
        return ""
    output = told or (lines[-1].strip() if lines else f"it ended with {process.returncode}")
    return f"{python} does not start: {output[:200]}; {_HINT}"


def _as(user: str) -> dict[str, Any]:
    if not user or os.geteuid() != 0:
        return {}
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return {}
    groups = os.getgrouplist(user, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}
