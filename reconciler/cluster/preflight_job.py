"""A preflight in the cluster: a Job runs the engine's own parser in the exact image, without a GPU. Pure.

The Job is named after all that its verdict depends on, so that one which is there need not run again, and equal
services of a namespace share it. It reads no model: what names a file of one is left to the engine's start. Its log
ends with the answer. What keeps it from answering, such as an image that cannot be pulled, a quota or nodes that are
full, says nothing of the arguments.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from reconciler.engines.last_words import cut, fatal_reason
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.limits import LONGEST_STRING
from reconciler.engines.preflight import SCRIPTS, request_of
from reconciler.engines.verdict import PreflightVerdict, read_verdict
from reconciler.kserve import names
from reconciler.model import KubeObject, texts

PREFLIGHT: Final = "reconciler/preflight"
"""Our label of such a Job and its pod: the key of its question."""
LOG_BYTES: Final = 1 << 20
"""How much of the end of its log is read."""
_CONTAINER = "preflight"
_ANSWER = "reconciler-preflight-answer:"
_LARGEST_ANSWER = 4 << 20
_HOME = "/tmp/home"  # noqa: S108 - of a container of our own
# The scripts and the request go in as one argument: a ConfigMap would be one more object to keep in step.
_BOOT = """\
import base64, json, os, subprocess, sys, tempfile, zlib
given = json.loads(zlib.decompress(base64.b64decode(sys.argv[1])))
os.makedirs(os.environ["HOME"], exist_ok=True)
with tempfile.TemporaryDirectory() as folder:
    for name, text in given["scripts"].items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    probe = [sys.executable, os.path.join(folder, given["main"])]
    done = subprocess.run(probe, input=given["request"].encode(), stdout=subprocess.PIPE)
sys.stderr.flush()
print("\\n" + sys.argv[2] + base64.b64encode(zlib.compress(done.stdout, 9)).decode(), flush=True)
sys.exit(done.returncode)
"""
_PULL_FAULTS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
_START_FAULTS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class JobSettings:
    """`seconds` are for all of it, the pull of an image of many GB included; `kept_seconds` for the Job once it ended.

    `user` is the UID that it runs as; None where the cluster gives each namespace its own, as OpenShift does.
    """

    seconds: int = 900
    kept_seconds: int = 3600
    memory: str = "4Gi"
    user: int | None = 65534


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """A question for the engine of one service's pod. `pod` is what KServe makes of it; `absent` are the folders of its
    container that the Job does not have."""

    question: PreflightQuestion
    namespace: str
    image: str
    pod: Mapping[str, Any]
    absent: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal keys, equal verdicts. Whoever owns a namespace may make up what its Jobs say: others never hear it."""
        asked = self.question
        parts = [
            self.namespace,
            self.image,
            str(asked.python),
            texts(asked.argv),
            sorted(asked.env.items()),
            sorted(asked.given),
            sorted((path, hashlib.sha256(data).hexdigest()) for path, data in asked.files.items()),
            sorted(self.absent),
            _scripts_digest(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def absent_folders(container: Mapping[str, Any], files: Iterable[str]) -> tuple[str, ...]:
    """What is mounted in a service's container, and the model's folder, without the files that git holds."""
    mounted = [str(mount.get("mountPath")) for mount in container.get("volumeMounts") or ()]
    given = tuple(files)
    folders = dict.fromkeys([names.MODEL_MOUNT, *mounted])
    return tuple(folder for folder in folders if not any(path.startswith(f"{folder}/") for path in given))


class TooLargeToAsk(ValueError):
    """A question that no argument of a process holds; the message says how large it is."""


def job_name(key: str) -> str:
    return f"preflight-{key}"


def job_of(asked: PreflightRequest, settings: JobSettings) -> KubeObject:
    """The Job that asks. Raises TooLargeToAsk."""
    labels = {"app.kubernetes.io/managed-by": "reconciler", PREFLIGHT: asked.key}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(asked.key), "namespace": asked.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": settings.seconds,
            "ttlSecondsAfterFinished": settings.kept_seconds,
            "template": {"metadata": {"labels": labels}, "spec": _pod(asked, settings)},
        },
    }


def _pod(asked: PreflightRequest, settings: JobSettings) -> Mapping[str, Any]:
    user = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": settings.user}
    pull = {"imagePullSecrets": found} if (found := asked.pod.get("imagePullSecrets")) else {}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # A Service called vllm would set VLLM_PORT, which vLLM reads.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **user},
        "containers": [_container(asked, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        **pull,
    }


def _container(asked: PreflightRequest, settings: JobSettings) -> Mapping[str, Any]:
    env = {**asked.question.env, "HOME": _HOME, "TMPDIR": "/tmp", "USER": "preflight"}  # noqa: S108
    return {
        "name": _CONTAINER,
        "image": asked.image,
        "command": [str(asked.question.python), "-c", _BOOT, _payload(asked), _marker(asked.key)],
        "env": [{"name": name, "value": value.replace("$(", "$$(")} for name, value in sorted(env.items())],
        "resources": {
            "requests": {"cpu": "100m", "memory": "1Gi"},
            "limits": {"memory": settings.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def _payload(asked: PreflightRequest) -> str:
    """Raises TooLargeToAsk."""
    request = request_of(asked.question, asked.absent).decode()
    given = {"scripts": dict(_scripts()), "main": SCRIPTS[0].name, "request": request}
    text = base64.b64encode(zlib.compress(json.dumps(given).encode(), 9)).decode()
    if len(text) >= LONGEST_STRING:
        raise TooLargeToAsk(f"the question has {len(text):,} bytes, and an argument takes {LONGEST_STRING - 1:,}")
    return text


@lru_cache(1)
def _scripts() -> tuple[tuple[str, str], ...]:
    return tuple((path.name, path.read_text()) for path in SCRIPTS)


@lru_cache(1)
def _scripts_digest() -> str:
    return hashlib.sha256(json.dumps(_scripts()).encode()).hexdigest()


def _marker(key: str) -> str:
    return f"{_ANSWER}{key}:"


# ---------------------------------------------------------------- the answer


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What a Job has come to. `verdict` is the engine's; `trouble` says why there is none, if there will be none.

    `waits` says what it waits for meanwhile. `final`: the same image would say the same again. `variable` and `index`
    are those to blame for it, as far as they are known.
    """

    verdict: PreflightVerdict | None = None
    trouble: str = ""
    waits: str = ""
    final: bool = False
    variable: str = ""
    index: int | None = None


def is_pod_of(pod: KubeObject, job: KubeObject) -> bool:
    """By its controller: anybody may write the label."""
    metadata, uid = pod["metadata"], job["metadata"]["uid"]
    owners = metadata.get("ownerReferences") or ()
    is_made = any(owner.get("controller") and owner.get("uid") == uid for owner in owners)
    return bool(is_made and metadata["namespace"] == job["metadata"]["namespace"])


def read_job(job: KubeObject, pods: Sequence[KubeObject], log: str, events: Sequence[KubeObject] = ()) -> JobOutcome:
    """What became of a Job. `log` is the end of its pod's, and `events` are those about the Job."""
    key = (job["metadata"].get("labels") or {}).get(PREFLIGHT, "")
    ended = {each.get("type"): each for each in job.get("status", {}).get("conditions") or () if _holds(each)}
    pod = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp")), default=None)
    if ended and (answer := _answer_in(log, key)) is not None:
        return _outcome_of(answer)
    obstacle = _obstacle(pod, events)
    if "Complete" in ended:
        return JobOutcome(trouble="it ended, and its log holds no answer")
    if "Failed" not in ended:
        return JobOutcome(waits=obstacle or _stage(pod))
    if ended["Failed"].get("reason") == "DeadlineExceeded":
        spec = job.get("spec") or {}
        late = f"it has not answered within {spec.get('activeDeadlineSeconds')} s"
        return JobOutcome(trouble=f"{late}: {obstacle}" if obstacle else late)
    return JobOutcome(trouble=obstacle or _ending(pod, log))


def _holds(condition: Mapping[str, Any]) -> bool:
    return condition.get("status") == "True"


def _answer_in(log: str, key: str) -> Any:
    """The last line of ours. Code that comes with a model may have written to the log as well."""
    line = next((each for each in reversed(log.splitlines()) if each.startswith(_marker(key))), None)
    if line is None:
        return None
    try:
        packed = base64.b64decode(line.removeprefix(_marker(key)), validate=True)
        return json.loads(zlib.decompressobj().decompress(packed, _LARGEST_ANSWER))
    except (ValueError, zlib.error, RecursionError):
        return None


def _outcome_of(answer: Any) -> JobOutcome:
    try:
        if not (reason := str(answer.get("environment") or "")):
            return JobOutcome(verdict=read_verdict(answer))
        index = answer.get("index")
        return JobOutcome(
            trouble=reason,
            final=answer.get("final") is True,
            variable=str(answer.get("variable") or ""),
            index=index if type(index) is int and index >= 0 else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return JobOutcome(trouble="it gave an answer that cannot be read")


def _obstacle(pod: KubeObject | None, events: Sequence[KubeObject]) -> str:
    """What keeps its pod from running; empty: nothing does."""
    if pod is None:
        refused = [each for each in events if each.get("reason") == "FailedCreate"]
        return f"its pod cannot be created: {cut(str(refused[-1].get('message')))}" if refused else ""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"no node takes its pod: {cut(str(condition.get('message') or condition.get('reason')))}"
    waiting = _state(pod).get("waiting") or {}
    why, message = str(waiting.get("reason") or ""), cut(str(waiting.get("message") or ""))
    if why in _PULL_FAULTS:
        return f"its image cannot be pulled ({why}){message and f': {message}'}"
    if why in _START_FAULTS:
        return f"its container cannot be started ({why}){message and f': {message}'}"
    if status.get("reason") == "Evicted":
        return f"its pod was evicted: {cut(str(status.get('message')))}"
    return ""


def _stage(pod: KubeObject | None) -> str:
    """How far it is, where nothing keeps it."""
    if pod is None:
        return "has no pod yet"
    return "runs" if "running" in _state(pod) else "pulls its image, or starts"


def _state(pod: KubeObject) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    found: Mapping[str, Any] = next(
        (each.get("state") or {} for each in statuses if each.get("name") == _CONTAINER), {}
    )
    return found


def _ending(pod: KubeObject | None, log: str) -> str:
    ended = _state(pod).get("terminated") if pod else None
    if not ended:
        return "it failed, and nothing is known of its pod any more"
    if ended.get("reason") == "OOMKilled":
        return "it was killed for memory; raise the memory of preflights"
    lines = [each for each in log.strip().splitlines() if each.strip()]
    tail = fatal_reason(lines) or next((each for each in lines if "rror" in each), "") or "".join(lines[-1:])
    return f"it ended with {ended.get('exitCode')} and no answer" + (tail and f": {cut(tail)}")
