"""Which ServingRuntime serves a model: the one that is named, or the first that supports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.predictor import protocol
from reconciler.model import ReasonCode

_PROTOCOL_RANK = {"v1": 1, "v2": 2, "grpc-v1": 3, "grpc-v2": 4}
_RANK_PROTOCOL = {rank: name for name, rank in _PROTOCOL_RANK.items()}
_UNKNOWN_RANK = 5


@dataclass(frozen=True, slots=True, eq=False)
class Runtime:
    """One ServingRuntime or ClusterServingRuntime. `namespace` is empty for the latter.

    `place` is its file and line, and `holder` what it stands in where it does not exist on its own; both for people.
    """

    kind: str
    namespace: str
    name: str
    spec: Mapping[str, Any]
    annotations: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    holder: str = ""

    @property
    def is_disabled(self) -> bool:
        return self.spec.get("disabled") is True

    @property
    def rank(self) -> int:
        """Rank of the lowest protocol that it lists; the lowest rank is tried first."""
        listed = self.spec.get("protocolVersions")
        return min(_PROTOCOL_RANK.get(name, _UNKNOWN_RANK) for name in listed) if listed else _UNKNOWN_RANK

    @property
    def protocol(self) -> str:
        """The protocol that a model gets when it requests none; empty when the runtime lists none."""
        return _RANK_PROTOCOL.get(self.rank, "")

    def supports_protocol(self, wanted: str) -> bool:
        listed = self.spec.get("protocolVersions")
        return not listed or not wanted or wanted in listed

    @property
    def offers(self) -> set[tuple[str, str | None]]:
        """Formats that may be selected, each with its version and with none, which stands for any."""
        chosen = [e for e in self.spec.get("supportedModelFormats") or () if e.get("autoSelect") is True]
        return {(e.get("name", ""), version) for e in chosen for version in (None, e.get("version"))}

    def supports_format(self, model_format: Mapping[str, Any]) -> bool:
        """Exact names and versions. The model names this runtime, so autoSelect does not matter."""
        name, version = model_format.get("name", ""), model_format.get("version")
        entries = self.spec.get("supportedModelFormats") or ()
        return any(e.get("name", "") == name and version in (None, e.get("version")) for e in entries)

    def priority(self, format_name: str) -> int | None:
        """Of the first entry with that name, whatever its version."""
        entries = self.spec.get("supportedModelFormats") or ()
        found: int | None = next((e.get("priority") for e in entries if e.get("name") == format_name), None)
        return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no runtime serves a model: KServe's failure reason, its status message and the text of its event."""

    reason: ReasonCode
    status: str
    event: str


class Runtimes:
    """All runtimes of a tree, sorted once. `templated` do not exist: what holds them is not rendered."""

    def __init__(self, runtimes: Iterable[Runtime], templated: Iterable[Runtime] = ()) -> None:
        self.templated = tuple(templated)
        known = {(each.namespace, each.name): each for each in runtimes}
        self._by_name = known
        # A folder knows no creation times: ties fall to the name.
        ordered = sorted(known.values(), key=lambda each: (each.rank, each.name))
        # Each service asks for a few among thousands.
        self._titled: dict[tuple[str, str | None], list[Runtime]] = {}
        self._offering: dict[tuple[str, str, str | None], list[Runtime]] = {}
        for each in ordered:
            self._titled.setdefault((each.namespace, each.annotations.get(names.DISPLAY_NAME)), []).append(each)
            for name, version in each.offers:
                self._offering.setdefault((each.namespace, name, version), []).append(each)
        self._memo: dict[tuple[Any, ...], tuple[Runtime, ...]] = {}
        self.known = tuple(known[key] for key in sorted(known))
        self._spaces: dict[str, list[Runtime]] = {}
        self._names: dict[str, list[Runtime]] = {}
        for each in self.known:
            self._spaces.setdefault(each.namespace, []).append(each)
            self._names.setdefault(each.name, []).append(each)

    def seen_from(self, namespace: str) -> list[Runtime]:
        """Those that a service may use, by name: its namespace's own and the cluster's."""
        return [each for place in dict.fromkeys((namespace, "")) for each in self._spaces.get(place, ())]

    def named(self, name: str, namespace: str) -> Runtime | None:
        """The runtime of that name in the namespace, else in the cluster."""
        return self._by_name.get((namespace, name)) or self._by_name.get(("", name))

    def called(self, name: str) -> list[Runtime]:
        """Those of that name in any namespace."""
        return self._names.get(name, [])

    def displayed_as(self, title: str, namespace: str) -> list[Runtime]:
        """Runtimes in scope whose display name is `title`."""
        places = dict.fromkeys((namespace, ""))
        return [each for place in places for each in self._titled.get((place, title), ())]

    def supporting(self, predictor: Mapping[str, Any], namespace: str) -> tuple[Runtime, ...]:
        """Runtimes that automatic selection would take, best first: the namespace's own before the cluster's."""
        model_format = predictor["model"].get("modelFormat") or {}
        wanted, multi_node = protocol(predictor), "workerSpec" in predictor
        key = (namespace, model_format.get("name"), model_format.get("version"), wanted, multi_node)
        if key not in self._memo:
            own = self._fitting(namespace, model_format, wanted, multi_node)
            shared = self._fitting("", model_format, wanted, multi_node)
            self._memo[key] = (*own, *shared)
        return self._memo[key]

    def _fitting(self, namespace: str, model_format: Mapping[str, Any], wanted: str, multi_node: bool) -> list[Runtime]:
        name, version = model_format.get("name", ""), model_format.get("version")
        fitting = [
            each
            for each in self._offering.get((namespace, name, version), ())
            if not each.is_disabled
            and each.spec.get("multiModel") is not True
            and each.supports_protocol(wanted)
            and ("workerSpec" in each.spec) == multi_node
        ]
        return sorted(fitting, key=lambda each: _by_priority(each.priority(name)))


def _by_priority(priority: int | None) -> tuple[bool, int]:
    return (priority is None, -(priority or 0))


def refuse_named(runtime: Runtime, model: Mapping[str, Any]) -> Refusal | None:
    """Why the runtime that a model names cannot serve it; autoSelect and multiModel do not matter."""
    what = f"pecified runtime {runtime.name} "
    if runtime.is_disabled:
        return Refusal(ReasonCode.RUNTIME_DISABLED, "Specified runtime is disabled", f"s{what}is disabled")
    wanted = model.get("protocolVersion")
    if wanted is not None and not runtime.supports_protocol(wanted):
        why = "does not support specified protocol version"
        return Refusal(ReasonCode.NO_SUPPORTING_RUNTIME, f"Specified runtime {why}", f"s{what}{why}")
    if not runtime.supports_format(model.get("modelFormat") or {}):
        why = "does not support specified framework/version"
        return Refusal(ReasonCode.NO_SUPPORTING_RUNTIME, f"Specified runtime {why}", f"s{what}{why}")
    return None


def refuse_unknown(name: str) -> Refusal:
    event = f"No ServingRuntimes or ClusterServingRuntimes with the name: {name}"
    return Refusal(ReasonCode.RUNTIME_NOT_RECOGNIZED, "Waiting for runtime to become available", event)


def refuse_none_found(model: Mapping[str, Any]) -> Refusal:
    model_format = model.get("modelFormat") or {}
    # KServe prints a Go struct here, the version as a pointer; the version itself says more.
    shown = f"{model_format.get('name', '')} {model_format.get('version') or '<nil>'}"
    event = f"no runtime found to support predictor with model type: {{{shown}}}"
    return Refusal(ReasonCode.NO_SUPPORTING_RUNTIME, "No runtime found to support specified framework/version", event)
