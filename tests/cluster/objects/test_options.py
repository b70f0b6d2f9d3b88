"""What annotations ask for, and paths as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.options import Options, is_prunable, options_of
from reconciler.cluster.objects.paths import EVERY, Item, parse_path, split_paths
from reconciler.model import ObjectId, Origin, ReasonCode
from tests.cluster.objects.parts import config_map, desired


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("spec.replicas", ("spec", "replicas")),
        ("spec.containers[name=x].image", ("spec", "containers", Item((("name", "x"),)), "image")),
        ("ports[port=53,protocol=UDP]", ("ports", Item((("port", "53"), ("protocol", "UDP"))))),
        ("containers[*].env[*]", ("containers", EVERY, "env", EVERY)),
        ('metadata.annotations["a.b/c"]', ("metadata", "annotations", "a.b/c")),
        ('["a.b"].c', ("a.b", "c")),
    ],
)
def test_path_as_people_write_it_is_understood(text: str, path: object) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "a.", "a[", "a[]", "a[x]", "a[=x]", "[*].b", "a b", "a]b", "a[0]", "x" * 2_001, 'a["b', "a[*]b"],
)
def test_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|write"):
        parse_path(text)


@pytest.mark.parametrize("text", ["apiVersion", "kind", "metadata", "metadata.name", 'metadata["namespace"]'])
def test_path_of_what_an_object_is_cannot_be_ignored(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be ignored"):
        parse_path(text)


@given(st.text("abc.[]=*\",' {}", max_size=30))
def test_path_of_any_text_is_understood_or_refused(text: str) -> None:
    for part in split_paths(text):
        try:
            assert parse_path(part)
        except ValueError:
            continue


def test_paths_are_split_at_commas_outside_of_brackets() -> None:
    assert split_paths("a.b, c[x=1,y=2].d ,,e") == ["a.b", "c[x=1,y=2].d", "e"]


@pytest.mark.parametrize(
    ("annotations", "options"),
    [
        ({}, Options()),
        ({"reconciler/force-conflicts": "true"}, Options(force_conflicts=True)),
        ({"reconciler/force-conflicts": "false"}, Options()),
        ({"reconciler/prune": "disabled"}, Options(prune=False)),
        ({"reconciler/prune": "enabled"}, Options()),
        ({"kustomize.toolkit.fluxcd.io/prune": "disabled"}, Options(prune=False)),
        ({"kustomize.toolkit.fluxcd.io/prune": "enabled"}, Options()),
        ({"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}, Options(reconciles=False)),
        ({"argocd.argoproj.io/sync-options": "ServerSideApply=true, Prune=false"}, Options(prune=False)),
        ({"argocd.argoproj.io/sync-options": "Prune=confirm"}, Options(prune=False)),
        ({"argocd.argoproj.io/sync-options": "Prune=true"}, Options()),
        ({"argocd.argoproj.io/sync-wave": "-5"}, Options(wave=-5)),
        ({"reconciler/ignore": "spec.replicas"}, Options(ignore=(("spec", "replicas"),))),
        (
            {"config.kubernetes.io/depends-on": "apps/namespaces/db/StatefulSet/pg, /Namespace/db"},
            Options(
                depends_on=(ObjectId("apps", "StatefulSet", "db", "pg"), ObjectId("", "Namespace", "", "db")),
            ),
        ),
    ],
)
def test_options_of_annotations_are_honoured(annotations: dict[str, str], options: Options) -> None:
    assert options_of(desired(config_map(**annotations))) == options


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("reconciler/force-conflicts", "yes"),
        ("reconciler/prune", "false"),
        ("reconciler/ignore", "spec..replicas"),
        ("reconciler/ignore", "metadata.name"),
        ("reconciler/ignore", "a," * 4_000),
        ("argocd.argoproj.io/sync-wave", "first"),
        ("argocd.argoproj.io/sync-wave", "1" * 30),
        ("config.kubernetes.io/depends-on", "Deployment/web"),
        ("config.kubernetes.io/depends-on", "apps/namespaces//Deployment/web"),
    ],
)
def test_options_of_bad_values_are_a_warning_at_their_line(annotation: str, value: str) -> None:
    lines = (1, (1, 2, (3, (4, 5, (6, (7,))))))
    found = options_of(desired(config_map(**{annotation: value}), lines=lines))
    [warning] = found.warnings
    assert warning.code is ReasonCode.INVALID_ANNOTATION
    assert warning.origin == Origin("models/web.yaml", 7)
    assert annotation in warning.message
    assert len(warning.message) < 400
    assert found == Options(warnings=found.warnings)


def test_options_of_annotations_that_are_no_text_are_none() -> None:
    body = config_map() | {"metadata": {"name": "x", "annotations": {"reconciler/prune": True, "a": None}}}
    assert options_of(desired(body)) == Options()
    assert is_prunable({"metadata": {"annotations": ["x"]}})
    assert is_prunable({"metadata": None})
