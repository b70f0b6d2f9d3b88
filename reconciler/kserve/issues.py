"""What is wrong with a service, or worth saying about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model import ReasonCode


@dataclass(frozen=True, slots=True)
class AbsentSecret:
    """A Secret that the tree does not hold, or a key of it. It is seldom in git: the cluster may well have it."""

    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """`path` leads to the field at fault where it is known: keys and list indexes.

    `pod_path` does so in the pod that was made of service and runtime, either of which may have written it.
    `absent` is the Secret that would cure it.
    """

    reason: ReasonCode
    message: str
    path: tuple[Any, ...] = ()
    pod_path: tuple[Any, ...] = ()
    absent: AbsentSecret | None = None


_POD_PATH = re.compile(r"spec\.template\.spec((?:\.\w+|\[[^]]+\])+)")


def pod_path_of(message: str) -> tuple[Any, ...]:
    """The field of a pod template that a message of the API server begins with."""
    match = _POD_PATH.match(message)
    steps = re.findall(r"\.(\w+)|\[([^]]+)\]", match[1]) if match else ()
    return tuple(key or (int(inner) if inner.isdecimal() else inner) for key, inner in steps)


class SpecError(Exception):
    """KServe stops here. `failure` is what it writes into lastFailureInfo, when it calls the spec invalid."""

    def __init__(self, reason: ReasonCode, message: str, *path: Any, failure: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path
        self.failure = failure


def invalid_predictor(message: str, *path: Any, detail: str = "") -> SpecError:
    """KServe calls the predictor's spec invalid; `detail` is what only its event says."""
    failure = {"reason": ReasonCode.INVALID_PREDICTOR_SPEC, "message": message}
    return SpecError(
        ReasonCode.INVALID_PREDICTOR_SPEC, f"{message}: {detail}" if detail else message, *path, failure=failure
    )


def invalid_spec(failure: Mapping[str, str]) -> Mapping[str, Any]:
    """modelStatus of a service whose spec is invalid."""
    return {
        "transitionStatus": "InvalidSpec",
        "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
        "lastFailureInfo": {"reason": failure["reason"], "message": failure["message"]},
    }
