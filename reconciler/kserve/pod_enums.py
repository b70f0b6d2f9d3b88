"""Enumerated fields of a Deployment's pod, and the API server's message about any other value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.kserve.objectmeta import label_flaws
from reconciler.kserve.pod import Pod

Document = Mapping[str, Any]
_POD_WORDS = {
    "restartPolicy": ("Always",),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
    "preemptionPolicy": ("PreemptLowerPriority", "Never"),
}
_CONTAINER_WORDS = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def word_problems(pod: Pod) -> Iterator[str]:
    """Problems of a pod template, each beginning with its path."""
    at = "spec.template.spec"
    yield from _words(pod.fields, _POD_WORDS, at)
    for kind, containers in (("containers", pod.containers), ("initContainers", pod.init_containers)):
        for index, container in enumerate(containers):
            here = f"{at}.{kind}[{index}]"
            yield from _words(container, _CONTAINER_WORDS, here)
            for number, port in enumerate(container.get("ports") or ()):
                yield from _words(port, {"protocol": _PROTOCOLS}, f"{here}.ports[{number}]")
    for index, item in enumerate(pod.fields.get("tolerations") or ()):
        yield from _toleration_problems(item, f"{at}.tolerations[{index}]")
    if pod.fields.get("terminationGracePeriodSeconds", 0) < 0:
        yield f"{at}.terminationGracePeriodSeconds: Invalid value: must be greater than or equal to 0"
    for flaw in label_flaws(pod.fields.get("nodeSelector") or {}, ("spec", "template", "spec", "nodeSelector")):
        yield flaw.message
    for flaw in label_flaws(pod.labels, ("spec", "template", "labels")):
        yield flaw.message


def _words(holder: Document, allowed: Mapping[str, Sequence[str]], at: str) -> Iterator[str]:
    for key, words in allowed.items():
        if key in holder and holder[key] not in words:
            known = ", ".join(f'"{word}"' for word in sorted(words))
            yield f'{at}.{key}: Unsupported value: "{holder[key]}": supported values: {known}'


def _toleration_problems(item: Document, at: str) -> Iterator[str]:
    key, operator, value = item.get("key", ""), item.get("operator", "Equal"), item.get("value", "")
    if not key and operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield f'{at}.operator: Invalid value: "{item.get("operator", "")}": {text}'
    if operator == "Exists" and value:
        yield f"{at}.operator: Invalid value: \"{value}\": value must be empty when `operator` is 'Exists'"
    if operator not in ("Equal", "Exists", "Lt", "Gt"):
        yield f'{at}.operator: Unsupported value: "{operator}": supported values: "Equal", "Exists"'
    effect = item.get("effect", "")
    if effect and effect not in _EFFECTS:
        known = ", ".join(f'"{word}"' for word in _EFFECTS)
        yield f'{at}.effect: Unsupported value: "{effect}": supported values: {known}'
    if "tolerationSeconds" in item and effect != "NoExecute":
        yield f"{at}.effect: Invalid value: \"{effect}\": effect must be 'NoExecute' when `tolerationSeconds` is set"


def strategy_problems(strategy: Document | None) -> Iterator[str]:
    """Problems of a Deployment's strategy."""
    if not strategy:
        return
    kind = strategy.get("type", "RollingUpdate")
    if kind == "Recreate" and "rollingUpdate" in strategy:
        yield "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
    elif kind not in ("Recreate", "RollingUpdate"):
        yield f'spec.strategy.type: Unsupported value: "{kind}": supported values: "Recreate", "RollingUpdate"'
    rolling = strategy.get("rollingUpdate") or {}
    if kind == "RollingUpdate" and _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
        text = "may not be 0 when `maxSurge` is 0"
        yield f"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: {rolling['maxUnavailable']}: {text}"


def _is_zero(value: Any) -> bool:
    return value in (0, "0", "0%")
