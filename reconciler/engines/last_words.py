"""The log of an engine that failed → the one message that a person needs, with its paths and details. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

LONGEST = 600
# An exception that says no more than this is followed by lines that do.
_BRIEF = 160
_PROCESS = re.compile(r"^\([\w .-]+ pid=\d+\) ?|^\[rank\d+\]: ?")
_LOGGED = re.compile(r"^(?:ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\] ?")
_RAISED = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?(?:[A-Z]\w*)?(?:Error|Exception|Exit|Interrupt)(?:: .*)?$|^[\w.]+: error: .*$"
)
# Some names do not tell that they are exceptions: then the code above them does.
_NAMED = re.compile(r"^(?:[a-z_][\w.]*\.)?[A-Z]\w*(?:: .*)?$")
_ELSEWHERE = re.compile(r"See (?:root cause|stack trace|the stack trace)|KeyboardInterrupt|SystemExit|CancelledError")
_VALIDATION = re.compile(r"validation errors? for")
# What a shell, an interpreter or a loader says where no exception is raised.
_SAID = re.compile(
    r"^(?:\S*python[\d.]*|(?:\S*/)?(?:ba|da|z)?sh|env|exec|\S+\.sh): .+|^Fatal Python error: .+"
    r"|^Segmentation fault.*|^\s*what\(\): .+|^.*: error while loading shared libraries: .+"
)
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$')
_END = re.compile(
    r"^(?:Traceback|During handling|The above exception|Exception ignored|(?:INFO|WARNING|DEBUG|ERROR|CRITICAL)\b"
    r"|\[[WIEF]\d{4}|\S+:\d+: \w*Warning:|\s+File \")"
)
_NOISE = re.compile(
    r"^(?:CUDA kernel errors might|For debugging consider|Compile with `TORCH_USE|Device-side assertions"
    r"|\s*For further information|\s*\[type=)"
)


def fatal_reason(log: Sequence[str]) -> str | None:
    """The relevant lines of a failed start's log; None if there are none. `log` is its end, line by line."""
    lines = [_bare(line) for line in log]
    for at in range(len(lines) - 1, -1, -1):
        if _ELSEWHERE.search(lines[at]) or not _is_raised(lines, at):
            continue
        if _VALIDATION.search(lines[at]):
            return _first_problem(lines[at + 1 :]) or cut(lines[at])
        return cut(_without_module(_completed(log, lines, at)))
    reasons = [line.strip() for line in lines if _SAID.match(line)]
    return cut(reasons[-1]) if reasons else None


def cut(text: str) -> str:
    """Of readable length, and no word or path in half."""
    if len(text) <= LONGEST:
        return text
    end = text.rfind(" ", LONGEST // 2, LONGEST)
    return text[: end if end > 0 else LONGEST] + " …"


def _bare(line: str) -> str:
    """A line without what vLLM's logger puts in front of it."""
    before = None
    while before != line:
        before, line = line, _LOGGED.sub("", _PROCESS.sub("", line))
    return line.rstrip()


def _is_raised(lines: Sequence[str], at: int) -> bool:
    if _RAISED.match(lines[at]):
        return True
    return at > 0 and _NAMED.match(lines[at]) is not None and any(map(_FRAME.match, lines[max(0, at - 3) : at]))


def _completed(log: Sequence[str], lines: Sequence[str], at: int) -> str:
    """The exception with the lines of its message that follow, or with the code that raised it."""
    text = lines[at]
    if ": " not in f"{text} ":
        return text + _raised_at(lines[:at])
    if len(text) > _BRIEF and not text.endswith(":"):
        return text
    return " ".join([text, *_following(log, lines, at)])


def _following(log: Sequence[str], lines: Sequence[str], at: int) -> Iterator[str]:
    """What the same process writes next, up to its next message."""
    source, size = _source(log[at]), 0
    for each, line in zip(log[at + 1 :], lines[at + 1 :], strict=True):
        if _source(each) != source:
            continue
        if _END.match(line) or _RAISED.match(line) or size > LONGEST:
            return
        if line.strip() and not _NOISE.match(line):
            size += len(line)
            yield line.strip()


def _source(line: str) -> str:
    found = _PROCESS.match(line)
    return found[0] if found else ""


def _raised_at(lines: Sequence[str]) -> str:
    """Where an exception without a message was raised."""
    for at in range(len(lines) - 1, max(-1, len(lines) - 6), -1):
        if found := _FRAME.match(lines[at]):
            code = lines[at + 1].strip() if at + 1 < len(lines) else ""
            return f" in {found['function']} ({found['file']}:{found['line']})" + (f": {code}" if code else "")
    return ""


def _first_problem(lines: Sequence[str]) -> str | None:
    """pydantic puts what is wrong into the lines after the exception's own, under the name of the field."""
    field = ""
    for line in lines:
        if line.startswith("  ") and "For further information" not in line:
            text = re.sub(r" \[type=.*", "", line.strip()).removeprefix("Value error, ")
            return cut(f"{field}: {text}" if field else text)
        field = line.strip() if re.fullmatch(r"[\w.\[\]-]+", line.strip()) else ""
    return None


def _without_module(text: str) -> str:
    return re.sub(r"^(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)
