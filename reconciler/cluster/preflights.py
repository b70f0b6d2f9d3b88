"""Preflights in the cluster: Jobs that ask an image's engine about arguments. Their verdicts are kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from reconciler.cluster.api.client import Client
from reconciler.cluster.observed import EngineAnswers
from reconciler.cluster.preflight_job import (
    LOG_BYTES,
    JobOutcome,
    JobSettings,
    PreflightRequest,
    TooLargeToAsk,
    absent_folders,
    is_pod_of,
    job_name,
    job_of,
    read_job,
)
from reconciler.config.settings import EngineSettings
from reconciler.engines.launch import question
from reconciler.engines.verdict import PreflightVerdict
from reconciler.errors import ReconcileError, Retryable
from reconciler.kserve.names import KSERVE_CONTAINER
from reconciler.model import (
    AskPreflight,
    Desired,
    DesiredObject,
    KubeObject,
    ObjectId,
    Preflight,
    Reason,
    ReasonCode,
)
from reconciler.system.files import write_atomically

WATCHED: Final = ("batch", "Job")
_VERDICT = TypeAdapter(PreflightVerdict)
_MOST_KEPT = 1000
# Seconds until a Job that gave no verdict is made once more.
_AGAIN = 300.0
_LINES = 2000
_IN_IMAGE = EngineSettings(image="*", podman=True)
_HOME = "/tmp/home"  # noqa: S108 - of a container of our own


class PreflightJobs:
    """Asks, and reads the answers."""

    def __init__(self, client: Client, path: Path, settings: JobSettings | None = None) -> None:
        self._client = client
        self._path = path
        self._settings = settings or JobSettings()
        self._verdicts: dict[str, PreflightVerdict] = _read(path)
        self._read: dict[str, JobOutcome] = {}
        self._asked: dict[str, PreflightRequest] = {}

    def look_up(
        self, services: Iterable[tuple[Desired, DesiredObject]], jobs: Iterable[KubeObject], pods: Iterable[KubeObject]
    ) -> EngineAnswers:
        """Verdicts on these versions. Reads the log of a Job that has ended, once."""
        by_name = {(str(job["metadata"]["namespace"]), str(job["metadata"]["name"])): job for job in jobs}
        found = tuple(pods)
        preflights: dict[str, Preflight] = {}
        lacks: dict[str, frozenset[str]] = {}
        troubles: dict[str, Reason] = {}
        asking, mute, self._asked = set(), set(), {}
        for desired, git in services:
            asked = asked_of(desired, git)
            if asked is None:
                mute.add(desired.digest)
                continue
            self._asked[desired.digest] = asked
            verdict = self._verdicts.get(asked.key)
            job = by_name.get((asked.namespace, job_name(asked.key)))
            if verdict is None and job is not None:
                outcome = self._outcome(asked.key, job, found)
                verdict = outcome.verdict
                if outcome.waits:
                    asking.add(desired.digest)
                elif outcome.final:
                    mute.add(desired.digest)
                elif outcome.trouble:
                    text = f"the image's vLLM cannot be asked: {outcome.trouble}; it is tried again"
                    troubles[desired.digest] = Reason(ReasonCode.PREFLIGHT_PENDING, text, desired.origin)
                    if not _is_due(job, self._client.transport.clock.now()):
                        asking.add(desired.digest)
            if verdict is not None:
                preflights[desired.digest] = verdict.about(asked.question, desired.origin)
                lacks[desired.digest] = frozenset(verdict.lacks)
        return EngineAnswers(preflights, lacks, frozenset(asking), troubles, frozenset(mute))

    def ask(self, action: AskPreflight) -> None:
        """Make the Job. Raises Retryable."""
        asked = self._asked.get(action.digest)
        if asked is None:
            raise Retryable(f"{action.service}: its version has changed meanwhile")
        one = ObjectId("batch", "Job", asked.namespace, job_name(asked.key))
        old = self._client.get(one)
        if old is not None and _is_due(old, self._client.transport.clock.now()):
            self._client.delete(one, str(old["metadata"]["uid"]))
            self._read.pop(asked.key, None)
            raise Retryable(f"{action.service}: its last preflight gave no verdict, and is made once more")
        try:
            self._client.apply(job_of(asked, self._settings), force=True)
        except TooLargeToAsk as error:
            raise Retryable(f"{action.service}: {error}") from None

    def _outcome(self, key: str, job: KubeObject, pods: tuple[KubeObject, ...]) -> JobOutcome:
        if (known := self._read.get(key)) is not None and not known.waits:
            return known
        own = [pod for pod in pods if is_pod_of(pod, job)]
        outcome = read_job(job, own, self._log(own))
        self._read[key] = outcome
        if outcome.verdict is not None:
            self._keep(key, outcome.verdict)
        return outcome

    def _log(self, pods: list[KubeObject]) -> str:
        ended = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")]
        for pod in ended[-1:]:
            metadata = pod["metadata"]
            with suppress(ReconcileError):
                return self._client.logs(metadata["namespace"], metadata["name"], "preflight", _LINES, most=LOG_BYTES)
        return ""

    def _keep(self, key: str, verdict: PreflightVerdict) -> None:
        self._verdicts[key] = verdict
        kept = dict(list(self._verdicts.items())[-_MOST_KEPT:])
        document = {key: _VERDICT.dump_python(each, mode="json") for key, each in kept.items()}
        # A disk that does not take it costs only another question.
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(document).encode())


def asked_of(desired: Desired, git: DesiredObject) -> PreflightRequest | None:
    """The question about a service's version; None: git does not tell what it runs, or it is no vLLM."""
    spec, rendered = desired.spec, git.rendered
    if spec is None or rendered is None:
        return None
    container = rendered.container(KSERVE_CONTAINER)
    if container is None:
        return None
    try:
        asked = question(spec, _IN_IMAGE, {}, _HOME, mounted=True)
    except ValueError:
        return None
    return PreflightRequest(
        asked, desired.id.namespace, spec.image, rendered.pod, absent_folders(container, asked.files)
    )


def _is_due(job: KubeObject, now: float) -> bool:
    """Has it ended without a verdict, so long ago that another one may do better?"""
    status = job.get("status") or {}
    if not any(
        each.get("type") == "Failed" and each.get("status") == "True" for each in status.get("conditions") or ()
    ):
        return False
    return now - _created(job) > _AGAIN


def _created(job: KubeObject) -> float:
    try:
        return datetime.fromisoformat(str(job["metadata"].get("creationTimestamp"))).timestamp()
    except ValueError:
        return 0.0


def _read(path: Path) -> dict[str, PreflightVerdict]:
    try:
        return {key: _VERDICT.validate_python(each) for key, each in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, ValidationError, AttributeError):
        return {}
