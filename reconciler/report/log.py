"""The daemon's log: readable on a terminal, JSON lines otherwise; one stable event name per thing that happened."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reconciler.config.settings import Log
from reconciler.fault_isolation import frames, named
from reconciler.report.redact import one_line, printable, scrub

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(settings: Log, stream: TextIO | None = None) -> None:
    """Set up logging for this process. Bind `revision`, `service`, `replica` and `target` with `structlog.contextvars`.

    Context variables do not cross threads: bind again in each.
    """
    stream = stream or sys.stderr
    level = _LEVELS[settings.level]
    as_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    structlog.configure(
        processors=[*_common(), *(_text(stream) if as_text else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unbreakable(stream))),
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs(max(level, logging.WARNING))


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _json() -> list[Processor]:
    return [_tracebacks, _without_secrets, structlog.processors.JSONRenderer(default=str)]


def _text(stream: TextIO) -> list[Processor]:
    colours = stream.isatty() and not os.environ.get("NO_COLOR")
    renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    return [_tracebacks, _without_secrets, _without_tricks, renderer]


def _tracebacks(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Where an error was raised, and which. Its own text may hold a Secret's value; that of the system never does."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    error = error or (sys.exc_info()[1] if given else None)
    if error is not None:
        event["exception"] = "\n\nwhich came of:\n\n".join(_rendered(each) for each in _chain(error))
    return event


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (before := found[-1].__cause__ or (None if found[-1].__suppress_context__ else found[-1].__context__)) and (
        before not in found
    ):
        found.append(before)
    return found


def _rendered(error: BaseException) -> str:
    return f"Traceback (most recent call last):\n{frames(error)}{named(error)}"


def _without_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: scrub(value, key) for key, value in event.items()}


def _without_tricks(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: _tame(key, value) if isinstance(value, str) else value for key, value in event.items()}


def _tame(key: str, value: str) -> str:
    """A traceback has lines; in anything else a line end would begin an entry that we did not write."""
    return printable(value) if key in ("exception", "stack") else one_line(value)


class _Unbreakable:
    """A stream whose reader may close it: the daemon must survive that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class _Forward(logging.Handler):
    """Warnings of libraries appear in our log, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        logger.log(
            record.levelno, "library_message", message=record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


def _adopt_library_logs(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(level)
    # Uvicorn logs every start and connection at "info", and at "warning" what strangers send that is no HTTP.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
