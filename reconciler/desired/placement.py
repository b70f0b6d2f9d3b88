"""Is a service for this host? The rules of its pod against the labels and taints that the config gives the host."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from reconciler.config.settings import TargetSettings
from reconciler.desired.origins import Origins
from reconciler.desired.spec import UnusableField
from reconciler.kserve.issues import Issue
from reconciler.kserve.resolve import Resolved
from reconciler.kserve.scheduling import Malformed, Node, Taint, misfits, without_effect
from reconciler.model import Reason

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def node_of(target: TargetSettings) -> Node:
    """The host as a scheduler would know it: what the config says, over the labels that every node has.

    Nothing here is measured. A label that came and went with a driver would stop what serves.
    """
    machine = platform.machine()
    defaults = {
        "kubernetes.io/hostname": target.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _ARCHITECTURES.get(machine, machine),
    }
    if target.gpus:
        defaults["nvidia.com/gpu.present"] = "true"
    taints = tuple(Taint(each.key, each.effect, each.value) for each in target.taints)
    return Node(target.name, defaults | target.labels, taints)


def find_misfits(resolved: Resolved, node: Node, origins: Origins) -> tuple[Reason, ...]:
    """Why the service is not for this host; None when it is. Raises Unusable for a rule that no host can satisfy."""
    try:
        found = list(misfits(resolved.pod, node))
    except Malformed as problem:
        raise UnusableField(_reason(problem.issue, origins)) from None
    return tuple(_reason(each, origins) for each in found)


def ignored_rules(resolved: Resolved, origins: Origins) -> Iterator[Reason]:
    """Rules that choose among several nodes."""
    for each in without_effect(resolved.pod):
        yield _reason(each, origins)


def _reason(issue: Issue, origins: Origins) -> Reason:
    return Reason(issue.reason, issue.message, origins.of_pod_field(issue.path))
