"""What reading gives: manifests, what a `Host` document says, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from reconciler.formats.spelling import nearest
from reconciler.formats.strict_yaml import FieldPath, Lines, find, line_at
from reconciler.model import Bug, Origin, Reason, ReasonCode

OUR_API = "reconciler/v1alpha1"
SETTINGS = "inferenceservice-config"
"""The ConfigMap with KServe's own settings."""

# Kinds that mean something to us, with the API versions we read.
KNOWN_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "InferenceService": ("serving.kserve.io/v1beta1",),
    "ServingRuntime": ("serving.kserve.io/v1alpha1",),
    "ClusterServingRuntime": ("serving.kserve.io/v1alpha1",),
    "ClusterStorageContainer": ("serving.kserve.io/v1alpha1",),
    "LocalModelCache": ("serving.kserve.io/v1alpha1",),
    "LocalModelNamespaceCache": ("serving.kserve.io/v1alpha1",),
    "LLMInferenceService": ("serving.kserve.io/v1alpha1", "serving.kserve.io/v1alpha2"),
    "ConfigMap": ("v1",),
    "Secret": ("v1",),
    "ServiceAccount": ("v1",),
    "HardwareProfile": (
        "infrastructure.opendatahub.io/v1",
        "infrastructure.opendatahub.io/v1alpha1",
        "dashboard.opendatahub.io/v1alpha1",
    ),
    "Namespace": ("v1",),
    "Host": (OUR_API,),
    "Cluster": (OUR_API,),
}
CLUSTER_SCOPED: Final = frozenset(
    {"ClusterServingRuntime", "ClusterStorageContainer", "LocalModelCache", "Namespace", "Host", "Cluster"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """One document. `data` is a plain tree; `namespace` is None where the document names none.

    Compared by identity: an unchanged file gives the very same manifests at every revision. `built_by` is the
    kustomization that made it of its file, which then decides over what it says. `text` is what was written, of what
    SOPS encrypted: its comments count.
    """

    api_version: str
    kind: str
    namespace: str | None
    name: str
    data: dict[str, Any] = field(repr=False)
    origin: Origin
    lines: Lines = field(repr=False)
    warnings: tuple[Reason, ...] = ()
    built_by: str = ""
    text: bytes = field(default=b"", repr=False)

    @property
    def place(self) -> str:
        """The file whose folder it stands in, for all that is allowed by folder."""
        return self.built_by or self.origin.file

    def line_of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest field around it that is written down."""
        return line_at(find(self.data, self.lines, path)[1])

    def origin_of(self, path: FieldPath) -> Origin:
        """Where a field is written."""
        return Origin(self.origin.file, self.line_of(path))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or document that could not be read. `kind` is what it seems to be; empty when unknown.

    `names_settings`: KServe's own ConfigMap is named in it.
    """

    reason: Reason
    kind: str = ""
    names_settings: bool = False

    @property
    def may_hide_services(self) -> bool:
        """May a service, or what speaks for a whole host, stand there unseen?"""
        return self.kind in ("", "InferenceService", "LLMInferenceService", "Host")


Templated = tuple[Mapping[str, Any], str, str]
"""An object that stands in another one which is not rendered here, its file and line, and what holds it."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything read from one revision, in the order of file and line."""

    documents: tuple[Manifest, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[Reason, ...] = ()
    # How many values aliases made beyond what was written.
    expanded: int = 0
    # Documents that we failed on, for the log.
    bugs: tuple[Bug, ...] = ()
    # Runtimes that do not exist until a template is rendered: for messages.
    templated: tuple[Templated, ...] = ()
    # Objects of kinds that mean nothing to us, which a cluster gets all the same.
    others: tuple[Manifest, ...] = ()

    @property
    def errors(self) -> tuple[Reason, ...]:
        """What is wrong, each with its file and line."""
        return tuple(each.reason for each in self.unreadable)

    @property
    def illegible(self) -> tuple[Reason, ...]:
        """What is no YAML, or could not be opened at all; the other errors are about documents that say something."""
        legible = (ReasonCode.INCOMPLETE_MANIFEST, ReasonCode.INVALID_HOST, ReasonCode.UNKNOWN_KIND)
        return tuple(reason for reason in self.errors if reason.code not in legible)

    @property
    def warnings(self) -> tuple[Reason, ...]:
        """What is allowed but probably not meant, in all documents."""
        return tuple(warning for each in self.documents for warning in each.warnings)

    def of_kind(self, *kinds: str) -> tuple[Manifest, ...]:
        return tuple(each for each in self.documents if each.kind in kinds)


def joined(parts: Iterable[Manifests]) -> Manifests:
    """Several readings as one."""
    every = list(parts)
    if len(every) == 1:
        return every[0]
    return Manifests(
        tuple(chain.from_iterable(part.documents for part in every)),
        tuple(chain.from_iterable(part.unreadable for part in every)),
        tuple(chain.from_iterable(part.notes for part in every)),
        sum(part.expanded for part in every),
        tuple(chain.from_iterable(part.bugs for part in every)),
        tuple(chain.from_iterable(part.templated for part in every)),
        tuple(chain.from_iterable(part.others for part in every)),
    )


def unreadable(
    file: str, line: int, code: ReasonCode, message: str, kind: str = "", *, names_settings: bool = False
) -> Manifests:
    """A reading that failed."""
    return Manifests(unreadable=(Unreadable(Reason(code, message, Origin(file, line)), kind, names_settings),))


_FIELDS: Final[Mapping[FieldPath, tuple[str, ...]]] = {
    (): ("apiVersion", "kind", "metadata", "spec"),
    ("metadata",): ("name", "namespace", "labels", "annotations"),
    ("spec",): ("drain", "unschedulable"),
}
_DRAIN: FieldPath = ("spec", "drain")
_UNSCHEDULABLE: FieldPath = ("spec", "unschedulable")


def host_problems(host: Manifest) -> Iterator[Reason]:
    """Everything in the document that cannot be followed."""
    for path, known in _FIELDS.items():
        fields = _at(host.data, path)
        if not isinstance(fields, dict | None):
            yield _problem(host, path, f"{'.'.join(map(str, path))} must be a mapping")
            continue
        for key in fields or ():
            if key not in known:
                yield _problem(host, (*path, key), _unknown(path, key))
    for path in (_DRAIN, _UNSCHEDULABLE):
        if not isinstance(_at(host.data, path), bool | None):
            yield _problem(host, path, f"{'.'.join(map(str, path))} must be true or false, without quotes")


def drain_of(host: Manifest) -> Reason | None:
    """Why nothing may run on this host; None when something may. For a document without problems."""
    if not _at(host.data, _DRAIN):
        return None
    text = "the host is drained (spec.drain): nothing runs on it until this is removed"
    return Reason(ReasonCode.DRAINED, text, host.origin_of(_DRAIN))


def cordon_of(host: Manifest) -> Reason | None:
    """Why nothing new may start on this host; None when it may. For a document without problems."""
    if not _at(host.data, _UNSCHEDULABLE):
        return None
    text = "the host is cordoned (spec.unschedulable): what is promoted is kept running, nothing new starts"
    return Reason(ReasonCode.CORDONED, text, host.origin_of(_UNSCHEDULABLE))


def host_warnings(host: Manifest) -> Iterator[Reason]:
    """What was understood in another way by an older version."""
    if _at(host.data, _UNSCHEDULABLE) and _at(host.data, _DRAIN) is None:
        text = (
            "spec.unschedulable does not drain the host any more, as it did in older versions: what is promoted keeps "
            "running, nothing new starts; add `drain: true` to drain it, or `drain: false` if this is what you want"
        )
        yield Reason(ReasonCode.NO_LONGER_DRAINS, text, host.origin_of(_UNSCHEDULABLE))


def _unknown(path: FieldPath, key: str) -> str:
    name = ".".join((*map(str, path), key))
    if not path and key in _FIELDS[("spec",)]:
        return f"unknown field {name}; write it under spec"
    near = nearest(key, _FIELDS[path])
    hint = f"did you mean {near}?" if near else f"there are {', '.join(_FIELDS[path])}"
    return f"unknown field {name}; {hint}"


def _problem(host: Manifest, path: FieldPath, message: str) -> Reason:
    return Reason(ReasonCode.INVALID_HOST, message, host.origin_of(path))


def _at(value: Any, path: FieldPath) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
