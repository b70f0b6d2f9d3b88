"""What others see of the replicas: Prometheus their metrics, and git their end when it stops a service."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

STOP = "serving.kserve.io/stop"


def test_prometheus_finds_the_metrics_of_every_replica_until_it_stops(rig: Rig):
    (group,) = discovered(rig)
    labels = group["labels"]
    assert (labels["target"], labels["namespace"], labels["service"]) == ("demo", "default", "tiny")
    assert group["targets"] == [f"127.0.0.1:{rig.web}"]
    said = fetch(f"http://{group['targets'][0]}{labels['__metrics_path__']}").decode()
    assert "vllm:num_requests_running" in said

    service = rig.read("demo/tiny.yaml")
    stopped = service.replace("  annotations:\n", f"  annotations:\n    {STOP}: 'true'\n", 1)
    assert stopped != service
    with rig.load(streams=1, posts=1) as load:
        rig.write({"demo/tiny.yaml": stopped})
        rig.converge()
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert rig.records() == []
    assert discovered(rig) == []
    status = rig.service()
    assert (status["sync"], status["health"]["status"]) == ("Synced", "Suspended")

    rig.write({"demo/tiny.yaml": service})
    rig.converge()
    assert rig.serves()
    assert len(discovered(rig)) == 1


def discovered(rig: Rig) -> list[dict]:
    return json.loads(fetch(f"http://127.0.0.1:{rig.web}/prometheus/sd"))


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()
