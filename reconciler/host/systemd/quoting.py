"""How systemd reads the arguments in a unit file, from the writer's side. Pure.

systemd takes quotes, backslashes and `%` for itself; what is written here comes out of it byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
