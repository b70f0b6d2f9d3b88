"""Which ServingRuntime serves a model, what KServe adds for it, and why none does. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
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


_MOST = 3
# A tree may hold thousands, and thousands of services that find none.
_LOOKED_AT = 200


def hint_for_unknown(name: str, namespace: str, runtimes: Runtimes) -> str:
    """What bears the name, or nearly does, where a service names a runtime that is not there."""
    if titled := runtimes.displayed_as(name, namespace):
        return f"; {len(titled)} runtimes have that display name: {_listed(titled)}; use its metadata.name"
    if held := [each for each in runtimes.templated if each.name == name]:
        return f"; {_in_template(held[0])}"
    if away := runtimes.called(name):
        return f"; {_shown(away[0])} {_unseen(away[0], namespace)}"
    seen = runtimes.seen_from(namespace)[:_LOOKED_AT]
    near = difflib.get_close_matches(name.lower(), [each.name.lower() for each in seen], _MOST, 0.6)
    if near:
        found = [each for word in dict.fromkeys(near) for each in seen if each.name.lower() == word]
        return f"; did you mean {_either([_shown(each) for each in found[:_MOST]])}?"
    # A template may give it its name.
    return _all_of(seen) + "".join(f"; {_in_template(each)}" for each in runtimes.templated[:_MOST])


def hint_for_refused(runtime: Runtime, model: Mapping[str, Any]) -> str:
    """What the named runtime would take."""
    if runtime.is_disabled:
        return f" ({runtime.place}); remove `disabled: true`, or name another" if runtime.place else ""
    wanted = model.get("protocolVersion")
    if wanted is not None and not runtime.supports_protocol(wanted):
        return f"; {_shown(runtime)} lists {', '.join(runtime.spec.get('protocolVersions') or ())}, not {wanted}"
    asked = model.get("modelFormat") or {}
    return f"; {_shown(runtime)} supports {_formats(runtime)}, not {_format(asked)}{_spelling(runtime, asked)}"


def hint_for_none(predictor: Mapping[str, Any], namespace: str, runtimes: Runtimes) -> str:
    """What keeps each runtime of nearly that format from being selected."""
    model = predictor["model"]
    wanted, asked, multi_node = protocol(predictor), model.get("modelFormat") or {}, "workerSpec" in predictor
    seen = runtimes.seen_from(namespace)[:_LOOKED_AT]
    found = list(islice(_faults(seen, asked, wanted, multi_node), _MOST))
    away = [
        each for each in runtimes.known[:_LOOKED_AT] if each.namespace not in ("", namespace) and _takes(each, asked)
    ]
    found += [f"{_shown(each)} {_unseen(each, namespace)}" for each in away]
    found += [_in_template(each) for each in runtimes.templated if _takes(each, asked)]
    if found:
        return f"; {'; '.join(found[:_MOST])}"
    offered = sorted({_format(entry) for each in seen for entry in _entries(each) if entry.get("autoSelect") is True})
    near = difflib.get_close_matches(_format(asked).lower(), [each.lower() for each in offered], 1, 0.6)
    if near:
        return f"; did you mean {next(each for each in offered if each.lower() == near[0])}?"
    return f"; runtimes that it may use are for {', '.join(offered[:8])}" if offered else _all_of(seen)


def _faults(seen: Iterable[Runtime], asked: Mapping[str, Any], wanted: str, multi_node: bool) -> Iterator[str]:
    """Of each runtime that bears the format, even in other letters, the first thing that speaks against it."""
    for each in seen:
        if fault := _fault(each, asked, wanted, multi_node):
            yield f"{_shown(each)} {fault}"


def _fault(runtime: Runtime, asked: Mapping[str, Any], wanted: str, multi_node: bool) -> str:
    name = str(asked.get("name", ""))
    entries = [entry for entry in _entries(runtime) if str(entry.get("name", "")).lower() == name.lower()]
    if not entries:
        return ""
    exact = [entry for entry in entries if entry.get("name") == name]
    if not exact:
        return f"supports {entries[0].get('name')}: letters count, write modelFormat.name: {entries[0].get('name')}"
    if runtime.is_disabled:
        return "is disabled: remove `disabled: true`"
    if runtime.spec.get("multiModel") is True:
        return f"has `multiModel: true` and is never selected: remove that, or write runtime: {runtime.name}"
    selected = [entry for entry in exact if entry.get("autoSelect") is True]
    if not selected:
        return f"does not have `autoSelect: true` at {name}: add it there, or write runtime: {runtime.name}"
    if not runtime.supports_protocol(wanted):
        return f"lists protocol {', '.join(runtime.spec.get('protocolVersions') or ())}, not {wanted}"
    if asked.get("version") is not None and asked["version"] not in [entry.get("version") for entry in selected]:
        versions = ", ".join(str(entry.get("version") or "no version") for entry in selected)
        return f"offers {name} with {versions}, not version {asked['version']}"
    if ("workerSpec" in runtime.spec) != multi_node:
        return "is for several nodes (workerSpec), and the service is not" if not multi_node else "has no workerSpec"
    return ""


def _unseen(runtime: Runtime, namespace: str) -> str:
    advice = f"put it into namespace {namespace}, or make it a ClusterServingRuntime"
    return f"is in namespace {runtime.namespace}, and a service of {namespace} does not see it: {advice}"


def _takes(runtime: Runtime, asked: Mapping[str, Any]) -> bool:
    return (asked.get("name", ""), asked.get("version")) in runtime.offers


def _all_of(seen: list[Runtime]) -> str:
    if not seen:
        return "; the manifests hold no ServingRuntime for its namespace, and no ClusterServingRuntime: add one"
    return f"; it may use {_listed(seen)}"


def _listed(runtimes: list[Runtime]) -> str:
    more = " and others" if len(runtimes) > 8 else ""
    return ", ".join(each.name for each in runtimes[:8]) + more


def _in_template(runtime: Runtime) -> str:
    return f"{runtime.holder} holds {_shown(runtime)}, and is not rendered here: commit what `oc process` prints"


def _shown(runtime: Runtime) -> str:
    return f"{runtime.kind} {runtime.name}" + (f" ({runtime.place})" if runtime.place else "")


def _either(words: list[str]) -> str:
    return " or ".join(words)


def _entries(runtime: Runtime) -> list[Mapping[str, Any]]:
    return list(runtime.spec.get("supportedModelFormats") or ())


def _formats(runtime: Runtime) -> str:
    return ", ".join(map(_format, _entries(runtime))) or "no format"


def _format(entry: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in (entry.get("name", ""), entry.get("version")) if part is not None)


def _spelling(runtime: Runtime, asked: Mapping[str, Any]) -> str:
    names = {str(entry.get("name", "")) for entry in _entries(runtime)}
    same = [name for name in names if name.lower() == str(asked.get("name", "")).lower() and name != asked.get("name")]
    return f": letters count, write modelFormat.name: {same[0]}" if same else ""


Document = Mapping[str, Any]
_MODEL_CLASSES = {
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
}


_PROTOCOLS = {"mlserver": "v2", "tritonserver": "v2", "torchserve": "v1"}


def server_of(runtime: Runtime) -> str:
    """Server type by the runtime's annotation, else by its name."""
    return runtime.annotations.get(names.SERVER_TYPE, names.server_type_of(runtime.name))


def protocol_of(model: Document, runtime: Runtime) -> str:
    """The model's own protocol, else the server type's, else the lowest that the runtime lists, else v1."""
    own: str | None = model.get("protocolVersion")
    return own if own is not None else _PROTOCOLS.get(server_of(runtime)) or runtime.protocol or "v1"


def with_server_defaults(model: Document, metadata: Document, runtime: Runtime) -> tuple[Document, Document]:
    """The model and the service's metadata with what the server type asks for."""
    server = server_of(runtime)
    stored = "storageUri" in model or "storage" in model
    if server == "mlserver":
        return _mlserver(model, metadata, stored)
    if server == "torchserve":
        return _torchserve(model, metadata)
    if server == "tritonserver" and not stored:
        return {**model, "args": [*(model.get("args") or ()), "--model-control-mode=explicit"]}, metadata
    return model, metadata


def _mlserver(model: Document, metadata: Document, stored: bool) -> tuple[Document, Document]:
    added = {"MLSERVER_MODEL_NAME": metadata.get("name", ""), "MLSERVER_MODEL_URI": names.MODEL_MOUNT}
    env = list(model.get("env") or ())
    known = {item.get("name") for item in env}
    for name, value in (added if stored else {"MLSERVER_LOAD_MODELS_AT_STARTUP": "false"}).items():
        if name not in known:
            env.append({"name": name, "value": value})
    format_name = (model.get("modelFormat") or {}).get("name", "")
    kind = _MODEL_CLASSES.get(format_name, "mlserver_sklearn.SKLearnModel")
    return {**model, "env": env}, _labelled(metadata, "modelClass", kind)


def _torchserve(model: Document, metadata: Document) -> tuple[Document, Document]:
    protocol = model.get("protocolVersion") or "v1"
    envelope = "kservev2" if protocol in ("v2", "grpc-v2") else "kserve"
    env = [*(model.get("env") or ()), {"name": "PROTOCOL_VERSION", "value": protocol}]
    return {**model, "env": env}, _labelled(metadata, "serviceEnvelope", envelope)


def _labelled(metadata: Document, key: str, value: str) -> Document:
    return {**metadata, "labels": {**(metadata.get("labels") or {}), key: value}}
