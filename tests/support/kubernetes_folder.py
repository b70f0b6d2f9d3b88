"""deploy/kubernetes/ as its users build it: in a kustomization of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

BASE = Path(__file__).parents[2] / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (BASE / "components").iterdir())


def build(kubectl: str | Path, folder: Path, components: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects, with these components; kustomize must have nothing to complain about."""
    shutil.copytree(BASE, folder / "kubernetes")
    (folder / "mine").mkdir()
    found = {"resources": ["../kubernetes"], "components": [f"../kubernetes/components/{name}" for name in components]}
    (folder / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(found))
    command = [str(kubectl), "kustomize", str(folder / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))
