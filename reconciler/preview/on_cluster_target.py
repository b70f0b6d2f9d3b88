"""What one cluster of the config gets of a tree, in addition to KServe's verdict: `render` and `validate` for it.

Nothing is asked. What the API server and its webhooks say, and which GPUs are free, only `plan` can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.cluster.objects.confidential import HIDDEN
from reconciler.cluster.objects.ignore import is_secret
from reconciler.cluster.objects.options import options_of
from reconciler.cluster.objects.order import Ordered, apply_order
from reconciler.cluster.policy import policy_of
from reconciler.cluster.rollout.drain import DrainSettings
from reconciler.cluster.service_plan import Version, drain_of
from reconciler.config.settings import ClusterSettings
from reconciler.desired import build_cluster_desired
from reconciler.desired.origins import locator
from reconciler.manifests import Manifests
from reconciler.model import Desired, DesiredObject, DesiredState, Reason, Snapshot
from reconciler.preview import on_cluster
from reconciler.preview.on_cluster import Document, finding_of
from reconciler.report.redact import scrub
from reconciler.secrets import SecretSources


def validate_on_cluster(manifests: Manifests, target: ClusterSettings) -> Document:
    """The document of `validate`, with what this target would not apply, and what it would warn of."""
    wanted = _look(manifests, target)
    place = on_cluster.RenderContext(target.default_namespace)
    verdict = on_cluster.validate(manifests, place, locator(manifests, target.default_namespace))
    errors = _merged(verdict["errors"], _refused(wanted))
    warnings = _merged(verdict["warnings"], _warnings(wanted))
    # What only KServe does not know is applied as well.
    return on_cluster.verdict_of(errors, warnings, verdict["notChecked"])


def render_on_cluster(manifests: Manifests, target: ClusterSettings) -> Document:
    """The document of `render`, with every object as it is applied where nothing of it is there yet."""
    wanted = _look(manifests, target)
    place = on_cluster.RenderContext(target.default_namespace)
    document = on_cluster.render(manifests, place)
    services = {one.id: one for one in wanted.services}
    drain = policy_of(target).drain
    document["objects"] = [
        _object(one, services.get(one.service) if one.service else None, drain) for one in wanted.objects
    ]
    document["errors"] = _merged(document["errors"], _refused(wanted))
    return document


def _look(manifests: Manifests, target: ClusterSettings) -> DesiredState:
    store = SecretSources(target).load(manifests)
    return build_cluster_desired(manifests, target, Snapshot("", ()), secrets=store)


def _object(one: DesiredObject, service: Desired | None, settings: DrainSettings | None) -> Document:
    body: Mapping[str, Any] = one.body
    added: tuple[Reason, ...] = ()
    if service is not None:
        drain = drain_of(one, service, settings)
        body, added = Version.of(one, drain.additions).wanted.body, drain.added
    shown: Document = {"origin": str(one.origin), "object": scrub(_without_values(one, body))}
    return shown | ({"added": [reason.message for reason in added]} if added else {})


def _without_values(one: DesiredObject, body: Mapping[str, Any]) -> Document:
    """A Secret's keys, and none of its values."""
    if not is_secret(one.id):
        return dict(body)
    parts = {part: dict.fromkeys(body[part], HIDDEN) for part in ("data", "stringData") if body.get(part)}
    return {**body, **parts}


def _refused(wanted: DesiredState) -> Iterator[Reason]:
    yield from wanted.refused
    for service in wanted.services:
        yield from service.problems
    ordered = [(one, options_of(one)) for one in wanted.objects]
    order = apply_order(Ordered(one.id, found.wave, found.depends_on, one.origin) for one, found in ordered)
    yield from order.blocked.values()


def _warnings(wanted: DesiredState) -> Iterator[Reason]:
    for service in wanted.services:
        yield from service.warnings
    for one in wanted.objects:
        yield from options_of(one).warnings


def _merged(known: list[Document], more: Iterator[Reason]) -> list[Document]:
    found = [finding_of(reason) for reason in more if reason.origin]
    return on_cluster.in_order([*known, *(each for each in _unique(found) if each not in known)])


def _unique(findings: list[Document]) -> list[Document]:
    unique: list[Document] = []
    for each in findings:
        if each not in unique:
            unique.append(each)
    return unique
