"""What Prometheus is offered: where the replicas are, and alerts about metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CONTENT_TYPE_LATEST

from reconciler.config.settings import Web
from reconciler.model import HealthStatus, Lease, ReplicaId, Sync
from reconciler.report.status import Document
from reconciler.web.metrics import Metrics, find_replica, scrape_targets
from reconciler.web.monitoring import DISCOVERY
from reconciler.web.server import WebSide
from reconciler.web.webhooks.routes import WebhookResult
from tests.page.other_site import other_site
from tests.support.report_world import NEW, OLD, TINY, desired, observed, replica, report, state, status_of
from tests.web.fake_loop import FakeLoop
from tests.web.test_pages import get

DEPLOY = Path(__file__).parents[2] / "deploy" / "systemd"
LABEL = re.compile(r"(__)?[a-zA-Z][a-zA-Z0-9_]*")


def targets(*reports: Any) -> list[Document]:
    return scrape_targets(status_of(*reports), "127.0.0.1:9464")


def test_every_replica_that_answers_is_listed_as_prometheus_reads_it() -> None:
    found = targets(report(observed=observed(replica(), replica(number=2, draining_at=150.0))))
    assert [group["targets"] for group in found] == [["127.0.0.1:9464"], ["127.0.0.1:9464"]]
    assert found[0]["labels"] == {
        "target": "a",
        "namespace": "demo",
        "service": "tiny",
        "replica": f"{OLD[:8]}-1",
        "__metrics_path__": f"/prometheus/replicas/a/demo.tiny.{OLD[:8]}-1",
        "__scheme__": "http",
    }
    # What its documentation asks for: a list of groups, each with a list of addresses and text labels.
    for group in json.loads(json.dumps(found)):
        assert group.keys() == {"targets", "labels"}
        assert all(re.fullmatch(r"[\w.]+:\d+", address) for address in group["targets"])
        assert all(LABEL.fullmatch(key) and isinstance(text, str) for key, text in group["labels"].items())


def test_replica_that_cannot_answer_is_not_listed() -> None:
    starting = replica(number=2, ready_at=None, ready_now=False)
    dead = replica(number=3, alive=False)
    assert len(targets(report(observed=observed(replica(), starting, dead)))) == 1


def test_annotations_move_the_path_and_leave_services_out() -> None:
    moved = report(desired=state(desired(metrics_path="/m")))
    found = find_replica(status_of(moved), targets(moved)[0]["labels"]["__metrics_path__"])
    assert found is not None
    assert found[1] == "/m"
    assert targets(report(desired=state(desired(metrics_path=None)))) == []


def test_what_drains_after_git_forgot_it_is_still_measured() -> None:
    assert len(targets(report(desired=state()))) == 1


def test_two_versions_of_a_service_are_told_apart_by_their_replica_alone() -> None:
    other = replica(digest=NEW, id=ReplicaId(TINY, f"{NEW[:8]}-1"), lease=Lease(20007))
    one, two = targets(report(observed=observed(replica(), other)))
    different = {key for key in one["labels"] if one["labels"][key] != two["labels"][key]}
    assert different == {"replica", "__metrics_path__"}


@pytest.mark.parametrize(
    ("kind", "is_kept"),
    [
        ("text/plain; version=0.0.4; charset=utf-8", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("text/plain", True),
        ("text/plain, text/html", False),
        ("text/plain;a=b,text/html", False),
        ("text/plainer", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_metrics_of_a_replica_are_no_page_of_ours(kind: str, is_kept: bool, web: WebSide, loop: FakeLoop) -> None:
    """Whoever opens them would lend the model's code all that they may here."""
    with other_site({"/metrics": (kind, "<script>alert(1)</script>")}) as address:
        serving = observed(replica(lease=Lease(int(address.rpartition(":")[2]))))
        loop.document = status_of(report(observed=serving))
        path = scrape_targets(loop.document, "x")[0]["labels"]["__metrics_path__"]
        response, text = get(web, path)
    assert (response.status, text) == (200, "<script>alert(1)</script>")
    assert response.headers["content-type"] == (kind if is_kept else CONTENT_TYPE_LATEST)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"


# ---------------------------------------------------------------- files to copy

RULES = yaml.safe_load((DEPLOY / "reconciler.rules.yml").read_text())["groups"][0]["rules"]
SELECTOR = re.compile(r"\b(reconciler_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
VALUES = {
    "health_status": set(HealthStatus),
    "sync_status": set(Sync),
    "fate": {"drained", "lost", "refused"},
    "result": set(WebhookResult),
}


def exposed() -> dict[str, set[str]]:
    """Every metric that the daemon can expose, with its labels."""
    metrics = Metrics()
    metrics.count_action("a", "start", "done")
    metrics.expect_webhook("forge", WebhookResult)
    found: dict[str, set[str]] = {}
    waiting = [{"destination": "forge", "count": 1, "since": None, "error": "away"}]
    forge = {"waiting": waiting, "dead": [], "deadCount": 0, "error": ""}
    status = status_of(report()) | {"forge": forge, "peers": [{"name": "b", "reachable": True}]}
    for line in metrics.text(status).decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()  # type: ignore[union-attr]
            found[name] = set(re.findall(r'(\w+)="', labels or ""))
    return found


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_asks_for_metrics_labels_and_values_that_exist(rule: Any) -> None:
    known, selectors = exposed(), SELECTOR.findall(rule["expr"])
    assert selectors or rule["expr"].startswith('up{job="reconciler"}')
    labels = {"instance"}
    for name, matchers in selectors:
        assert name in known
        labels |= known[name]
        for label, _, values in MATCHER.findall(matchers):
            assert label in known[name]
            assert set(values.split("|")) <= VALUES[label]
    shown = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
    assert set(shown) <= labels


def test_every_state_that_needs_a_person_has_an_alert() -> None:
    asked = " ".join(rule["expr"] for rule in RULES)
    for part in (
        'health_status="Degraded"',
        "reconciler_blocked",
        "reconciler_quarantined",
        "reconciler_source_ready",
        "reconciler_target_reachable",
        'fate="lost"',
        "reconciler_webhook_requests_total",
        "reconciler_destination_ready",
        "reconciler_peer_up",
    ):
        assert part in asked
    assert all(rule["labels"]["severity"] in ("critical", "warning", "info") for rule in RULES)


def test_scrape_example_names_our_addresses_and_rules() -> None:
    example = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in example["scrape_configs"]}
    address = Web().listen
    assert jobs["reconciler"]["static_configs"][0]["targets"] == [address]
    assert jobs["models"]["http_sd_configs"][0]["url"] == f"http://{address}{DISCOVERY}"
    assert example["rule_files"] == ["reconciler.rules.yml"]
