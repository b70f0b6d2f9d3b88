"""The files of units: quoting of their arguments, manual changes to them, and their deletion.

systemd takes quotes, backslashes and `%` for itself; what is written here comes out of it byte for byte.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Retryable
from reconciler.host.systemd.systemd_api import Run, Systemd
from reconciler.system.files import Stamp, cannot, stamp_of, sync_folder

_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A shell does not take these from a script, or gives another value to what it starts.
_SHELLS_OWN = frozenset(
    (
        *(
            "UID",
            "EUID",
            "PPID",
            "SHELLOPTS",
            "BASHOPTS",
            "BASH_VERSINFO",
            "BASHPID",
            "BASH_SUBSHELL",
            "SHLVL",
            "OPTIND",
        ),
        *("RANDOM", "SRANDOM", "LINENO", "SECONDS", "EPOCHSECONDS", "EPOCHREALTIME", "GROUPS", "FUNCNAME", "DIRSTACK"),
        *("HISTCMD", "_"),
    )
)
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "%": "%%"}


def quote(argument: str) -> str:
    """One argument of a command line or of `Environment=`.

    Raises ValueError for a NUL, which no process argument can hold.
    """
    if "\0" in argument:
        raise ValueError(f"{argument!a} holds a NUL character, which no process argument can")
    return argument if _PLAIN.fullmatch(argument) else f'"{"".join(_escape(letter) for letter in argument)}"'


def quote_path(path: str) -> str:
    """A path in a list of paths. Raises ValueError for characters that no such list can hold."""
    if not path.isprintable():
        raise ValueError(f"{path!a} holds characters that a unit cannot name; rename the folder")
    if _PLAIN.fullmatch(path) and ":" not in path:
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def quote_given(path: str) -> str:
    """The same for a property that is passed to a running systemd: there `%` needs no escape."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def given_line(*arguments: str) -> str:
    """A command line that is passed to a running systemd: only variables, quotes and backslashes are expanded."""
    return " ".join(quote_given(argument.replace("$", "$$")) for argument in arguments)


def plain(text: str) -> str:
    """A value that systemd takes literally, except `%`. Raises ValueError when it cannot be a line."""
    if not text.isprintable():
        raise ValueError(f"{text!a} cannot be written in one line of a unit")
    return text.replace("%", "%%")


def is_variable_name(name: str) -> bool:
    """Can every shell give a variable of this name to what it starts?"""
    return bool(_VARIABLE.fullmatch(name)) and name not in _SHELLS_OWN


def shell_argument(text: str) -> str:
    """One argument for `sh`. Raises ValueError for a NUL, which no process argument can hold."""
    if "\0" in text:
        raise ValueError(f"{text!a} holds a NUL character, which no process argument can")
    return "'" + text.replace("'", "'\\''") + "'"


def environment_script(env: Mapping[str, str]) -> str:
    """What `sh` reads to take over these variables, before `exec "$@"`. Raises ValueError."""
    strange = {name: value for name, value in env.items() if not is_variable_name(name)}
    lines = [f"export {name}={shell_argument(value)}" for name, value in env.items() if name not in strange]
    if strange:
        # What no shell can give. A name may look like an option.
        arguments = " ".join(shell_argument(f"{name}={value}") for name, value in strange.items())
        lines.append(f'set -- /usr/bin/env -- {arguments} "$@"')
    return "".join(f"{line}\n" for line in lines)


def _escape(letter: str) -> str:
    if letter in _NAMED:
        return _NAMED[letter]
    return f"\\x{ord(letter):02x}" if letter < " " or letter == "\x7f" else letter


UNITS = Path("/etc/systemd/system")
WANTS = UNITS / "multi-user.target.wants"


class Drifts:
    """Compares units with what we wrote. Costs a few `stat` for an unchanged unit."""

    def __init__(self) -> None:
        # Those that were last seen to be as we wrote them.
        self._seen: dict[str, tuple[Stamp, Stamp]] = {}

    def of(self, path: Path, ours: Path) -> str:
        """Is a unit's file still like our copy of it, and will a reboot start it? What is not so, or nothing.

        Raises Retryable when that is unknown.
        """
        if not os.path.lexists(WANTS / path.name):
            return f"{path.name} was disabled manually: a reboot would not start it"
        if os.path.lexists(_drop_ins(path)):
            return f"{_drop_ins(path)} was added manually"
        stamps = stamp_of(path), stamp_of(ours)
        if stamps[1] is None or self._seen.get(path.name) == stamps:
            return ""
        if stamps[0] is None:
            return f"{path} was deleted manually"
        if _differ(path, ours):
            return f"{path} was edited manually"
        self._seen[path.name] = stamps
        return ""


def was_written_after(path: Path, run: Run) -> bool:
    """Was the unit's file written, or put back, after this process was started?"""
    began = time.time() - (time.monotonic() - run.started / 1e6)
    try:
        return path.stat().st_ctime > began
    except OSError:
        return True


def delete_unit(systemd: Systemd, name: str) -> None:
    """Its file, its link and its drop-ins. Raises Retryable."""
    systemd.uninstall(name)
    try:
        (UNITS / name).unlink(missing_ok=True)
        delete_drop_ins(UNITS / name)
    except OSError as error:
        raise Retryable(cannot(error, UNITS / name, "deleted", "run the reconciler as root")) from None
    sync_links()
    systemd.reload()


def sync_links() -> None:
    """What systemd links to be started at a boot, and what not any more, survives a power cut. Raises Retryable."""
    try:
        for folder in (WANTS, UNITS):
            with suppress(FileNotFoundError):
                sync_folder(folder)
    except OSError as error:
        raise Retryable(cannot(error, UNITS, "written", "check the disk")) from None


def _drop_ins(path: Path) -> Path:
    """Where `systemctl edit` puts what it adds to a unit. What is meant for all replicas belongs elsewhere."""
    return path.with_name(f"{path.name}.d")


def delete_drop_ins(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(_drop_ins(path))


def _differ(path: Path, ours: Path) -> bool:
    try:
        return path.read_bytes() != ours.read_bytes()
    except OSError as error:
        # One of them may have gone since we looked: the next pass sees which.
        raise Retryable(cannot(error, error.filename, "read")) from None
