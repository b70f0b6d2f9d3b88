"""KServe's agent: the sidecar for multi-model servers, request logging and batching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve import gojson, names
from reconciler.kserve.credentials import Vault, account_credentials
from reconciler.kserve.pod import Container, Pod, first_port, set_env
from reconciler.kserve.predictor import is_multi_model
from reconciler.kserve.storage import StorageError

_PORT = 9081
_MODEL_CONFIG = "/mnt/configs"
_CA_VOLUME = "agent-ca-bundle"
_QUEUE = "queue-proxy"
Document = Mapping[str, Any]


def request_annotations(service_name: str, predictor: Document) -> dict[str, str]:
    """Annotations by which the controller requests the agent from the pod webhook."""
    found: dict[str, str] = {}
    logger, batcher = predictor.get("logger"), predictor.get("batcher")
    if logger is not None:
        found |= {names.LOGGER: "true", f"{names.LOGGER}-mode": logger.get("mode", "")}
        if "url" in logger:
            found[f"{names.LOGGER}-sink-url"] = logger["url"]
        for key, suffix in (("metadataHeaders", "-metadata-headers"), ("metadataAnnotations", "-metadata-annotations")):
            if key in logger:
                found[names.LOGGER + suffix] = ",".join(logger[key])
    if batcher is not None:
        found[names.BATCHER] = "true"
        for key, suffix in (("maxBatchSize", "-max-batchsize"), ("maxLatency", "-max-latency")):
            if key in batcher:
                found[names.BATCHER + suffix] = str(batcher[key])
    if is_multi_model(predictor):
        found |= {
            names.AGENT: "true",
            names.AGENT_CONFIG_VOLUME: f"modelconfig-{service_name}-0",
            names.AGENT_CONFIG_MOUNT: _MODEL_CONFIG,
            names.AGENT_MODEL_DIR: names.MODEL_MOUNT,
        }
    return found


def inject_agent(pod: Pod, name: str, namespace: str, logger: Document | None, vault: Vault) -> None:
    """Add the agent if the pod's annotations request it. `name` is the pod's. Raises StorageError."""
    desired = {key for key in (names.LOGGER, names.AGENT, names.BATCHER) if key in pod.annotations}
    if not desired or pod.container(names.AGENT_CONTAINER):
        return
    settings = _logger_settings(logger, vault) if names.LOGGER in desired else {}
    agent = _container(pod, _arguments(pod, desired, name, namespace, settings), vault)
    if bundle := settings.get("caBundle"):
        pod.volumes.append({"name": _CA_VOLUME, "configMap": {"name": bundle, "optional": True}})
        agent["volumeMounts"] = [{"name": _CA_VOLUME, "mountPath": "/etc/tls/logger", "readOnly": True}]
    _add_credentials(pod, agent, settings.get("storage"), vault)
    pod.containers.append(agent)
    if names.AGENT in desired:
        if names.AGENT_MODEL_DIR not in pod.annotations or names.AGENT_CONFIG_VOLUME not in pod.annotations:
            raise StorageError(f"can not find {names.AGENT_CONFIG_VOLUME} label")
        _mount(pod, {"name": "model-dir", "emptyDir": {}}, names.MODEL_MOUNT, agent, pod.container("kserve-container"))
        config = pod.annotations[names.AGENT_CONFIG_VOLUME]
        _mount(pod, {"name": "model-config", "configMap": {"name": config}}, _MODEL_CONFIG, agent)


def _logger_settings(logger: Document | None, vault: Vault) -> Document:
    """Settings of the ConfigMap, overridden by those of the service; with a logger only its own store counts."""
    settings = vault.config["logger"]
    if logger is None:
        return settings
    own = {key: logger[key] for key in ("marshallerUrl", "batchSize", "batchInterval") if key in logger}
    return {**settings, **own, "storage": logger.get("storage")}


def _arguments(pod: Pod, desired: set[str], name: str, namespace: str, logger: Document) -> list[str]:
    notes = pod.annotations
    args: list[str] = []
    if names.AGENT in desired:
        args.append("--enable-puller")
        for key, flag in ((names.AGENT_CONFIG_MOUNT, "--config-dir"), (names.AGENT_MODEL_DIR, "--model-dir")):
            if key in notes:
                args += [flag, notes[key]]
    if names.BATCHER in desired:
        args.append("--enable-batcher")
        for suffix, flag in (("-max-batchsize", "--max-batchsize"), ("-max-latency", "--max-latency")):
            if names.BATCHER + suffix in notes:
                args += [flag, notes[names.BATCHER + suffix]]
    if names.LOGGER in desired:
        args += _logger_arguments(pod, name, namespace, logger)
    transformer = pod.container(names.TRANSFORMER_CONTAINER)
    serving = transformer or pod.container(names.KSERVE_CONTAINER) or {}
    return [*args, "--component-port", str(first_port(serving))]


def _logger_arguments(pod: Pod, name: str, namespace: str, logger: Document) -> list[str]:
    notes, key = pod.annotations, names.LOGGER
    url = notes.get(f"{key}-sink-url", str(logger.get("defaultUrl", "")))
    args = ["--log-url", url, "--source-uri", name]
    args += ["--log-mode", notes.get(f"{key}-mode", "all")]
    args += ["--inference-service", pod.labels.get(names.SERVICE_LABEL, ""), "--namespace", namespace]
    args += ["--endpoint", pod.labels.get("endpoint", ""), "--component", pod.labels.get("component", "")]
    store = logger.get("storage") or {}
    optional = {
        "--log-store-path": store.get("path"),
        "--log-store-format": (store.get("parameters") or {}).get("format"),
        "--log-marshaller-url": logger.get("marshallerUrl"),
        "--log-batch-size": max(logger.get("batchSize") or 0, 0),
        "--log-batch-interval": logger.get("batchInterval"),
    }
    for flag, value in optional.items():
        if value:
            args += [flag, str(value)]
    if f"{key}-metadata-headers" in notes:
        args += ["--metadata-headers", notes[f"{key}-metadata-headers"]]
    if f"{key}-metadata-annotations" in notes:
        desired = notes[f"{key}-metadata-annotations"].split(",")
        found = [f"{item}={notes[item]}" for item in desired if item in notes]
        args += ["--metadata-annotations", ",".join(found)]
    if certificate := logger.get("caCertFile"):
        args += ["--logger-ca-cert-file", certificate]
    return [*args, "--logger-tls-skip-verify", "true" if logger.get("tlsSkipVerify") else "false"]


def _container(pod: Pod, args: list[str], vault: Vault) -> Container:
    settings = vault.config["agent"]
    transformer = pod.container(names.TRANSFORMER_CONTAINER)
    queue = pod.container(_QUEUE)
    probe = {} if queue else (transformer or pod.containers[0]).get("readinessProbe") or {}
    agent: Container = {
        "name": names.AGENT_CONTAINER,
        "image": settings.get("image", ""),
        "args": args,
        "env": list(queue.get("env") or ()) if queue else [],
        "ports": [{"name": "agent-port", "containerPort": _PORT, "protocol": "TCP"}],
        "resources": {
            "limits": {"cpu": settings.get("cpuLimit", "1"), "memory": settings.get("memoryLimit", "1Gi")},
            "requests": {"cpu": settings.get("cpuRequest", "100m"), "memory": settings.get("memoryRequest", "100Mi")},
        },
        "readinessProbe": {
            "httpGet": {
                "path": (probe.get("httpGet") or {}).get("path") or "/",
                "port": _PORT,
                "scheme": "HTTP",
                "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}],
            },
        },
    }
    if queue and any(item.get("name") == "USER_PORT" for item in queue.get("env") or ()):
        set_env(queue, "USER_PORT", str(_PORT))
    if "httpGet" in probe or "tcpSocket" in probe:
        agent["env"].append({"name": "SERVING_READINESS_PROBE", "value": _probe_json(probe)})
    if "securityContext" in pod.containers[0]:
        agent["securityContext"] = pod.containers[0]["securityContext"]
    return agent


# The order in which Go writes the fields of a probe.
_PROBE_ORDER = [
    "exec",
    "httpGet",
    "tcpSocket",
    "grpc",
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
]
_HANDLER_ORDER = ["path", "port", "host", "scheme", "httpHeaders"]


def _probe_json(probe: Document) -> str:
    ordered = {key: probe[key] for key in _PROBE_ORDER if key in probe}
    # What the API server fills in before the pod webhook sees the probe.
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    ordered |= {key: value for key, value in defaults.items() if key not in ordered}
    ordered = {key: ordered[key] for key in _PROBE_ORDER if key in ordered}
    for key in ("httpGet", "tcpSocket"):
        if key in ordered:
            handler = dict(ordered[key])
            if key == "httpGet":
                handler = {"path": "/", "scheme": "HTTP", **handler}
            ordered[key] = {name: handler[name] for name in _HANDLER_ORDER if name in handler}
    return gojson.dumps(ordered)


def _add_credentials(pod: Pod, agent: Container, store: Document | None, vault: Vault) -> None:
    accounts = [pod.fields.get("serviceAccountName", "")]
    if store is not None:
        accounts.append(store.get("serviceAccountName") or "logger-sa")
    for account in accounts:
        given = account_credentials(account, pod.annotations, vault)
        agent["env"] = [*agent["env"], *given.env]
        if given.mounts:
            agent["volumeMounts"] = [*agent.get("volumeMounts", ()), *given.mounts]
        for volume in given.volumes:
            pod.add_volume(volume)


def _mount(pod: Pod, volume: Document, path: str, *containers: Container | None) -> None:
    pod.add_volume(volume)
    for container in containers:
        if container is not None:
            mount = {"name": volume["name"], "mountPath": path}
            container["volumeMounts"] = [*container.get("volumeMounts", ()), mount]
