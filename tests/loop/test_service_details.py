"""What the page of a service shows of a real daemon beside the status: what is started, its log, its rollout."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.loop.service_details import _written
from tests.support.engine.server import spec_of
from tests.support.light_rig import LightRig
from tests.support.report_world import desired

pytestmark = pytest.mark.slow
SECRET = "hf_abcdefghijklmnopqrst"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    tiny = rig.read("demo/tiny.yaml")
    container = tiny.replace("      args:", f"      env: [{{name: HF_TOKEN, value: {SECRET}}}]\n      args:")
    assert container != tiny
    rig.write({"demo/tiny.yaml": container})
    rig.start()
    rig.settle()
    yield rig
    rig.close()


def page(rig: LightRig) -> dict[str, Any]:
    listen = yaml.safe_load(rig.config.read_text())["web"]["listen"]
    asked = urllib.request.Request(
        f"http://{listen}/services/demo/default/tiny", headers={"Accept": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_page_shows_what_render_shows_and_no_secret(rig: LightRig) -> None:
    found = page(rig)
    paths = (str(rig.clone / "runtimes"), str(rig.clone / "demo"))
    rendered = json.loads(rig.ask("render", *paths, "--target", "demo", "-o", "json").stdout)
    (host,) = (one["host"] for one in rendered["services"])
    workload = found["workload"]
    assert (workload["argv"], workload["env"]) == (host["argv"], host["env"])
    assert workload["env"]["HF_TOKEN"] == "***"
    assert SECRET not in json.dumps(found)
    written = {one["text"]: (one["file"], one["line"]) for one in workload["arguments"]}
    file, line = written["--max-model-len=256"]
    assert "--max-model-len=256" in (rig.clone / file).read_text().splitlines()[line - 1]


def test_name_of_a_model_that_is_a_secret_is_not_shown() -> None:
    written = _written(desired(), spec_of("--served-model-name", "tiny", f"x?token={SECRET}"))
    assert written["models"] == ["tiny", "x?token=***"]
    assert SECRET not in json.dumps(written)


def test_finished_rollout_has_the_times_of_its_stages(rig: LightRig) -> None:
    found = page(rig)
    stages = {one["name"]: one for one in found["service"]["stages"]}
    assert {one["state"] for one in stages.values()} == {"done"}
    times = [stages[name]["at"] for name in ("started", "first token", "promoted")]
    assert times == sorted(times)
    assert "service_promoted" in [one["event"] for one in found["history"]]
    assert found["log"]["fault"] == ""


def test_open_leads_to_the_page(rig: LightRig) -> None:
    url = rig.ask("open", "tiny").stdout.strip()
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert b"<h1>default/tiny" in answer.read()


def test_every_command_of_the_page_reaches_the_model(rig: LightRig) -> None:
    ways = page(rig)["endpoints"]["ways"]
    assert [one["name"] for one in ways] == ["By model", "By path", "By host name"]
    for way in ways:
        done = subprocess.run(["bash", "-c", way["command"]], capture_output=True, text=True, timeout=30)
        assert "choices" in json.loads(done.stdout), (way, done.stdout, done.stderr)
