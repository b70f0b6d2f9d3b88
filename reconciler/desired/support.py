"""The support table: every field, annotation, label and kind, and what becomes of it on a host and on a cluster.

What `validate --target`, `render --target` and every sync say about a place comes from here, and so does the table in
repo_layout/SUPPORTED_FIELDS.md. Pure data; `deviations` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from reconciler.kserve.names import FRAMEWORKS
from reconciler.model import ReasonCode


class TargetKind(StrEnum):
    """A kind of target."""

    HOST = "host"
    CLUSTER = "cluster"


class Effect(StrEnum):
    """The outcome of a field. All but `honoured` is reported, with file and line."""

    HONOURED = "honoured"
    IGNORED = "ignored, with a warning"
    NO_EFFECT = "no effect, with a notice"
    REFUSED = "error"


class Fact(StrEnum):
    """Conditions of one service at one place. If an outcome names one, the field is supported."""

    AUTH = "auth is enforced there"
    TLS = "the engine ends TLS itself (`--ssl-certfile`, `--ssl-keyfile`)"
    PRIVATE = "the proxy listens on the loopback address"
    ACCELERATOR = "the target has one of them"
    COUNTED = "it is not 0, or the service has no autoscaler (`serving.kserve.io/autoscalerClass: none`)"
    FIXED_SCALE = "it is not above `minReplicas`"
    KNATIVE = "the deployment mode is Knative"
    ONE_CANARY = "there is one"
    SCRAPED_PORT = "it is the container's own port"
    NOT_ENCRYPTED = "it is not enabled, or the model is `oci://` or `pvc://`, which KServe does not decrypt either"


class Where(StrEnum):
    """Where a field is written."""

    KIND = "kind"
    SPEC = "spec"
    PREDICTOR = "predictor"
    POD = "pod: the predictor and the runtime's spec"
    CONTAINER = "model container: predictor.model, and kserve-container of predictor and runtime"
    RUNTIME = "runtime"
    ANNOTATION = "annotation"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """An effect and its reason. `unless` is the condition under which the field is supported after all."""

    effect: Effect
    note: str = ""
    unless: Fact | None = None
    code: ReasonCode = ReasonCode.FIELD_IGNORED


@dataclass(frozen=True, slots=True)
class SupportRow:
    """Fields with the same outcomes.

    `values`: only these count; else everything but nothing, `false`, 0 and, unless `even_empty`, what is empty.
    """

    where: Where
    keys: tuple[str, ...]
    host: FieldSupport
    cluster: FieldSupport
    values: tuple[Any, ...] = ()
    even_empty: bool = False

    def at(self, place: TargetKind) -> FieldSupport:
        return self.host if place is TargetKind.HOST else self.cluster

    def counts(self, value: Any) -> bool:
        """Does this value have any effect?"""
        word = value.lower() if isinstance(value, str) else value
        if self.values:
            return word in self.values
        if self.even_empty:
            return value is not None
        return bool(word) and word != "false"


YES: Final = FieldSupport(Effect.HONOURED)
KSERVE: Final = FieldSupport(Effect.HONOURED, "by KServe")
OPENSHIFT: Final = FieldSupport(Effect.HONOURED, "by OpenShift AI, where it is installed")


def _yes(note: str = "") -> FieldSupport:
    return FieldSupport(Effect.HONOURED, note)


def _no(note: str, unless: Fact | None = None, code: ReasonCode = ReasonCode.FIELD_IGNORED) -> FieldSupport:
    return FieldSupport(Effect.IGNORED, note, unless, code)


def _idle(note: str, unless: Fact | None = None) -> FieldSupport:
    return FieldSupport(Effect.NO_EFFECT, note, unless, ReasonCode.NO_EFFECT)


def _error(note: str, unless: Fact | None = None, code: ReasonCode = ReasonCode.UNSUPPORTED_FIELD) -> FieldSupport:
    return FieldSupport(Effect.REFUSED, note, unless, code)


def _row(where: Where, keys: str, host: FieldSupport, cluster: FieldSupport = KSERVE, *values: Any) -> SupportRow:
    return SupportRow(where, tuple(keys.split()), host, cluster, values)


_PROVIDED = "a host provides configMap, downwardAPI, emptyDir, hostPath, persistentVolumeClaim, projected and secret"
ELSEWHERE = "run this service on a Kubernetes cluster, or remove it"
_NO_SCALING = "hosts do not autoscale, so `minReplicas` replicas run"
_NO_DEMAND = (
    "models are not started on demand, so one replica runs, as in KServe's Standard mode; annotation "
    '`serving.kserve.io/stop: "true"` stops it'
)
_NO_SCHEDULER = "nothing waits in a queue for a host"
_OWN_NAMES = "a replica has the host's own names and resolver"
_OWN_PROBES = "a host probes /health, the list of models and a real completion"
_OWN_USER = "the host decides as which user and in which sandbox a replica runs"
_OWN_LIFE = "every stop is preceded by a drain"
_SHARED = "replicas always share those of the host"
_MESH = "only ModelMesh reads it"
_NO_MESH = "the host's proxy is in front of every replica already"
_NO_POD = "a replica is a process of the host, not a pod"
_NO_API = "there is no Kubernetes API on a host"
_KNATIVE_ONLY = _no("only Knative reads it", Fact.KNATIVE)
_GUARD = (
    "clients would not need a token; give the container a variable VLLM_API_KEY from a Secret: the engine then "
    "requires it, and the proxy, unless it passes TLS through, opens only the /v1/… paths that it guards"
)

ROWS: Final[tuple[SupportRow, ...]] = (
    _row(Where.KIND, "InferenceService ServingRuntime ClusterServingRuntime", YES),
    _row(Where.KIND, "ClusterStorageContainer", _yes("as a list of the URIs that may be downloaded")),
    _row(Where.KIND, "ConfigMap ServiceAccount", _yes("for variables, storage and KServe's configuration")),
    _row(Where.KIND, "HardwareProfile", _yes("for resources and placement of services that name it"), OPENSHIFT),
    _row(Where.KIND, "Secret", _yes("from outside git, or encrypted in it; in plain text it is rejected")),
    _row(Where.KIND, "Namespace", _yes("as part of names")),
    _row(Where.KIND, "Host", YES, _no("it describes a host")),
    _row(Where.KIND, "Cluster", _no("it describes a cluster"), YES),
    _row(Where.KIND, "LLMInferenceService", _error("it is for Kubernetes only; write an InferenceService")),
    _row(
        Where.KIND,
        "InferenceGraph TrainedModel LLMInferenceServiceConfig LocalModelCache LocalModelNamespaceCache "
        "LocalModelNode LocalModelNodeGroup ClusterLocalModel",
        _no("this kind of KServe is not supported", code=ReasonCode.UNSUPPORTED_KIND),
        _no("this kind of KServe is not supported", code=ReasonCode.UNSUPPORTED_KIND),
    ),
    # ------------------------------------------------------------ InferenceService
    _row(Where.SPEC, "predictor", YES),
    _row(Where.SPEC, "transformer explainer", _error(ELSEWHERE)),
    _row(
        Where.SPEC,
        "canary",
        _error("a host runs one canary next to the predictor", Fact.ONE_CANARY),
    ),
    SupportRow(
        Where.SPEC,
        ("tracing",),
        _no("give the engine --otlp-traces-endpoint instead"),
        FieldSupport(Effect.HONOURED, "by KServe 0.21 and later"),
        even_empty=True,
    ),
    _row(Where.PREDICTOR, "model", YES),
    _row(Where.PREDICTOR, " ".join(FRAMEWORKS), _yes("as `model`, if its command is vLLM's")),
    SupportRow(
        Where.PREDICTOR,
        ("minReplicas",),
        _no(_NO_DEMAND, Fact.COUNTED, ReasonCode.NO_SCALE_TO_ZERO),
        KSERVE,
        even_empty=True,
    ),
    _row(Where.PREDICTOR, "maxReplicas", _no(_NO_SCALING, Fact.FIXED_SCALE, ReasonCode.NO_AUTOSCALING)),
    _row(
        Where.PREDICTOR,
        "scaleTarget scaleMetric scaleMetricType autoScaling",
        _no(_NO_SCALING, code=ReasonCode.NO_AUTOSCALING),
    ),
    _row(
        Where.PREDICTOR,
        "containerConcurrency",
        _no("the engine queues by itself; bound it with --max-num-seqs"),
        _KNATIVE_ONLY,
    ),
    _row(Where.PREDICTOR, "canaryTrafficPercent", _yes("in every mode"), _KNATIVE_ONLY),
    _row(Where.PREDICTOR, "timeout", _yes("bounds a request")),
    _row(Where.PREDICTOR, "deploymentStrategy", YES),
    _row(Where.PREDICTOR, "storageUris", YES),
    _row(Where.PREDICTOR, "storageContainerName", _no("a host downloads models in its own way")),
    _row(Where.PREDICTOR, "labels annotations", _yes("for variables that name them")),
    _row(Where.PREDICTOR, "name", _yes("as the name of a canary")),
    SupportRow(Where.PREDICTOR, ("workerSpec",), _error(ELSEWHERE), KSERVE, even_empty=True),
    _row(Where.PREDICTOR, "logger", _no("requests are not copied anywhere")),
    _row(Where.PREDICTOR, "batcher", _no("the engine batches by itself")),
    # ------------------------------------------------------------ pod
    _row(Where.POD, "containers", _no("a host runs the model's container only", code=ReasonCode.CONTAINER_IGNORED)),
    _row(Where.POD, "initContainers", _no("a host runs the model's container only", code=ReasonCode.CONTAINER_IGNORED)),
    _row(
        Where.POD,
        "volumes",
        _no(_PROVIDED, code=ReasonCode.VOLUME_IGNORED),
    ),
    _row(Where.POD, "terminationGracePeriodSeconds", _yes("bounds the drain")),
    _row(Where.POD, "serviceAccountName serviceAccount", _yes("its Secrets open the model's storage")),
    _row(Where.POD, "nodeSelector nodeName", _yes("against the host's labels and name")),
    _row(Where.POD, "affinity", _yes("what node affinity requires; the rest has no effect, with a notice")),
    _row(Where.POD, "tolerations", _yes("against the host's taints; `tolerationSeconds` never expire, with a notice")),
    _row(Where.POD, "topologySpreadConstraints", _idle("all replicas run on this host")),
    _row(
        Where.POD,
        "schedulerName priority priorityClassName preemptionPolicy schedulingGates readinessGates",
        _idle(_NO_SCHEDULER),
    ),
    _row(Where.POD, "hostNetwork hostPID hostIPC shareProcessNamespace", _idle(_SHARED)),
    _row(Where.POD, "hostUsers", _no(_SHARED), KSERVE, False),
    _row(Where.POD, "securityContext", _no(_OWN_USER)),
    _row(Where.POD, "resources", _no("set them on the container")),
    _row(Where.POD, "restartPolicy", _idle("a replica that dies is always replaced")),
    _row(
        Where.POD,
        "dnsConfig dnsPolicy hostAliases hostname hostnameOverride subdomain setHostnameAsFQDN",
        _no(_OWN_NAMES),
    ),
    _row(
        Where.POD, "runtimeClassName os overhead activeDeadlineSeconds ephemeralContainers", _no(_NO_POD)
    ),
    _row(Where.POD, "resourceClaims", _no("a host leases what `resources.limits` name, for example nvidia.com/gpu")),
    _row(Where.POD, "automountServiceAccountToken enableServiceLinks", _idle(_NO_API)),
    _row(Where.POD, "imagePullSecrets", _no("podman uses the host's own /etc/containers/auth.json")),
    # ------------------------------------------------------------ container
    _row(Where.CONTAINER, "name command args env envFrom volumeMounts", YES),
    _row(Where.CONTAINER, "image", _yes("podman runs this image, or an interpreter of the host is used instead")),
    _row(
        Where.CONTAINER,
        "ports",
        _yes("as the port that the host leased; one named `h2c` is for gRPC, and the command must agree"),
    ),
    _row(Where.CONTAINER, "resources", _yes("requests, or limits where there are none; of the container, not the pod")),
    _row(
        Where.CONTAINER, "modelFormat runtime protocolVersion runtimeVersion storage storageUri", YES
    ),
    _row(
        Where.CONTAINER,
        "confidential",
        _error("a host cannot decrypt models in an enclave; " + ELSEWHERE, Fact.NOT_ENCRYPTED),
    ),
    _row(Where.CONTAINER, "readinessProbe livenessProbe startupProbe", _idle(_OWN_PROBES)),
    _row(Where.CONTAINER, "lifecycle", _no(_OWN_LIFE)),
    _row(Where.CONTAINER, "securityContext", _no(_OWN_USER)),
    _row(Where.CONTAINER, "workingDir", _no("a replica has a working directory of its own")),
    _row(Where.CONTAINER, "imagePullPolicy", _idle("an image that podman runs is pulled when it is missing")),
    _row(Where.CONTAINER, "restartPolicy restartPolicyRules", _no("a replica that dies is always replaced")),
    _row(Where.CONTAINER, "resizePolicy volumeDevices", _no(_NO_POD)),
    _row(
        Where.CONTAINER,
        "terminationMessagePath terminationMessagePolicy stdin stdinOnce tty",
        _idle("a replica writes to a log that the host keeps"),
    ),
    _row(Where.RUNTIME, "supportedModelFormats protocolVersions multiModel disabled", _yes("to choose a runtime")),
    _row(Where.RUNTIME, "labels annotations", _yes("for variables that name them")),
    _row(Where.RUNTIME, "workerSpec", _yes("to choose a runtime")),
    _row(
        Where.RUNTIME,
        "replicas builtInAdapter storageHelper grpcEndpoint grpcDataEndpoint httpDataEndpoint",
        _idle(_MESH),
    ),
    # ------------------------------------------------------------ annotations and labels
    _row(
        Where.ANNOTATION,
        "reconciler/gpu-memory-fraction",
        _yes("the service shares its one `nvidia.com/gpu` with others"),
        _no("a cluster leases whole GPUs"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/drain",
        _idle("a host drains at its proxy"),
        _yes("`false` adds no settings by which pods drain"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/open-paths",
        _yes("the proxy lets these paths through as well"),
        _no("a cluster's own ingress decides"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/force-conflicts",
        _idle("nothing but git sets fields of a host's services"),
        _yes("`true` takes fields from other tools that apply them"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/ignore",
        _idle("nothing but git sets fields of a host's services"),
        _yes("paths of fields that are left to others"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/prune",
        _no("a host deletes what git does not have"),
        _yes("`disabled` keeps the object when git does not have it any more"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/take-over",
        _idle("a host has no services of others"),
        _yes("`true` takes over the object that another tool made"),
    ),
    _row(
        Where.ANNOTATION,
        "reconciler/*",
        _no("unknown annotation; correct its name", code=ReasonCode.UNKNOWN_ANNOTATION),
        _no("unknown annotation; correct its name", code=ReasonCode.UNKNOWN_ANNOTATION),
    ),
    _row(Where.ANNOTATION, "serving.kserve.io/stop", _yes("`true` drains and stops every replica: Suspended")),
    _row(Where.ANNOTATION, "serving.kserve.io/deploymentMode", _yes("as KServe's rules for a pod; unset: Standard")),
    _row(Where.ANNOTATION, "serving.kserve.io/server-type", _yes("for the image's tag")),
    _row(Where.ANNOTATION, "serving.kserve.io/storageSecretName", YES),
    _row(
        Where.ANNOTATION,
        "serving.kserve.io/autoscalerClass serving.kserve.io/metric serving.kserve.io/targetUtilizationPercentage "
        "autoscaling.knative.dev/*",
        _no(_NO_SCALING, code=ReasonCode.NO_AUTOSCALING),
    ),
    _row(
        Where.ANNOTATION,
        "serving.kserve.io/disable-auto-update",
        _no("every replica follows git"),
        KSERVE,
        "true",
    ),
    _row(Where.ANNOTATION, "serving.kserve.io/gke-accelerator", _yes("as a nodeSelector, which it becomes")),
    _row(
        Where.ANNOTATION,
        "serving.kserve.io/enable-prometheus-scraping serving.kserve.io/enable-metric-aggregation "
        "prometheus.kserve.io/port prometheus.kserve.io/path",
        _idle("every replica's own metrics are published for Prometheus already"),
    ),
    _row(Where.ANNOTATION, "prometheus.io/path", _yes("path of the scrape target")),
    _row(
        Where.ANNOTATION,
        "prometheus.io/port",
        _no("nothing listens there, so no scrape target is published", Fact.SCRAPED_PORT, ReasonCode.NOT_SCRAPED),
    ),
    _row(Where.ANNOTATION, "prometheus.io/scrape", _yes("`false` publishes no scrape target")),
    _row(
        Where.ANNOTATION,
        "storage.kserve.io/readonly",
        _no("models are read-only on a host, because replicas share them"),
        KSERVE,
        "false",
    ),
    _row(
        Where.ANNOTATION,
        "opendatahub.io/recommended-accelerators",
        _no("this host has none of them", Fact.ACCELERATOR, ReasonCode.ACCELERATOR_MISMATCH),
        OPENSHIFT,
    ),
    _row(
        Where.ANNOTATION,
        "opendatahub.io/connections opendatahub.io/connection-path",
        _yes("its Secret defines where the model is: `uri`, or `s3` by storage.key"),
        OPENSHIFT,
    ),
    _row(
        Where.ANNOTATION,
        "opendatahub.io/hardware-profile-name opendatahub.io/hardware-profile-namespace",
        _yes("if that HardwareProfile is in git; else with a notice"),
        OPENSHIFT,
    ),
    _row(Where.ANNOTATION, "openshift.io/display-name", _yes("shown; a runtime may be named by it"), OPENSHIFT),
    _row(Where.LABEL, "opendatahub.io/dashboard", _yes("`false` hides it from the status page"), OPENSHIFT),
    _row(
        Where.ANNOTATION,
        "serving.knative.openshift.io/enablePassthrough",
        _idle("the engine does not end TLS, so there is nothing to pass through", Fact.TLS),
        _KNATIVE_ONLY,
    ),
    _row(Where.ANNOTATION, "sidecar.istio.io/inject", _idle(_NO_MESH), _yes("by Istio")),
    _row(Where.ANNOTATION, "sidecar.istio.io/rewriteAppHTTPProbers", _idle(_OWN_PROBES), _yes("by Istio")),
    _row(
        Where.ANNOTATION,
        "security.opendatahub.io/enable-auth",
        _error(_GUARD, Fact.AUTH, ReasonCode.NO_AUTH),
        _error("nothing enforces it there", Fact.AUTH, ReasonCode.NO_AUTH),
        "true",
    ),
    _row(
        Where.LABEL,
        "security.openshift.io/enable-authentication",
        _error(_GUARD, Fact.AUTH, ReasonCode.NO_AUTH),
        _error("nothing enforces it there", Fact.AUTH, ReasonCode.NO_AUTH),
        "true",
    ),
    _row(
        Where.LABEL,
        "networking.kserve.io/visibility",
        _no("the proxy has one address for all services", Fact.PRIVATE),
        KSERVE,
        "cluster-local",
    ),
)  # fmt: skip

_BY_KEY: Final = {(row.where, key): row for row in ROWS for key in row.keys}


def find_row(where: Where, key: str) -> SupportRow | None:
    """The row of one field; an annotation may be covered by a prefix."""
    return _BY_KEY.get((where, key)) or (_BY_KEY.get((where, f"{key.partition('/')[0]}/*")) if "/" in key else None)
