"""No document makes render or validate raise, and both always answer with JSON of the promised shape."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.kserve.quantity import canonical, is_quantity
from reconciler.kserve.resolve import ClusterObjects, resolve
from reconciler.kserve.template import render
from reconciler.kserve.template_syntax import TemplateError
from reconciler.manifests import read_file
from reconciler.preview import on_cluster
from tests.kserve.strategies import documents, near_misses
from tests.support.examples import examples

_slow = settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
_RUNTIME = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "r"},
    "spec": {
        "supportedModelFormats": [{"name": "vLLM", "autoSelect": True}],
        "containers": [{"name": "kserve-container", "image": "i:1", "args": ["--name={{.Name}}"]}],
    },
}
_KINDS = ("InferenceService", "ServingRuntime", "ClusterServingRuntime", "ClusterStorageContainer")
_OTHERS = ("Secret", "ConfigMap", "ServiceAccount")
_SERVICE_KEYS = {
    *("namespace", "name", "file", "line", "defaulted", "runtime", "candidates", "protocol", "deploymentMode"),
    *("modelName", "pod", "storage", "url", "modelStatus", "errors", "warnings"),
}


def _check(tree: list[dict[str, Any]]) -> None:
    manifests = read_file("tree.yaml", yaml.safe_dump_all(tree, allow_unicode=True).encode("utf-8", "replace"))
    rendered = json.loads(json.dumps(on_cluster.render(manifests)))
    verdict = json.loads(json.dumps(on_cluster.validate(manifests)))
    assert set(rendered) == {"services", "errors"}
    assert set(verdict) == {"valid", "errors", "warnings", "notChecked"}
    assert (verdict["valid"] is False) == bool(verdict["errors"])
    for service in rendered["services"]:
        assert set(service) == _SERVICE_KEYS
        for issue in (*service["errors"], *service["warnings"]):
            assert issue["reason"]
            assert issue["message"]
    for finding in (*verdict["errors"], *verdict["warnings"], *rendered["errors"]):
        assert finding["message"]
        assert finding["line"] >= 1


@pytest.mark.slow
@_slow
@given(st.data())
def test_no_tree_makes_render_or_validate_raise(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([*_KINDS, *_OTHERS]), max_size=3))
    _check([data.draw(documents(kind)) for kind in ("InferenceService", *kinds)])


@_slow
@given(near_misses(), st.sampled_from(_OTHERS).flatmap(documents))
def test_no_nearly_right_service_makes_render_or_validate_raise(service: dict[str, Any], other: dict[str, Any]) -> None:
    _check([_RUNTIME, other, service])


@_slow
@given(near_misses())
def test_resolving_leaves_the_documents_as_they_are(service: dict[str, Any]) -> None:
    tree = [_RUNTIME, service]
    before = json.dumps(tree)
    world = ClusterObjects.build(tree)
    first, second = resolve(service, world), resolve(service, world)
    assert json.dumps(tree) == before
    assert first == second


@_slow
@given(near_misses())
def test_defaulting_a_defaulted_service_changes_nothing(service: dict[str, Any]) -> None:
    world = ClusterObjects.build([_RUNTIME], default_mode="Standard")
    once = resolve(service, world)
    if not once.errors:
        assert resolve(once.defaulted, world).defaulted == once.defaulted


_PIECES = st.sampled_from(
    [
        *(
            "{{",
            "}}",
            "{{-",
            "-}}",
            ".Name",
            ".Labels.a",
            "index",
            "printf",
            "`%s`",
            "|",
            "(",
            ")",
            "if",
            "else",
            "end",
        ),
        *(
            "range",
            "with",
            "$x",
            ":=",
            "=",
            " ",
            " ",
            "text",
            "define",
            "template",
            "`t`",
            "eq",
            "1",
            "'c'",
            "nil",
            ",",
        ),
        *("{{if .Name}}", "{{end}}", "{{range $k, $v := .Labels}}", "{{$k}}", "{{else}}", "/*", "*/", '"', "\\"),
    ]
)


@_slow
@given(st.lists(_PIECES, max_size=14).map("".join))
def test_no_template_raises_anything_but_its_own_error(text: str) -> None:
    with contextlib.suppress(TemplateError):
        render(text, {"Name": "m", "Labels": {"a": "b"}}, html=True)


@given(st.from_regex(r"[+-]?[0-9]{1,6}(\.[0-9]{0,4})?(Ki|Mi|Gi|m|k|M|G|n|u|e[0-9])?", fullmatch=True))
def test_normal_form_of_a_quantity_is_its_own_normal_form(text: str) -> None:
    assert is_quantity(text)
    assert canonical(canonical(text)) == canonical(text)
