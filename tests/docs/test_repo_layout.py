"""The repository that users copy is good as it stands."""

from __future__ import annotations

from pathlib import Path

from reconciler.manifests import read_paths
from reconciler.preview.on_cluster import validate

LAYOUT = Path(__file__).parents[2] / "repo_layout"


def test_layout_is_valid_and_warns_only_of_what_is_not_in_git():
    verdict = validate(read_paths([LAYOUT]))
    assert verdict["errors"] == []
    assert [warning["message"] for warning in verdict["warnings"]] == [
        'the pod is refused: can\'t read storage secret storage-config: secrets "storage-config" not found'
    ]


def test_host_file_stands_in_every_folder_of_a_host():
    for folder in (LAYOUT / "demo", *(LAYOUT / "hosts").iterdir()):
        assert (folder / "host.yaml").is_file(), folder
