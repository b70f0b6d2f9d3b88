"""What an API server answers instead of what was asked for, as errors that say what to do next.

ApiError
├── Unreached          no answer, or none of an API server: the network, TLS, a proxy            Retryable
├── Busy               too many requests, or a server that starts or ends                        Retryable
├── Unauthorized       the server does not know who we are                                       Retryable
├── Forbidden          a right is missing: names the verb and the resource                       Retryable
├── KindUnknown        no such kind is served: its CRD is not there (yet)                        Retryable
├── NotFound           the object, or its namespace, is not there                                Retryable
├── NamespaceEnding    the namespace is being deleted                                            Retryable
├── QuotaExceeded      a ResourceQuota allows no more                                            Retryable
├── Conflict           another manager owns fields that we would change                          Retryable
├── WriteConflict      the object is another one than we saw, by uid or resourceVersion          Retryable
├── AlreadyExists      an object of this name is there                                           Retryable
├── Expired            a resourceVersion or a page of a list is too old: list again              Retryable
├── WebhookFailed      an admission webhook could not be asked                                   Retryable
├── ServerFailed       anything else that went wrong inside the server                           Retryable
├── Denied             an admission webhook or policy refuses the object                         Terminal
├── Invalid            fields that the server does not accept                                    Terminal
└── TooLarge           an object, or an answer, beyond the limits                                Terminal
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.cluster.api.field_paths import field_path
from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.model.names import listed
from reconciler.model.objects import KubeObject

_SHOWN_FIELDS = 5
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field, and what is wrong there. `path` is as in `DesiredObject.lines`; "" is the whole object.

    `manager` is who owns the field, where that is the problem.
    """

    path: str
    message: str
    manager: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ApiError(ReconcileError):
    """An answer that is no success. `code` is the HTTP status, 0 without one."""

    def __init__(self, message: str, fields: tuple[FieldProblem, ...] = (), code: int = 0) -> None:
        super().__init__(message)
        self.fields = fields
        self.code = code


class Unreached(ApiError, Retryable):
    """No answer, or none of an API server. `was_sent`: the server may have done what was asked."""

    def __init__(self, message: str, was_sent: bool = True, code: int = 0) -> None:
        super().__init__(message, code=code)
        self.was_sent = was_sent


class Busy(ApiError, Retryable):
    """The server asks us to come again; after `retry_after` seconds, where it says so."""

    def __init__(self, message: str, code: int, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unauthorized(ApiError, Retryable):
    """The server does not accept the credentials."""


class Forbidden(ApiError, Retryable):
    """A right is missing."""


class KindUnknown(ApiError, Retryable):
    """No such kind is served."""


class NotFound(ApiError, Retryable):
    """The object, or its namespace, is not there."""


class NamespaceEnding(ApiError, Retryable):
    """The namespace is being deleted: nothing new can be created in it."""


class QuotaExceeded(ApiError, Retryable):
    """A ResourceQuota allows no more."""


class Conflict(ApiError, Retryable):
    """Other managers own `fields` that we would change; each names its manager."""

    @property
    def managers(self) -> tuple[str, ...]:
        return tuple(sorted({field.manager for field in self.fields}))


class WriteConflict(ApiError, Retryable):
    """The object has changed, or was replaced, since we saw it."""


class AlreadyExists(ApiError, Retryable):
    """An object of this name is there, perhaps still being deleted."""


class Expired(ApiError, Retryable):
    """What a watch or the next page of a list refers to is forgotten: list again."""


class WebhookFailed(ApiError, Retryable):
    """An admission webhook could not be asked."""


class ServerFailed(ApiError, Retryable):
    """Something went wrong inside the server."""


class Denied(ApiError, Terminal):
    """An admission webhook or policy refuses the object; `by` is its name and `verdict` what it says."""

    def __init__(self, message: str, by: str, verdict: str, code: int) -> None:
        super().__init__(message, (FieldProblem("", verdict),), code)
        self.by = by
        self.verdict = verdict


class Invalid(ApiError, Terminal):
    """The server does not accept `fields`."""


class TooLarge(ApiError, Terminal):
    """An object, or an answer, is beyond the limits."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What was asked for, for messages: `what` is an object or a kind, `body` what was sent."""

    verb: str
    what: str
    body: KubeObject | None = None

    @property
    def is_secret(self) -> bool:
        return self.body is not None and self.body.get("kind") == "Secret" and self.body.get("apiVersion") == "v1"


def error_of(asked: RequestInfo, code: int, document: Mapping[str, Any], retry_after: float | None = None) -> ApiError:
    """The error that a `Status` of an API server stands for; `document` is {} for the plain texts of its router."""
    answer = _Answer(asked, code, document, retry_after)
    for reader in (_by_text, _by_code):
        if (error := reader(answer)) is not None:
            return error
    return ServerFailed(answer.says(answer.message or f"HTTP {code}"), code=code)


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: RequestInfo
    code: int
    document: Mapping[str, Any]
    retry_after: float | None

    @property
    def message(self) -> str:
        return str(self.document.get("message") or "").strip()[:_LONGEST]

    @property
    def reason(self) -> str:
        return str(self.document.get("reason") or "")

    @property
    def details(self) -> Mapping[str, Any]:
        details = self.document.get("details")
        return details if isinstance(details, Mapping) else {}

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        causes = self.details.get("causes")
        return [cause for cause in causes if isinstance(cause, Mapping)] if isinstance(causes, list) else []

    def says(self, problem: str, then: str = "") -> str:
        return f"{self.asked.what}: {problem}{then and f'; {then}'}"

    def path(self, written: object) -> str:
        return field_path(str(written or ""), self.asked.body)


_DENIED = (
    re.compile(
        r'admission webhook "(?P<by>[^"]+)" denied the request(?: without explanation|: ?(?P<verdict>.*))', re.S
    ),
    re.compile(r"(?P<by>ValidatingAdmissionPolicy '[^']+') with binding '[^']+' denied request: (?P<verdict>.*)", re.S),
)
_WEBHOOK_FAILED = re.compile(r'failed calling webhook "(?P<by>[^"]+)": (?P<why>.*)', re.S)
# A server-side apply of unknown fields or wrong types is answered 500, without any reason (seen: 1.36).
_NOT_TYPED = re.compile(r"failed to create typed patch object \([^)]*\): (?:errors:)?(?P<problems>.*)", re.S)
_GOT = re.compile(r", got &?value\..*", re.S)
_DECODING = re.compile(
    r"(?:strict decoding error|error strict decoding YAML|error decoding from json): (?P<problem>.*)", re.S
)
_TRANSIENT = re.compile(
    r"etcdserver: (?:leader changed|request timed out|no leader|too many requests)|context deadline exceeded"
    r"|connection refused|transport is closing|the server is currently unable|server is shutting down|timed out"
)


def _by_text(answer: _Answer) -> ApiError | None:
    """What only the text of a message tells, whatever its code."""
    message, code = answer.message, answer.code
    for pattern in _DENIED:
        if found := pattern.search(message):
            return _denied(answer, found["by"], (found["verdict"] or "it gives no explanation").strip())
    if found := _WEBHOOK_FAILED.search(message):
        return WebhookFailed(
            answer.says(
                f"webhook {found['by']} could not be asked: {found['why']}", "see whether what serves it is running"
            ),
            code=code,
        )
    if found := _NOT_TYPED.search(message):
        return _invalid(answer, tuple(_typed_problems(answer, found["problems"])))
    if found := _DECODING.search(message):
        return _invalid(answer, (FieldProblem("", " ".join(found["problem"].split())),))
    if "etcdserver: request is too large" in message:
        return _too_large(answer)
    return None


def _by_code(answer: _Answer) -> ApiError | None:
    code, reason = answer.code, answer.reason
    reader = {
        401: _unauthorized,
        403: _forbidden,
        404: _missing,
        409: _conflicting,
        410: lambda each: Expired(each.says("what was listed is forgotten by the server"), code=code),
        413: _too_large,
        422: lambda each: _invalid(each, tuple(_caused_problems(each))),
        429: _busy,
        502: _busy,
        503: _busy,
        504: _busy,
    }.get(code)
    if reader is not None:
        return reader(answer)
    if code == 400 and reason == "BadRequest":
        return _invalid(answer, (FieldProblem("", answer.message),))
    if reason in ("Timeout", "ServerTimeout") or _TRANSIENT.search(answer.message):
        return _busy(answer)
    return None


def _busy(answer: _Answer) -> ApiError:
    why = answer.message or f"HTTP {answer.code}"
    return Busy(answer.says(f"the API server is not ready to answer: {why}"), answer.code, answer.retry_after)


def _unauthorized(answer: _Answer) -> ApiError:
    return Unauthorized(
        answer.says("the API server does not accept the credentials", "see whether they have expired"), code=401
    )


def _denied(answer: _Answer, by: str, verdict: str) -> ApiError:
    return Denied(answer.says(f"{by} denied the request: {verdict}"), by, verdict, answer.code)


def _too_large(answer: _Answer) -> ApiError:
    return TooLarge(
        answer.says(f"the object is too large: {answer.message}", "split it, or keep its data elsewhere"),
        code=answer.code,
    )


_CANNOT = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) (?:resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)"| at the cluster scope)?|path "(?P<path>[^"]+)")'
)


def _forbidden(answer: _Answer) -> ApiError:
    message = answer.message
    if any(cause.get("reason") == "NamespaceTerminating" for cause in answer.causes) or "being terminated" in message:
        return NamespaceEnding(
            answer.says("its namespace is being deleted", "it can be created when that is over"), code=403
        )
    if "exceeded quota" in message or "failed quota" in message:
        quota = message[message.index("quota") - 9 :].strip()
        return QuotaExceeded(answer.says(quota, "free some of it, or raise the ResourceQuota"), code=403)
    if found := _CANNOT.search(message):
        return Forbidden(answer.says(*_missing_right(found)), code=403)
    return Forbidden(answer.says(message or "forbidden"), code=403)


def _missing_right(found: re.Match[str]) -> tuple[str, str]:
    """What is refused to whom, and the rule that would allow it."""
    if found["path"]:
        return f"{found['user']} cannot {found['verb']} {found['path']}", "allow it by a nonResourceURLs rule of RBAC"
    place = f"in the namespace {found['namespace']}" if found["namespace"] else "in the whole cluster"
    rule = {"apiGroups": [found["group"]], "resources": [found["resource"]], "verbs": [found["verb"]]}
    kind = "Role" if found["namespace"] else "ClusterRole"
    resource = f"{found['resource']}.{found['group']}".rstrip(".")
    return f"{found['user']} cannot {found['verb']} {resource} {place}", f"add to its {kind}: {json.dumps(rule)}"


def _missing(answer: _Answer) -> ApiError:
    details = answer.details
    if not details.get("name"):
        return KindUnknown(
            answer.says("the API server does not serve this kind", "install its CRD, or see its version"), code=404
        )
    if details.get("kind") == "namespaces" and answer.asked.what != f"Namespace {details['name']}":
        return NotFound(
            answer.says(f"namespace {details['name']} does not exist", "create it, or write it to git"), code=404
        )
    return NotFound(answer.says("it does not exist"), code=404)


_MANAGER = re.compile(r'conflict with ("(?:[^"\\]|\\.)*")')


def _conflicting(answer: _Answer) -> ApiError:
    if answer.reason == "AlreadyExists":
        return AlreadyExists(answer.says(answer.message), code=409)
    fields = tuple(
        FieldProblem(answer.path(cause.get("field")), str(cause.get("message") or ""), _manager(cause))
        for cause in answer.causes
        if cause.get("reason") == "FieldManagerConflict"
    )
    if not fields:
        return WriteConflict(answer.says("it is not as we saw it", "the next pass looks again"), code=409)
    owned = listed([f"{field.path} ({field.manager})" for field in fields], _SHOWN_FIELDS)
    return Conflict(answer.says(f"fields are managed by others: {owned}"), fields, 409)


def _manager(cause: Mapping[str, Any]) -> str:
    found = _MANAGER.search(str(cause.get("message")))
    return str(json.loads(found[1])) if found else "another manager"


def _caused_problems(answer: _Answer) -> Iterator[FieldProblem]:
    if not answer.causes:
        yield FieldProblem("", _private(answer, answer.message))
    for cause in answer.causes:
        # The server's path of the whole object is `[]` or `<nil>`.
        written = str(cause.get("field") or "").removeprefix("[]").removeprefix("<nil>")
        yield FieldProblem(answer.path(written), _private(answer, str(cause.get("message") or cause.get("reason"))))


def _private(answer: _Answer, message: str) -> str:
    """A message without the value that it quotes, where that may be a secret."""
    if not answer.asked.is_secret:
        return message[:_LONGEST]
    return re.sub(r"(Invalid|Unsupported|Duplicate) value: .*", r"\1 value", message, flags=re.S)


def _typed_problems(answer: _Answer, text: str) -> Iterator[FieldProblem]:
    """`.spec.zz: field not declared in schema`, one a line."""
    for line in filter(None, map(str.strip, text.splitlines())):
        # The value is in git, at the line that is named; here it may be a password.
        written, _, message = _GOT.sub("", line).partition(": ")
        yield FieldProblem(answer.path(written), message) if message else FieldProblem("", line)


def _invalid(answer: _Answer, fields: tuple[FieldProblem, ...]) -> ApiError:
    shown = "; ".join(map(str, fields[:_SHOWN_FIELDS]))
    more = f"; and {len(fields) - _SHOWN_FIELDS} more" if len(fields) > _SHOWN_FIELDS else ""
    return Invalid(answer.says(f"refused: {shown}{more}"), fields, answer.code)
