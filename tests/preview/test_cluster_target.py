"""`render` and `validate` for a cluster of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from reconciler.config.settings import ClusterSettings
from reconciler.manifests import read_paths
from reconciler.preview.on_cluster_target import render_on_cluster, validate_on_cluster

LAYOUT = Path(__file__).parents[2] / "repo_layout"
TARGET = ClusterSettings.model_validate({"name": "prod", "kind": "kubernetes", "paths": ["prod"]})
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "s"},
    "stringData": {"key": "a-very-secret-value"},
}


def write(folder: Path, *documents: Any) -> tuple[Path, ...]:
    path = folder / "a.yaml"
    path.write_text("---\n".join(yaml.safe_dump(each, sort_keys=False) for each in documents))
    return (path,)


def test_rendered_service_shows_what_is_added_to_it() -> None:
    document = render_on_cluster(read_paths((LAYOUT / "demo", LAYOUT / "runtimes")), TARGET)

    objects = {one["object"]["kind"]: one for one in document["objects"]}
    predictor = objects["InferenceService"]["object"]["spec"]["predictor"]
    assert "--shutdown-timeout=120" in predictor["model"]["args"]
    assert predictor["terminationGracePeriodSeconds"] == 150
    assert len(objects["InferenceService"]["added"]) == 3
    assert "added" not in objects["ServingRuntime"]


def test_rendered_objects_are_of_any_kind_and_show_no_secret(tmp_path: Path) -> None:
    other = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"a": 1}}

    document = render_on_cluster(read_paths(write(tmp_path, other, SECRET)), TARGET)

    assert {one["object"]["kind"] for one in document["objects"]} == {"Thing", "Secret"}
    assert "a-very-secret-value" not in str(document)


def test_circular_dependency_is_an_error_at_its_line(tmp_path: Path) -> None:
    def thing(name: str, other: str) -> dict[str, Any]:
        needs = {"config.kubernetes.io/depends-on": f"/namespaces/default/ConfigMap/{other}"}
        metadata = {"name": name, "namespace": "default", "annotations": needs}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    document = validate_on_cluster(read_paths(write(tmp_path, thing("a", "b"), thing("b", "a"))), TARGET)

    assert {one["line"] for one in document["errors"]} == {1, 9}
    assert all("circle" in one["message"] for one in document["errors"])
