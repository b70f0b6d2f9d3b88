"""Conditions of one service on one host, as far as git and the config show them:

they decide rows of the support table.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.config.listen import parse_listen
from reconciler.config.settings import TargetSettings
from reconciler.desired.metrics import is_scraped_port
from reconciler.desired.origins import Origins, at
from reconciler.desired.serving_options import is_stopped, may_have_none, wants_passthrough
from reconciler.desired.support import Fact
from reconciler.engines.arguments import ends_tls
from reconciler.engines.launch import asks_for_key
from reconciler.errors import SettingsError
from reconciler.formats import json_values
from reconciler.kserve.resolve import Resolved
from reconciler.kserve.validation import is_decrypted
from reconciler.model import GPU, EffectiveSpec

_ACCELERATORS = "opendatahub.io/recommended-accelerators"


@dataclass(frozen=True, slots=True)
class Case:
    """One service, resolved for one host."""

    origins: Origins
    resolved: Resolved
    container: Mapping[str, Any]
    spec: EffectiveSpec
    replicas: int
    target: TargetSettings


def known_facts(case: Case) -> frozenset[Fact]:
    """What certainly holds. With `gpus: auto` it is unknown here which GPUs exist: then that condition holds too."""
    return frozenset(_facts(case))


def depends_on_gpus(case: Case) -> bool:
    """Does a fact hold only if the host turns out to have a GPU?"""
    return case.target.gpus == "auto" and GPU in (_recommended(case.origins) or ())


def _facts(case: Case) -> Iterator[Fact]:
    predictor = at(case.origins.service, ("spec", "predictor"))
    highest = predictor.get("maxReplicas")
    if predictor.get("minReplicas") != 0 or may_have_none(case.origins.service) or is_stopped(case.origins.service):
        yield Fact.COUNTED
    if not isinstance(highest, int) or highest <= max(case.replicas, 1):
        yield Fact.FIXED_SCALE
    canaries = at(case.origins.service, ("spec",)).get("canary")
    if not isinstance(canaries, list) or len(canaries) <= 1:
        yield Fact.ONE_CANARY
    has_tls = ends_tls(case.spec.command_line)
    if has_tls:
        yield Fact.TLS
    if asks_for_key(case.spec) and not (has_tls and wants_passthrough(case.origins.service)):
        yield Fact.AUTH
    if is_scraped_port(case.resolved.pod, case.container, case.spec):
        yield Fact.SCRAPED_PORT
    if not is_decrypted(case.resolved.defaulted):
        yield Fact.NOT_ENCRYPTED
    if _is_loopback(case.target.routing.listen):
        yield Fact.PRIVATE
    recommended = _recommended(case.origins)
    if recommended is None or (GPU in recommended and case.target.gpus != ()):
        yield Fact.ACCELERATOR


def _recommended(origins: Origins) -> frozenset[str] | None:
    """Kinds of accelerator that the runtime is meant for; None where it says nothing that can be read."""
    if origins.runtime is None:
        return None
    try:
        kinds = json_values.loads(str(at(origins.runtime, ("metadata", "annotations")).get(_ACCELERATORS)))
    except (ValueError, RecursionError):
        return None
    named = frozenset(kind for kind in kinds if isinstance(kind, str)) if isinstance(kinds, list) else frozenset()
    return named or None


def _is_loopback(listen: str) -> bool:
    try:
        return ipaddress.ip_address(parse_listen(listen)[0]).is_loopback
    except SettingsError:
        return False
