"""A daemon in one small document: what others show of it in a row of their Overview, and how they read it. Pure.

Never a word about its own peers: daemons that show each other ask no further. Nothing in it changes with the time
alone, so that an answer which was seen before need not be sent again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.model import HealthStatus
from reconciler.page.attention import attention
from reconciler.report.convergence import is_elsewhere, services
from reconciler.report.status import Document

SCHEMA = "reconciler.page.summary/v1"
ADDRESS = "/summary"

_MOST_NAMES = 20
_MOST = 10**9
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_REVISION = re.compile(r"[0-9a-f]{7,64}")
_FAMILY, _NUMBER = SCHEMA.rsplit("/v", 1)


def summary_document(status: Document) -> Document:
    """What others show of the daemon with this status. Services that are for other hosts are theirs to tell."""
    targets = status["targets"]
    health = Counter(one["health"]["status"] for _, one in services(status) if not is_elsewhere(one))
    return {
        "schema": SCHEMA,
        "version": status["daemon"]["version"],
        "revision": {
            "desired": status["revision"]["desired"],
            "fullyApplied": status["revision"]["fullyApplied"],
        },
        "targets": {
            "total": len(targets),
            "reachable": sum(bool(one["reachable"]) for one in targets),
            "names": sorted(one["name"] for one in targets)[:_MOST_NAMES],
        },
        "services": {name.value: health[name.value] for name in HealthStatus if health[name.value]},
        "gpus": {state: _sum(one["gpus"][state] for one in targets) for state in ("leased", "total")},
        "attention": len(attention(status)),
    }


@dataclass(frozen=True, slots=True)
class Summary:
    """What a peer says of itself, as far as it is understood. None: it does not say, as an older one may not.

    `services`: by HealthStatus; what a newer peer calls otherwise counts as Unknown. `names`: of its first targets.
    """

    version: str = ""
    revision: str = ""
    fully_applied: bool | None = None
    targets: int | None = None
    reachable: int | None = None
    names: tuple[str, ...] = ()
    services: Mapping[str, int] | None = None
    leased: int | None = None
    gpus: int | None = None
    attention: int | None = None

    @property
    def document(self) -> Document:
        """As `summary_document` gives it."""
        return {
            "version": self.version,
            "revision": {"desired": self.revision, "fullyApplied": self.fully_applied},
            "targets": {"total": self.targets, "reachable": self.reachable, "names": list(self.names)},
            "services": None if self.services is None else dict(self.services),
            "gpus": {"leased": self.leased, "total": self.gpus},
            "attention": self.attention,
        }


def read_summary(body: object) -> Summary:
    """What a peer has sent, which may be anything. Raises ValueError where it is no summary that we understand."""
    said = _object(body)
    schema = said.get("schema")
    if schema != SCHEMA:
        raise ValueError(_misfit(schema))
    revision, targets, gpus = (_object(said.get(key)) for key in ("revision", "targets", "gpus"))
    applied = revision.get("fullyApplied")
    return Summary(
        version=_text(said.get("version"), _VERSION),
        revision=_text(revision.get("desired"), _REVISION),
        fully_applied=applied if isinstance(applied, bool) else None,
        targets=_count(targets.get("total")),
        reachable=_count(targets.get("reachable")),
        names=_names(targets.get("names")),
        services=_by_health(said.get("services")),
        leased=_count(gpus.get("leased")),
        gpus=_count(gpus.get("total")),
        attention=_count(said.get("attention")),
    )


def _misfit(schema: object) -> str:
    family, _, number = schema.rpartition("/v") if isinstance(schema, str) else ("", "", "")
    if family == _FAMILY and number.isascii() and number.isdigit() and len(number) < 4:
        return f"it speaks version {number} of the summary, and this daemon version {_NUMBER}: update the older one"
    return "what answers is not a reconciler: no summary came"


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object, form: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and form.fullmatch(value) else ""


def _count(value: object) -> int | None:
    """No bool, and no number with which nobody could reckon."""
    return value if type(value) is int and 0 <= value <= _MOST else None


def _names(value: object) -> tuple[str, ...]:
    found = value if isinstance(value, list) else []
    return tuple(filter(None, (_text(one, _NAME) for one in found[:_MOST_NAMES])))


def _by_health(value: object) -> Mapping[str, int] | None:
    if not isinstance(value, dict):
        return None
    known = {status.value for status in HealthStatus}
    counts: Counter[str] = Counter()
    for name, number in value.items():
        counts[name if name in known else HealthStatus.UNKNOWN.value] += _count(number) or 0
    return {status.value: counts[status.value] for status in HealthStatus if counts[status.value]}


def _sum(numbers: Iterable[int | None]) -> int:
    """Those that are not known do not count."""
    return sum(number for number in numbers if number is not None)
