"""Transformer and explainer: separate pods, of which only what a cluster refuses is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.issues import Issue
from reconciler.kserve.pod import Pod, add_default_fields
from reconciler.kserve.pod_enums import strategy_problems, word_problems
from reconciler.kserve.pod_validation import deployment_problems, service_problems
from reconciler.kserve.url import UrlError, host_name
from reconciler.model import ReasonCode

Document = Mapping[str, Any]


def component_problems(service: Document, config: Config) -> Iterator[Issue]:
    """Why the Deployment of a transformer or a custom explainer cannot be made in mode Standard."""
    for kind in ("transformer", "explainer"):
        component = (service.get("spec") or {}).get(kind) or {}
        if not component.get("containers"):
            continue
        name = f"{service['metadata'].get('name', '')}-{kind}"
        for text in _problems(component, name, service["metadata"], config):
            yield Issue(ReasonCode.RECONCILE_FAILED, f"fails to reconcile {kind}: {text}", ("spec", kind))


def _problems(component: Document, name: str, metadata: Document, config: Config) -> Iterator[str]:
    pod = _pod(component, name, metadata)
    for text in (
        *deployment_problems(pod),
        *word_problems(pod),
        *strategy_problems(component.get("deploymentStrategy")),
    ):
        yield f'Deployment.apps "{name}" is invalid: {text}'
    for text in service_problems(pod.containers[0]):
        yield f'Service "{name}" is invalid: {text}'
    try:
        host_name(name, metadata, config)
    except UrlError as error:
        yield f"failed creating host name: {error}"


def _pod(component: Document, name: str, metadata: Document) -> Pod:
    labels = {**(metadata.get("labels") or {}), **(component.get("labels") or {})}
    pod = Pod(
        labels={**labels, names.SERVICE_LABEL: metadata.get("name", ""), "app": f"isvc.{name}"},
        containers=[dict(each) for each in component["containers"]],
        init_containers=[dict(each) for each in component.get("initContainers") or ()],
        volumes=list(component.get("volumes") or ()),
        fields={key: component[key] for key in ("tolerations", "nodeSelector") if key in component},
    )
    add_default_fields(pod)
    return pod
