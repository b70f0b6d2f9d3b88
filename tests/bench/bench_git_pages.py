"""What the pages of git cost: a commit that changes a thousand services, and a tree of twenty thousand files.

Prints JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace

from reconciler.forge.remote import Remote
from reconciler.loop.page_facts import _planned
from reconciler.model import File, Origin, ServiceId, Snapshot, Sync
from reconciler.page.change import ChangeFacts, change_document
from reconciler.page.links import ForgeLinks
from reconciler.page.repository import TargetTree, TreeFilter, repository_document, target_tree
from reconciler.report.status import TargetReport
from tests.bench.bench_page import make_html, median_ms
from tests.support.arguments import written
from tests.support.report_world import (
    NEW,
    OLD,
    REVISION,
    SPEC,
    desired,
    observed,
    planned,
    replica,
    report,
    state,
    status_of,
    verdict,
)

LINKS = ForgeLinks(Remote("github", "https://api.github.com", "github.com", "team/models"))


def make_report(count: int) -> TargetReport:
    """Every service gets another argument from its runtime."""
    ids = [ServiceId("demo", f"service-{number:05}") for number in range(count)]
    args = written("--port=8080", "--max-model-len=256", "--seed=1")
    spec = replace(SPEC, args=tuple(replace(one, origin=Origin("runtimes/vllm.yaml", 9)) for one in args))
    wanted = state(*(desired(one, NEW, spec=spec) for one in ids))
    running = observed(*(replica(one, OLD) for one in ids))
    return report(desired=wanted, observed=running, plan=planned(*(verdict(one, Sync.OUT_OF_SYNC) for one in ids)))


def measure(services: int, files: int) -> dict[str, float]:
    target = make_report(services)
    status = status_of(target)
    facts = ChangeFacts(REVISION, status, _planned(status, [target]))
    change = change_document(facts, LINKS)
    snapshot = Snapshot(REVISION, tuple(File(f"hosts/a/{number:05}.yaml", "0" * 40, b"") for number in range(files)))
    empty = TargetTree("a", "host", REVISION, ("runtimes", "hosts/a"), ())
    tree = target_tree(empty, snapshot, target.desired, target.plan)
    shown = TreeFilter(text="service-0")
    repository = repository_document([tree], shown, LINKS, status)
    figures = {
        f"change_{services}_services_plan": median_ms(lambda: _planned(status, [target]), 5),
        f"change_{services}_services_document": median_ms(lambda: change_document(facts, LINKS)),
        f"change_{services}_services_html": median_ms(lambda: make_html("change", change)),
        # Once for each revision and pass that leaves something else behind.
        f"repository_{files}_files_tree": median_ms(
            lambda: target_tree(empty, snapshot, target.desired, target.plan), 5
        ),
        f"repository_{files}_files_document": median_ms(lambda: repository_document([tree], shown, LINKS, status)),
        f"repository_{files}_files_html": median_ms(lambda: make_html("repository", repository)),
    }
    return {f"page_{name}_ms": value for name, value in figures.items()}


if __name__ == "__main__":
    print(json.dumps(measure(1_000, 20_000)))
