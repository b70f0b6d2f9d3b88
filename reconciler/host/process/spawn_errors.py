"""Why a process could not be started, and whether git or this host is to blame."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from reconciler.engines.limits import too_large, unfit_argument, unfit_variables
from reconciler.errors import ReconcileError, Retryable, Terminal, Unstartable

_SPECS = (errno.E2BIG, errno.EINVAL)
_PROGRAMS = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP)


def refusal(who: str, argv: Sequence[str], env: Mapping[str, str], error: OSError | ValueError) -> ReconcileError:
    """The error to raise. It names variables, but never shows a value: that may be secret."""
    text = f"{who}: cannot start {argv[0]}: {_reason(error)}"
    if isinstance(error, ValueError) or error.errno in _SPECS:
        return Unstartable("; ".join((text, *_misfits(argv, env))))
    if error.errno in _PROGRAMS:
        return Terminal(f"{text}; the program, or the interpreter that it needs, is not there: check engines[].python")
    if error.errno == errno.ENOSPC:
        return Retryable(f"{text}; free some space" + (f" for {error.filename}" if error.filename else ""))
    return Retryable(text)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "its arguments or variables cannot be given to a process"


def _misfits(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    found = [*filter(None, map(unfit_argument, argv)), *(message for _, message in unfit_variables(env))]
    return found or list(filter(None, [too_large(argv, env, os.sysconf("SC_ARG_MAX"))]))
