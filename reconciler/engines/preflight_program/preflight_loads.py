"""What a server loads by name after parsing its configuration: its tokenizer, connectors, classes and their packages.

Imported by preflight_probe.py, and like it: standard library and vLLM only, Python 3.9 and later.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.engines.preflight_program.preflight_parser import Environment, Unknown, first_of
    from reconciler.engines.preflight_program.preflight_text import Finding, Option, describe
else:
    # A script finds its neighbours by their bare names.
    from preflight_parser import Environment, Unknown, first_of
    from preflight_text import Finding, Option, describe

# vLLM imports these only when the server starts. Of several, one is enough.
CONNECTORS = {
    "LMCache": ("lmcache",),
    "Nixl": ("nixl", "nixl_rocm"),
    "Mooncake": ("mooncake",),
    "MoRIIO": ("mori",),
    "FlexKV": ("flexkv",),
    "HF3FS": ("hf3fs_fuse",),
}
LOADERS = {
    "runai_streamer": ("runai_model_streamer",),
    "runai_streamer_sharded": ("runai_model_streamer",),
    "tensorizer": ("tensorizer",),
    "fastsafetensors": ("fastsafetensors",),
    "instanttensor": ("instanttensor",),
}
GRPC_SERVER = "vllm.entrypoints.grpc_server"
CLASSES = ("middleware", "worker_cls", "worker_extension_cls", "scheduler_cls", "logits_processors")


class Unimportable(Environment):
    """This interpreter has not what an argument names: it may be installed there without a commit."""


def check_imports(args: argparse.Namespace, options: list[Option]) -> None:
    """Raises Unimportable."""
    for dest, fault in unimportable(args):
        given = [o for o in options if o.name.strip("-").replace("-", "_") == dest]
        index = given[-1].index if given else None
        raise Unimportable(f"--{dest.replace('_', '-')}: {fault}", index)


def check_grpc(args: argparse.Namespace, options: list[Option]) -> None:
    """vLLM's gRPC server comes with an extra, its Rust frontend with some builds. Raises Unimportable."""
    if getattr(args, "grpc_port", None) is not None:
        check_rust(options)
    if not getattr(args, "grpc", False):
        return
    try:
        importlib.import_module(GRPC_SERVER)
    except Exception as error:
        given = [o for o in options if o.name == "--grpc"]
        cause = describe(error.__cause__ or error)
        text = f"--grpc: this interpreter cannot serve gRPC ({cause}); install vLLM's extra grpc there"
        hint = f"{sys.executable} -m pip install smg-grpc-servicer"
        raise Unimportable(f"{text}: {hint}", given[-1].index if given else None) from error


def check_rust(options: list[Option]) -> None:
    """Raises Unimportable."""
    try:
        found = vllm_module("vllm.envs").VLLM_RUST_FRONTEND_PATH
        importlib.metadata.version("vllm")
    except Exception as error:
        found, why = None, describe(error)
    else:
        why = "no program vllm-rs"
    if not found:
        given = [o for o in options if o.name == "--grpc-port"]
        text = (
            f"--grpc-port: this build of vLLM has no Rust frontend ({why}); write --grpc, or install a build that has"
        )
        raise Unimportable(f"{text} it, as vLLM's for CUDA", given[-1].index if given else None)


def check_variables(request: dict[str, Any]) -> list[Finding]:
    """What vLLM cannot read of its variables; some it reads only once the server runs. Raises Environment.

    Those that git does not set are this host's.
    """
    readers = getattr(vllm_module("vllm.envs"), "environment_variables", {})
    findings = []
    for name in sorted(os.environ.keys() & readers.keys()):
        try:
            readers[name]()
        except Exception as error:
            text = f"variable {name}: {describe(error)}"
            if name not in request.get("variables", ()):
                raise Environment(text) from error
            findings.append(Finding(text))
    return findings


def vllm_module(name: str) -> Any:
    """None where this version has none of that name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def unimportable(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Arguments by their name in Python, each with what cannot be imported for it."""
    transfer = getattr(args, "kv_transfer_config", None)
    for name, module in connectors_of(transfer):
        yield from (("kv_transfer_config", fault) for fault in connector_faults(name, module))
    load_format = str(getattr(args, "load_format", ""))
    yield from (("load_format", fault) for fault in lacking(LOADERS.get(load_format, ()), load_format))
    for dest in CLASSES:
        given = getattr(args, dest, None)
        for path in [given] if isinstance(given, str) else given or ():
            if isinstance(path, str) and fault_of_class(path):
                yield dest, fault_of_class(path)


def connectors_of(transfer: Any) -> Iterator[tuple[str, str]]:
    """Name and module of each connector; of several behind one, each of them."""
    if transfer is None:
        return
    given = transfer if isinstance(transfer, dict) else vars(transfer)
    name = str(given.get("kv_connector") or "")
    if name:
        yield name, str(given.get("kv_connector_module_path") or "")
    more = given.get("kv_connector_extra_config") or {}
    for each in more.get("connectors", ()) if isinstance(more, dict) else ():
        yield from connectors_of(each)


def connector_faults(name: str, module: str) -> Iterator[str]:
    if module:
        if fault := fault_of_class(f"{module}.{name}"):
            yield fault
        return
    needed = next((packages for prefix, packages in CONNECTORS.items() if name.startswith(prefix)), ())
    yield from lacking(needed, name)


def lacking(packages: tuple[str, ...], what: str) -> Iterator[str]:
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        yield f"{what} needs the Python package {packages[0]}, which this interpreter does not have"


def fault_of_class(path: str) -> str:
    """`module.Class`, or `module:Class`; a name alone is one of vLLM's own."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        return ""
    try:
        found = importlib.import_module(module)
    except Exception as error:
        return f"{module} cannot be imported: {describe(error)}"
    return "" if hasattr(found, name) else f"{module} has no {name}"


def tokenizer_faults(config: Any, options: list[Option]) -> list[Finding]:
    """The server reads it before it loads any weights."""
    model = config.model_config
    if getattr(model, "skip_tokenizer_init", False):
        return []
    try:
        load = first_of("vllm.tokenizers.registry", "vllm.transformers_utils.tokenizer").cached_tokenizer_from_config
    except (Unknown, AttributeError):
        return []
    try:
        load(model)
    except (ImportError, MemoryError) as error:
        raise Environment(f"the tokenizer cannot be loaded here: {describe(error)}") from error
    except Exception as error:
        named = [o for o in options if o.name == "--tokenizer"] or [o for o in options if o.name == "--model"]
        text = f"the tokenizer in {getattr(model, 'tokenizer', '')} cannot be loaded: {describe(error)}"
        return [Finding(text, named[-1].index if named else None)]
    return []
