"""A daemon that serves what kustomize builds: real git, a real build, engines in name only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.manifests.test_kustomize import kubectl  # noqa: F401
from tests.support.light_rig import LightRig

pytestmark = pytest.mark.slow

FILE = "demo/kustomization.yaml"
PATCH = """\
resources: [tiny.yaml]
commonAnnotations: {team: chat}
patches:
- target: {kind: InferenceService}
  patch: '[{"op": "replace", "path": "/spec/predictor/model/resources/requests/memory", "value": "17Mi"}]'
"""


@pytest.mark.usefixtures("kubectl")
def test_overlay_rolls_out_and_a_broken_one_keeps_what_serves(tmp_path: Path) -> None:
    rig = LightRig(tmp_path)
    try:
        rig.start()
        rig.settle()
        first = rig.pids()
        rig.write({FILE: "resources: [tiny.yaml]\n"})
        rig.settle()
        assert rig.pids() == first, "what only lists files changes nothing"
        with rig.requests() as codes:
            rig.write({FILE: PATCH})
            rig.settle()
            second = rig.pids()
            assert not second & first
            revision = rig.write({FILE: PATCH.replace("tiny.yaml", "lost.yaml")})
            rig.wait("the broken revision to be followed", lambda: rig.is_applied(revision))
            assert rig.pids() == second
            (reason,) = rig.status()["targets"][0]["unreadable"]  # type: ignore[index]
            assert (reason["file"], reason["line"]) == (FILE, 1)
            rig.write({FILE: PATCH})
            rig.settle()
            assert rig.pids() == second
            # What a kustomization covered was not read: it is read now, and is not taken for empty.
            rig.write({FILE: "resources: [lost.yaml]\n"})
            rig.wait("it to be refused", lambda: rig.status()["targets"][0]["unreadable"])  # type: ignore[index]
            rig.write({FILE: None})
            rig.settle()
        assert {*codes} == {200}
    finally:
        rig.close()
