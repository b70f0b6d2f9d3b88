"""What an engine would download by itself when it starts, and which token our own download has. Pure.

Engines are kept off the Hugging Face Hub: what they start from is staged before anything is stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.settings import EngineSettings
from reconciler.desired.origins import Origins, at
from reconciler.desired.secrets import Keyring
from reconciler.engines.arguments import flag_value
from reconciler.engines.container import Revealed, server_flags
from reconciler.engines.file_arguments import FileContent, Named, is_below, remote_names
from reconciler.model import EffectiveSpec, EnvVar, Mount, Reason, ReasonCode
from reconciler.model.model_sources import ModelSource, shown, source_of

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Where they are set, models may lie in a cache that only the engine knows.
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "XDG_CACHE_HOME")
_TRUE = frozenset({"1", "on", "yes", "true"})
# With these vLLM reads object storage itself.
_STREAMS = ("runai_streamer", "runai_streamer_sharded", "modelexpress", "tensorizer")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def engine_downloads(
    spec: EffectiveSpec,
    engine: EngineSettings | None,
    names: Revealed,
    origins: Origins,
) -> Iterator[Reason]:
    """Arguments by which the engine would look for a model elsewhere, and find nothing: what to write instead."""
    flags = server_flags(spec, names)
    is_offline = _is_offline(spec, engine)
    streams = flag_value(flags, "--load-format") in _STREAMS
    for each in remote_names(flags):
        is_of_hub = "://" not in each.path or source_of(each.path) is ModelSource.HUB
        if is_offline if is_of_hub else not streams:
            where = each.argument.origin or origins.of_container_field("args")
            yield Reason(ReasonCode.ENGINE_DOWNLOAD, _text(each, is_of_hub, spec, origins), where)


def unused_tokens(spec: EffectiveSpec, ring: Keyring, origins: Origins) -> Iterator[Reason]:
    """A token that the container has and the fetch of its model has not: so it is on KServe."""
    mine = [each for each in spec.env if each.name in _TOKENS]
    for mount in spec.mounts:
        if mine and source_of(mount.uri) is ModelSource.HUB and not _has_token(mount, ring):
            name = mine[0].name
            text = (
                f"variable {name} is not used to fetch {shown(mount.uri)}, as on KServe: a model that needs a token is "
                "fetched with HF_TOKEN of a Secret of its serviceAccountName, or of targets[].storage.env in the config"
            )
            yield Reason(ReasonCode.TOKEN_NOT_USED, text, origins.of_variable(name))


def _has_token(mount: Mount, ring: Keyring) -> bool:
    return any(name in _TOKENS for name in (*(each.name for each in mount.env), *ring.target.storage.env))


def _is_offline(spec: EffectiveSpec, engine: EngineSettings | None) -> bool:
    """Certainly so: an engine is offline unless git or the config says otherwise, or gives it a cache."""
    given = {each.name: each for each in spec.env} | {
        name: EnvVar(name, value) for name, value in (engine.env if engine else {}).items()
    }
    if given.keys() & {*_CACHES}:
        return False
    told = given.get(_OFFLINE[0])
    others = given.get(_OFFLINE[1])
    return told is None or _is_true(told) or (others is not None and _is_true(others))


def _is_true(variable: EnvVar) -> bool:
    return not variable.source and variable.value.strip().lower() in _TRUE


def _uses_modelscope(spec: EffectiveSpec) -> bool:
    return any(each.name == "VLLM_USE_MODELSCOPE" and _is_true(each) for each in spec.env)


def _text(named: Named, is_of_hub: bool, spec: EffectiveSpec, origins: Origins) -> str:
    hub = "modelscope" if _uses_modelscope(spec) else "hf"
    uri = shown(named.path) if "://" in named.path else f"{hub}://{named.path}"
    what = f"{named.flag} {shown(named.path)}"
    if is_of_hub:
        where = "ModelScope" if hub == "modelscope" else "the Hugging Face Hub"
        why = f"names a model of {where}, and engines here download nothing"
        other = 'or let them: HF_HUB_OFFLINE: "0" in targets[].engines[].env of the config'
    else:
        why = "is not a folder, and engines here cannot download"
        other = "or --load-format=runai_streamer where the engine has that package"
    return f"{what} {why}; {_instead(named, uri, spec, origins)}, {other}"


def _instead(named: Named, uri: str, spec: EffectiveSpec, origins: Origins) -> str:
    mounted = next((each for each in spec.mounts if is_below("/mnt/models", each.path)), None)
    if named.holds is FileContent.MODEL and named.flag == "--model":
        if mounted is not None:
            return f"the model's files are at {mounted.path}: write --model={mounted.path}"
        has_field = bool(at(origins.service, ("spec", "predictor", "model")))
        field = f"storageUri: {uri}" if has_field else f"storageUris: [{{uri: {uri}}}] in the predictor"
        return f"write {field} and --model=/mnt/models"
    name = uri.rstrip("/").rpartition("/")[2] or "more"
    return f"add it as storageUris: {{uri: {uri}, mountPath: /mnt/{name}}}, and name that folder"
