"""Names that KServe gives a meaning to: containers, volumes, annotations, labels."""

from __future__ import annotations

GROUP = "serving.kserve.io"
RUNTIME_KINDS = ("ServingRuntime", "ClusterServingRuntime")
INTERNAL = f"internal.{GROUP}"

KSERVE_CONTAINER = "kserve-container"
TRANSFORMER_CONTAINER = "transformer-container"
WORKER_CONTAINER = "worker-container"
STORAGE_INITIALIZER = "storage-initializer"
AGENT_CONTAINER = "agent"

MODEL_MOUNT = "/mnt/models"
MODEL_VOLUME = "kserve-provision-location"
PVC_VOLUME = "kserve-pvc-source"

DEPLOYMENT_MODE = f"{GROUP}/deploymentMode"
AUTOSCALER_CLASS = f"{GROUP}/autoscalerClass"
STOP = f"{GROUP}/stop"
# OpenShift AI's.
CONNECTIONS = "opendatahub.io/connections"
CONNECTION_PATH = "opendatahub.io/connection-path"
CONNECTION_TYPE = "opendatahub.io/connection-type"
HARDWARE_PROFILE = "opendatahub.io/hardware-profile-name"
HARDWARE_PROFILE_NAMESPACE = "opendatahub.io/hardware-profile-namespace"
SERVER_TYPE = f"{GROUP}/server-type"
GPU_RESOURCE_TYPES = f"{GROUP}/gpu-resource-types"
GKE_ACCELERATOR = f"{GROUP}/gke-accelerator"
METRIC_AGGREGATION = f"{GROUP}/enable-metric-aggregation"
PROMETHEUS_SCRAPING = f"{GROUP}/enable-prometheus-scraping"
INITIALIZER_UID = f"{GROUP}/storage-initializer-uid"
STORAGE_READ_ONLY = "storage.kserve.io/readonly"
MODEL_FORMAT = "modelFormat"
KNATIVE_AUTOSCALING_CLASS = "autoscaling.knative.dev/class"
DISPLAY_NAME = "openshift.io/display-name"
EXECUTOR_BACKEND = "multinode/executor-backend"

SOURCE_URI = f"{INTERNAL}/storage-initializer-sourceuri"
STORAGE_SPEC = f"{INTERNAL}/storage-spec"
STORAGE_SPEC_PARAM = f"{INTERNAL}/storage-spec-param"
STORAGE_SPEC_KEY = f"{INTERNAL}/storage-spec-key"
STORAGE_CONTAINER_NAME = f"{INTERNAL}/storage-container-name"
AGENT = f"{INTERNAL}/agent"
AGENT_CONFIG_VOLUME = f"{INTERNAL}/configVolumeName"
AGENT_CONFIG_MOUNT = f"{INTERNAL}/configMountPath"
AGENT_MODEL_DIR = f"{INTERNAL}/modelDir"
LOGGER = f"{INTERNAL}/logger"
BATCHER = f"{INTERNAL}/batcher"
CONFIDENTIAL = f"{INTERNAL}/confidential-enabled"
CONFIDENTIAL_RESOURCE = f"{INTERNAL}/confidential-resource-id"

DISABLE_LOCAL_MODEL = f"{GROUP}/disable-localmodel"
NODE_GROUP = f"{GROUP}/nodegroup"
LOCAL_MODEL = f"{INTERNAL}/localmodel"
LOCAL_MODEL_NAMESPACE = f"{INTERNAL}/localmodel-namespace"
LOCAL_MODEL_URI = f"{INTERNAL}/localmodel-sourceuri"
LOCAL_MODEL_CLAIM = f"{INTERNAL}/localmodel-pvc-name"

SERVICE_LABEL = f"{GROUP}/inferenceservice"

STANDARD, KNATIVE, MODEL_MESH = "Standard", "Knative", "ModelMesh"
LEGACY_MODES = {"RawDeployment": STANDARD, "Serverless": KNATIVE}

# Annotations of a service that do not reach its pods.
DISALLOWED_ANNOTATIONS = frozenset(
    {
        "autoscaling.knative.dev/min-scale",
        "autoscaling.knative.dev/max-scale",
        SOURCE_URI,
        "kubectl.kubernetes.io/last-applied-configuration",
        MODEL_FORMAT,
    }
)

# Old framework fields of a predictor, in the order in which KServe looks at them.
FRAMEWORKS = (
    "sklearn",
    "tensorflow",
    "xgboost",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
)

# The same in the order in which KServe counts implementations.
IMPLEMENTATIONS = (
    "xgboost",
    "pytorch",
    "triton",
    "sklearn",
    "tensorflow",
    "onnx",
    "pmml",
    "lightgbm",
    "paddle",
    "huggingface",
    "model",
)
FRAMEWORK_SET = frozenset(FRAMEWORKS)

_SERVER_TYPES = {
    "kserve-mlserver": "mlserver",
    "kserve-torchserve": "torchserve",
    "kserve-tritonserver": "tritonserver",
    "kserve-tensorflow-serving": "tensorflow-serving",
    "kserve-huggingfaceserver": "huggingfaceserver",
    "kserve-vllmserver": "vllmserver",
}


def server_type_of(runtime_name: str) -> str:
    """Server type of a runtime that is known by its name alone; empty for all others."""
    return _SERVER_TYPES.get(runtime_name, "")


def predictor_name(service: str, variant: str = "") -> str:
    """Name of a predictor's Deployment and Service."""
    return f"{service}-{variant}-predictor" if variant else f"{service}-predictor"


METADATA_REACHES_PODS = frozenset(
    (GROUP, kind) for kind in ("InferenceService", "InferenceGraph", "LLMInferenceService")
)
"""Group and kind of objects whose labels and annotations are copied to their pods: a new one restarts these."""
