"""Runtimes are compared with those that could contradict them, and services choose among those that offer a format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.kserve import runtime_validation, storage
from reconciler.kserve.config import from_config_map
from reconciler.kserve.runtime_selection import Runtime, Runtimes
from reconciler.kserve.runtime_validation import AppliedRuntimes, runtime_refusal
from reconciler.kserve.storage import StorageContainer
from tests.support.examples import examples

CONFIG = from_config_map(None, "Standard")
FORMATS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "A", "b"])},
    optional={
        "version": st.sampled_from(["1", "2"]),
        "priority": st.integers(1, 2),
        "autoSelect": st.booleans(),
    },
)
SPECS = st.fixed_dictionaries(
    {"supportedModelFormats": st.lists(FORMATS, max_size=3)},
    optional={
        "protocolVersions": st.lists(st.sampled_from(["v1", "v2"]), max_size=2),
        "multiModel": st.booleans(),
        "disabled": st.booleans(),
    },
)
TREES = st.lists(st.tuples(st.sampled_from("pqr"), SPECS), max_size=8)


def made(name: str, spec: dict[str, Any]) -> Runtime:
    return Runtime("ClusterServingRuntime", "", name, spec)


class Everything(AppliedRuntimes):
    """Compares with all of them."""

    def rivals(self, runtime: Runtime) -> list[Runtime]:
        return [each for name, each in sorted(self._by_name.items()) if name != runtime.name]


@settings(max_examples=examples(200), deadline=None)
@given(tree=TREES)
def test_runtimes_are_refused_as_if_all_were_compared(tree: list[tuple[str, dict[str, Any]]]) -> None:
    few, every = AppliedRuntimes(), Everything()
    for name, spec in tree:
        runtime = made(name, spec)
        said = runtime_refusal(runtime, few, CONFIG)
        assert said == runtime_refusal(runtime, every, CONFIG)
        if not said:
            few.add(runtime)
            every.add(runtime)


@settings(max_examples=examples(200), deadline=None)
@given(tree=TREES, wanted=FORMATS)
def test_runtimes_that_offer_a_format_are_all_found(
    tree: list[tuple[str, dict[str, Any]]], wanted: dict[str, Any]
) -> None:
    runtimes = {name: made(name, spec) for name, spec in tree}
    found = Runtimes(runtimes.values()).supporting({"model": {"modelFormat": wanted}}, "default")
    name, version = wanted["name"], wanted.get("version")
    fitting = {
        each.name
        for each in runtimes.values()
        if not each.is_disabled
        and each.spec.get("multiModel") is not True
        and each.supports_protocol("v1")
        and any(
            one.get("autoSelect") is True and one["name"] == name and version in (None, one.get("version"))
            for one in each.spec["supportedModelFormats"]
        )
    }
    assert {each.name for each in found} == fitting
    assert len(found) == len(fitting)


def test_runtime_is_compared_only_with_what_it_may_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    real = runtime_validation._conflict

    def conflict(spec: dict[str, Any], other: Runtime) -> str:
        compared.append(other.name)
        return real(spec, other)

    monkeypatch.setattr(runtime_validation, "_conflict", conflict)
    earlier = AppliedRuntimes()
    for number in range(100):
        entry = {"name": f"f{number % 99}", "priority": 1, "autoSelect": True}
        runtime = made(f"r{number}", {"supportedModelFormats": [entry], "protocolVersions": ["v2"]})
        if not (said := runtime_refusal(runtime, earlier, CONFIG)):
            earlier.add(runtime)
    assert compared == ["r0"]
    assert "f0 in the clusterservingruntimes r0 and r99" in said


def test_patterns_of_many_storage_containers_are_compiled_once() -> None:
    storage._compiled.cache_clear()
    containers = [StorageContainer(f"c{n}", {"supportedUriFormats": [{"regex": f"^x{n}://"}]}) for n in range(1_000)]
    for uri in ("x999://a", "x1://b", "y://c"):
        assert [each.name for each in containers if each.supports(uri)] == [f"c{uri[1:-4]}"] * (uri[0] == "x")
    assert storage._compiled.cache_info().misses == 1_000
