"""What the installed vLLM answered about arguments, as reasons with their file and line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from reconciler.engines.environment import replace_paths
from reconciler.engines.launch import PreflightQuestion
from reconciler.errors import Retryable
from reconciler.model import NO_ORIGIN, Argument, NoOrigin, Origin, Preflight, Reason, ReasonCode


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the engine does not like. `index` counts in the question's argv, as do `others` that it may mean."""

    message: str
    index: int | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PreflightVerdict:
    """The engine's verdict. `lacks` are flags that the reconciler adds and this engine does not know."""

    parsed: str
    gpus: int
    errors: tuple[Complaint, ...]
    warnings: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def about(
        self,
        asked: PreflightQuestion,
        fallback: Origin,
        variables: Mapping[str, Origin] = MappingProxyType({}),
    ) -> Preflight:
        """The verdict as every stage speaks it, each reason with its file and line. `fallback` is the service's."""
        reasons = []
        for complaint in self.errors:
            index = _culprit(complaint, asked.argv, fallback)
            named = variable_in(complaint.message, variables)
            origin = _origin_at(asked.argv, index) or variables.get(named, fallback)
            message = _with_flag(complaint, index, asked.argv) + _on_this_host(complaint.message, asked.paths)
            reasons.append(Reason(ReasonCode.INVALID_ARGUMENT, message, origin))
        return Preflight(self.parsed, self.gpus, tuple(reasons), self.warnings)


def _culprit(complaint: Complaint, argv: Sequence[Argument], service: Origin) -> int | None:
    """The service's own argument before its runtime's, which others live with."""
    for index in (complaint.index, *complaint.others):
        origin = _origin_at(argv, index)
        if origin and origin.file == service.file:
            return index
    return complaint.index


def _with_flag(complaint: Complaint, index: int | None, argv: Sequence[Argument]) -> str:
    """Its message, beginning with the flag that is blamed."""
    if index == complaint.index or index is None or complaint.index is None or index >= len(argv):
        return complaint.message
    first, flag = (argv[each].text.partition("=")[0] for each in (complaint.index, index))
    text = complaint.message.removeprefix(f"{first}: ")
    return text if flag in text else f"{flag}: {text}"


def _on_this_host(message: str, paths: Mapping[str, str]) -> str:
    """Where the container's folders that a message names lie here."""
    named = [path for path, local in paths.items() if local != path and replace_paths(message, {path: ""}) != message]
    return "".join(f" ({path} is {paths[path]} on this host)" for path in named)


def _origin_at(argv: Sequence[Argument], index: int | None) -> Origin | NoOrigin:
    """Where an argument is written; NO_ORIGIN: none is to blame, or it is none of git's.

    Code that comes with a model may have named a place that is none.
    """
    return argv[index].origin if index is not None and 0 <= index < len(argv) else NO_ORIGIN


class NoVerdict(Retryable):
    """The engine gave no verdict on the arguments. `variable` is the one that is to blame, as far as it is known.

    `index` is the argument to blame, in the question's argv. `final`: it will say the same until something else is
    installed.
    """

    def __init__(self, message: str, variable: str = "", final: bool = False, index: int | None = None) -> None:
        super().__init__(message)
        self.variable = variable
        self.final = final
        self.index = index

    def origin(self, asked: PreflightQuestion) -> Origin | NoOrigin:
        """Where the argument to blame is written; NO_ORIGIN: none is to blame."""
        return _origin_at(asked.argv, self.index)


def variable_in(text: str, env: Iterable[str]) -> str:
    """The variable that a text names; the longest, for one name may begin another."""
    tokens = set(re.findall(r"\w+", text))
    return max((name for name in env if name in tokens), key=len, default="")


def read_verdict(answer: dict[str, Any]) -> PreflightVerdict:
    """Code that comes with a model may have written it. Raises ValueError, KeyError, TypeError for what is none."""
    errors = tuple(_complaint(error) for error in answer["errors"])
    warnings, lacks = (tuple(map(str, answer.get(name, ()))) for name in ("warnings", "lacks"))
    return PreflightVerdict(str(answer["parsed"]), int(answer["gpus"]), errors, warnings, lacks)


def _complaint(error: dict[str, Any]) -> Complaint:
    """Raises ValueError, KeyError, TypeError."""
    index, others = error["index"], tuple(error.get("others", ()))
    if not all(type(each) is int and each >= 0 for each in (*others, 0 if index is None else index)):
        raise ValueError("an error's index is no place in argv")
    return Complaint(str(error["message"]), index, others)
