"""What is wrong with a service, or worth saying about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Issue:
    """`reason` is one CamelCase word; `path` leads to the field at fault where it is known: keys and list indexes."""

    reason: str
    message: str
    path: tuple[Any, ...] = ()


class SpecError(Exception):
    """KServe stops here. `failure` is what it writes into lastFailureInfo, when it calls the spec invalid."""

    def __init__(self, reason: str, message: str, *path: Any, failure: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path
        self.failure = failure


def invalid_predictor(message: str, *path: Any, detail: str = "") -> SpecError:
    """KServe calls the predictor's spec invalid; `detail` is what only its event says."""
    failure = {"reason": "InvalidPredictorSpec", "message": message}
    return SpecError("InvalidPredictorSpec", f"{message}: {detail}" if detail else message, *path, failure=failure)


def invalid_spec(failure: Mapping[str, str]) -> Mapping[str, Any]:
    """modelStatus of a service whose spec is invalid."""
    return {
        "transitionStatus": "InvalidSpec",
        "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
        "lastFailureInfo": {"reason": failure["reason"], "message": failure["message"]},
    }
