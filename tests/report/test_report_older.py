"""A daemon that was started before the package was upgraded stays readable until it is restarted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reconciler.report.convergence import convergence_of
from reconciler.report.older import completed
from reconciler.report.text import Changes, status_blocks
from tests.support.report_world import TINY, observed, owned, replica, report, status_of

OLDEST = Path(__file__).parents[1] / "data" / "status_of_an_older_daemon.json"
"""The status of the daemon of commit a214662 for this very state.

Never changed; only older ones are added next to it.
"""


def shape(value: Any) -> Any:
    """The keys, all the way down."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def world() -> dict[str, Any]:
    return status_of(report(observed=observed(replica(), owned={TINY: owned()}, gpus=1)))


def test_status_of_an_older_daemon_is_completed_and_read() -> None:
    old = completed(json.loads(OLDEST.read_text()))
    now = json.loads(json.dumps(world()))
    (before,), (after,) = (one["targets"][0]["services"] for one in (old, now))
    assert (before["promoted"], before["stages"]) == (None, []), "unknown"
    after |= {"promoted": None, "stages": []}
    assert shape(old) == shape(now) | {"daemon": shape(old["daemon"])}
    assert old["schema"] == now["schema"]
    assert old["revision"]["desired"] == old["targets"][0]["revision"]["desired"] == "4f1c2ab0".ljust(40, "0")
    assert old["revision"]["fullyApplied"] is None, "unknown"
    assert list(status_blocks(old, wide=True, detail=True))
    assert convergence_of(old).converged
    assert Changes().since_last(old)


def test_status_of_this_daemon_needs_no_completion() -> None:
    assert completed(world()) == world()


def test_keys_of_v1_are_read_by_their_names_in_v2() -> None:
    old = json.loads(OLDEST.read_text())
    (service,) = old["targets"][0]["services"]
    service |= {"rejected": {"lastWords": ["usage: vllm"]}, "canary": {"percent": 5, "wantedPercent": 20}}
    service["replicas"][0]["silence"] = "/health did not answer within 5 s"
    old["targets"][0]["proxyBreak"] = "Hung"
    target = completed(old)["targets"][0]
    assert (target["proxyFault"], "proxyBreak" in target) == ("Hung", False)
    (service,) = target["services"]
    assert service["rejected"] == {"logTail": ["usage: vllm"]}
    assert service["canary"] == {"percent": 5, "desiredPercent": 20}
    assert service["replicas"][0]["unresponsive"] == "/health did not answer within 5 s"
