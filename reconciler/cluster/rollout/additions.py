"""What is added to git's InferenceService when it is applied: only what its user left out, and never to metadata.

KServe copies labels and annotations of an InferenceService to its pods, so a mark of ours there would restart them.
What was added is remembered beside the applied object instead, and stays as it is until the service rolls again: to
add it to what runs, or to take it away, would be a restart of its own. Git's digest knows nothing of it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.engines.arguments import find
from reconciler.kserve import names
from reconciler.model import NO_ORIGIN, Argument, KubeObject


@dataclass(frozen=True, slots=True)
class Additions:
    """Fields of `spec.predictor`, each empty where nothing is added.

    `arguments` are flags with their values, `--flag=value`, for the model's server, and `pre_stop` the handler of its
    container. `grace_seconds` is the pod's terminationGracePeriodSeconds. `runtime` is the copy of its runtime that the
    service is kept on: in place of what git names, and the only thing that replaces a value of git.
    """

    strategy: Mapping[str, Any] | None = None
    arguments: tuple[str, ...] = ()
    pre_stop: Mapping[str, Any] | None = None
    grace_seconds: int | None = None
    runtime: str = ""

    def __bool__(self) -> bool:
        return self != NO_ADDITIONS


NO_ADDITIONS = Additions()


def laid_on(body: KubeObject, additions: Additions) -> KubeObject:
    """The InferenceService with these additions. What its user sets stays; once added, nothing changes any more."""
    spec = body.get("spec") or {}
    predictor = spec.get("predictor")
    if not additions or not isinstance(predictor, Mapping):
        return body
    laid = dict(predictor)
    if additions.strategy and not laid.get("deploymentStrategy"):
        laid["deploymentStrategy"] = additions.strategy
    if additions.grace_seconds is not None and laid.get("terminationGracePeriodSeconds") is None:
        laid["terminationGracePeriodSeconds"] = additions.grace_seconds
    if (where := server_place(laid)) is not None:
        _put(laid, where, _with_server(server_container(laid, where), additions))
    if additions.runtime and isinstance(laid.get("model"), Mapping):
        laid["model"] = {**laid["model"], "runtime": additions.runtime}
    return body if laid == predictor else {**body, "spec": {**spec, "predictor": laid}}


Place = tuple[str, int | None]
"""Where in a predictor the fields of its server's container stand: `model`, an old framework field, or an item of
`containers`."""


def server_place(predictor: Mapping[str, Any]) -> Place | None:
    """None where a predictor has no server."""
    for name in (*names.FRAMEWORKS, "model"):
        if isinstance(predictor.get(name), Mapping):
            return name, None
    containers: Sequence[Mapping[str, Any]] = predictor.get("containers") or ()
    # The defaulter names the first one so, unless one is.
    for index, each in enumerate(containers):
        if each.get("name") == names.KSERVE_CONTAINER:
            return "containers", index
    return ("containers", 0) if containers else None


def server_container(predictor: Mapping[str, Any], where: Place) -> Mapping[str, Any]:
    """The fields of the server's container."""
    field, index = where
    found: Mapping[str, Any] = predictor[field] if index is None else predictor[field][index]
    return found


def field_path(where: Place, field: str) -> str:
    """The path of a field of the server's container: `spec.predictor.model.args`."""
    return ".".join(map(str, ("spec.predictor", *(part for part in where if part is not None), field)))


def _with_server(server: Mapping[str, Any], additions: Additions) -> Mapping[str, Any]:
    given = [*(server.get("command") or ()), *(server.get("args") or ())]
    line = [Argument(str(each), NO_ORIGIN) for each in given]
    added = [each for each in additions.arguments if not find(line, each.partition("=")[0])]
    if added:
        server = {**server, "args": [*(server.get("args") or ()), *added]}
    lifecycle = server.get("lifecycle") or {}
    if additions.pre_stop and not lifecycle.get("preStop"):
        server = {**server, "lifecycle": {**lifecycle, "preStop": additions.pre_stop}}
    return server


def _put(predictor: dict[str, Any], where: Place, server: Mapping[str, Any]) -> None:
    field, index = where
    if index is None:
        predictor[field] = server
    else:
        items = list(predictor[field])
        items[index] = server
        predictor[field] = items
