"""Would a cluster's scheduler put this pod on this node? nodeSelector, node affinity and taints, rule by rule. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve.issues import Issue
from reconciler.kserve.pod_validation import label_flaws
from reconciler.model import ReasonCode

Pod = Mapping[str, Any]
Path = tuple[str | int, ...]

_AFFINITY: Path = ("affinity", "nodeAffinity")
_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
_REPELLING = ("NoSchedule", "NoExecute")
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_NAME_FIELD = "metadata.name"


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods away that do not tolerate it."""

    key: str
    effect: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.key}{f'={self.value}' if self.value else ''}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Node:
    """What a scheduler knows of a node."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


class Malformed(Exception):
    """A rule that an API server refuses; `issue` says which."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.issue = Issue(ReasonCode.INVALID_PLACEMENT, message, path)


def misfits(pod: Pod, node: Node) -> Iterator[Issue]:
    """Every rule that keeps the pod from this node; none: it may run there. Raises Malformed.

    What stands in a spec for a node that is chosen while it runs counts here too, always: what is decided depends only
    on what is written, not on what ran before.
    """
    wanted = pod.get("nodeName")
    if wanted and wanted != node.name:
        yield Issue(
            ReasonCode.NOT_FOR_THIS_HOST, f"nodeName requires {wanted}; this host is {node.name}", ("nodeName",)
        )
    for key, value in (pod.get("nodeSelector") or {}).items():
        if node.labels.get(key) != value:
            text = f"nodeSelector requires {key}={value}; {_label(node, key)}"
            yield Issue(ReasonCode.NOT_FOR_THIS_HOST, text, ("nodeSelector", key))
    yield from _affinity_misfit(pod, node)
    # Who is put on a node by name passes no scheduler; only NoExecute would throw it out again.
    effects = ("NoExecute",) if wanted else _REPELLING
    for taint in node.taints:
        if taint.effect in effects and not any(tolerates(each, taint) for each in pod.get("tolerations") or ()):
            yield Issue(
                ReasonCode.NOT_FOR_THIS_HOST, f"no toleration names this host's taint {taint}", ("tolerations",)
            )


def tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Does this toleration let a pod onto a node with this taint?"""
    effect, key = toleration.get("effect"), toleration.get("key")
    if (effect and effect != taint.effect) or (key and key != taint.key):
        return False
    match toleration.get("operator") or "Equal":
        case "Equal":
            return (toleration.get("value") or "") == taint.value
        case operator:
            # `Lt` and `Gt` need a feature gate that is off by default.
            return bool(operator == "Exists")


def without_effect(pod: Pod) -> Iterator[Issue]:
    """What only chooses among several nodes, so that it has no effect on one host."""
    affinity = pod.get("affinity") or {}
    if _at(pod, *_AFFINITY).get(_PREFERRED):
        text = "preferred node affinity has no effect on a host: there is no other node"
        yield Issue(ReasonCode.NO_EFFECT, text, (*_AFFINITY, _PREFERRED))
    for kind, word in (("podAffinity", "pod affinity"), ("podAntiAffinity", "pod anti-affinity")):
        if affinity.get(kind):
            text = f"{word} has no effect on a host: all replicas run on it"
            yield Issue(ReasonCode.NO_EFFECT, text, ("affinity", kind))
    for index, each in enumerate(pod.get("tolerations") or ()):
        if each.get("tolerationSeconds") is not None:
            text = "tolerationSeconds has no effect on a host: the taint is tolerated for good"
            yield Issue(ReasonCode.NO_EFFECT, text, ("tolerations", index, "tolerationSeconds"))


# ---------------------------------------------------------------- node affinity


def _affinity_misfit(pod: Pod, node: Node) -> Iterator[Issue]:
    """Terms are alternatives; a term without any rule matches nothing."""
    required = _at(pod, *_AFFINITY).get(_REQUIRED)
    if required is None:
        return
    path: Path = (*_AFFINITY, _REQUIRED, "nodeSelectorTerms")
    terms = required.get("nodeSelectorTerms") or ()
    reasons = [_term_misfit(term or {}, node, (*path, index)) for index, term in enumerate(terms)]
    if all(reasons):
        why = "; or: ".join(filter(None, reasons)) or "it has no term, so it matches nothing"
        yield Issue(ReasonCode.NOT_FOR_THIS_HOST, f"node affinity does not match: {why}", path if terms else path[:-1])


def _term_misfit(term: Mapping[str, Any], node: Node, path: Path) -> str:
    """Why a term does not match; empty when it does. Raises Malformed, also when another term would match."""
    labels, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    found = "" if labels or fields else "an empty term matches nothing"
    for index, rule in enumerate(labels):
        _check_expression(rule, (*path, "matchExpressions", index))
        if not found and not _holds(rule, node.labels):
            found = f"{_shown(rule)} ({_label(node, rule['key'])})"
    for index, rule in enumerate(fields):
        _check_field(rule, (*path, "matchFields", index))
        if not found and not _holds(rule, {_NAME_FIELD: node.name}):
            found = f"{_shown(rule)} (this host is {node.name})"
    return found


def _holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(rule["key"]), _values(rule)
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    number, limit = _integer(value or ""), _integer(values[0])
    if number is None or limit is None:
        return False
    return number > limit if rule["operator"] == "Gt" else number < limit


def _integer(text: str) -> int | None:
    """A whole number of 64 bits, as Go reads it."""
    if not _INTEGER.fullmatch(text) or len(text) > 64:
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


# ---------------------------------------------------------------- what an API server refuses


def _check_expression(rule: Mapping[str, Any], path: Path) -> None:
    key, operator, values = rule.get("key") or "", rule.get("operator"), _values(rule)
    for value in values or ("",):
        for flaw in label_flaws({key: value}, ()):
            raise Malformed(f"node affinity: {flaw.message.removeprefix(': ')}", path)
    match operator:
        case "In" | "NotIn":
            _expect(bool(values), f"node affinity: {operator} needs at least one value", path)
        case "Exists" | "DoesNotExist":
            _expect(not values, f"node affinity: {operator} takes no values", path)
        case "Gt" | "Lt":
            is_number = len(values) == 1 and _integer(values[0]) is not None
            _expect(is_number, f"node affinity: {operator} needs exactly one whole number", path)
        case _:
            known = "In, NotIn, Exists, DoesNotExist, Gt and Lt"
            raise Malformed(f"node affinity: unknown operator {operator}; supported are {known}", (*path, "operator"))


def _check_field(rule: Mapping[str, Any], path: Path) -> None:
    key, operator, values = rule.get("key"), rule.get("operator"), rule.get("values") or ()
    _expect(key == _NAME_FIELD, f"node affinity: matchFields supports only {_NAME_FIELD}, not {key}", path)
    _expect(operator in ("In", "NotIn"), f"node affinity: matchFields takes In and NotIn, not {operator}", path)
    _expect(len(values) == 1, "node affinity: matchFields needs exactly one value", path)


def _expect(claim: bool, message: str, path: Path) -> None:
    if not claim:
        raise Malformed(message, path)


# ---------------------------------------------------------------- text


def _label(node: Node, key: str) -> str:
    value = node.labels.get(key)
    return f"this host has no label {key}" if value is None else f"this host has {key}={value}"


def _shown(rule: Mapping[str, Any]) -> str:
    values = _values(rule)
    return " ".join(filter(None, (rule["key"], rule["operator"], f"[{', '.join(values)}]" if values else "")))


def _values(rule: Mapping[str, Any]) -> Sequence[str]:
    return rule.get("values") or ()


def _at(value: Any, *path: str | int) -> Mapping[str, Any]:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
