"""Why no runtime serves a model, in addition to KServe's own message: which one is near, and what excludes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from reconciler.kserve.predictor import protocol
from reconciler.kserve.selection import Runtime, Runtimes

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
