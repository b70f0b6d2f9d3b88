"""Recordings of KServe 0.20: what was done to a service, and the statuses that it had for a second or longer."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.controlplane.api import Api, wait_for

Document = dict[str, Any]
FOLDER = Path(__file__).parent / "sequences"
_KINDS = {
    "InferenceService": "serving.kserve.io/v1beta1",
    "ServingRuntime": "serving.kserve.io/v1alpha1",
    "Secret": "v1",
}
_WORKLOAD = {
    "deployment": ("apps/v1", "Deployment"),
    "service": ("v1", "Service"),
    "hpa": ("autoscaling/v2", "HorizontalPodAutoscaler"),
    "ingress": ("networking.k8s.io/v1", "Ingress"),
}


@dataclass(frozen=True)
class Step:
    """`do` is create, merge-patch or delete; `then` the statuses in order, none where nothing came of it."""

    do: str
    object: Document
    patch: Document
    then: tuple[Document, ...]


@dataclass(frozen=True)
class Sequence:
    """One recording, as it is in one namespace."""

    title: str
    ingress: bool
    steps: tuple[Step, ...]
    final: Mapping[str, Any]
    """What there was of its workload at the end."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, namespace: str) -> Sequence:
    text = (FOLDER / f"{name}.yaml").read_text().replace("NAMESPACE", namespace)
    data = yaml.load(text, Loader=yaml.CSafeLoader)
    return Sequence(data["title"], data["ingress"], tuple(_steps(data["steps"], namespace)), data["final"])


def _steps(steps: list[Document], namespace: str) -> Iterator[Step]:
    for step in steps:
        obj = step["object"]
        if isinstance(obj, str):
            kind, name = obj.split("/")
            obj = {"apiVersion": _KINDS[kind], "kind": kind, "metadata": {"name": name}}
        obj["metadata"]["namespace"] = namespace
        yield Step(step["do"], obj, step.get("patch") or {}, tuple(step.get("then") or ()))


def perform(api: Api, step: Step) -> None:
    """Do to the cluster what was done then."""
    if step.do == "create":
        api.create(copy.deepcopy(step.object))
    elif step.do == "merge-patch":
        api.patch(step.object, step.patch)
    else:
        api.delete(step.object)


def workload(api: Api, namespace: str) -> Document:
    """What there is of it now, as `final` names it."""
    objects = {what: api.list(*kind, namespace) for what, kind in _WORKLOAD.items()}
    found: Document = {f"{what}_exists": bool(each) for what, each in objects.items()}
    for deployment in objects["deployment"]:
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        found |= {"deployment_args": container["args"], "deployment_replicas": deployment["spec"]["replicas"]}
    return found


def plain(status: Mapping[str, Any] | None) -> Document:
    """A status without what differs from run to run."""
    if not status:
        return {}
    result = copy.deepcopy(dict(status))
    for each in result.get("conditions") or ():
        each.pop("lastTransitionTime", None)
        if "message" in each:
            each["message"] = re.sub(r'(ReplicaSet|replica set) "(.*)-[0-9a-z]+"', r'\1 "\2-<hash>"', each["message"])
    result.get("conditions", []).sort(key=lambda each: each["type"])
    (result.get("modelStatus", {}).get("lastFailureInfo") or {}).pop("time", None)
    return result


def brief(statuses: Iterable[Document]) -> str:
    """A line for each."""
    return "\n".join(json.dumps(each, sort_keys=True) for each in statuses)


class Watcher:
    """Collects the statuses of one service, each once when it changes."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.statuses: list[Document] = []
        self._api, self._namespace = api, namespace
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        # It may outlive the control plane.
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            for event in self._api.watch("serving.kserve.io/v1beta1", "InferenceService", self._namespace):
                status = plain(event["object"].get("status"))
                if status and status not in self.statuses[-1:]:
                    self.statuses.append(status)

    def wait_for(self, expected: tuple[Document, ...], since: int) -> None:
        """Until these came in this order after so many others, and the last one is what it is now."""

        def have_come() -> bool:
            seen = self.statuses[since:]
            rest = iter(seen)
            assert all(each in rest for each in expected), f"missing in {brief(seen)}:\n{brief(expected)}"
            assert seen[-1] == expected[-1], f"{seen[-1]} is not {expected[-1]}"
            return True

        wait_for(have_come, 120)
