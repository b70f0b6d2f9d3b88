"""A command from git starts vLLM and nothing else, and its variables load no code into an interpreter of the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import EngineSettings, HostSettings, Secrets
from reconciler.engines.container import API_SERVER, Revealed, unsupported
from reconciler.engines.environment import Folders, loads_code
from reconciler.engines.launch import launch, question
from reconciler.host.staging.stager import request_for
from reconciler.manifests import read_manifests
from reconciler.model import EffectiveSpec, EnvVar, Lease, Mount, Origin, ServiceId, Stage, texts
from reconciler.preview.on_cluster import Document
from reconciler.preview.on_host import validate_on
from reconciler.secrets import SecretStore, StoredSecret
from tests.desired.test_desired import TARGET, snapshot, with_model
from tests.support.arguments import written, written_in

NATIVE = EngineSettings(image="*", python=Path(sys.executable))
CONTAINER = EngineSettings(image="*", podman=True)
SERVICE, FOLDERS = ServiceId("default", "chat"), Folders("/state/home", "/state/tmp")


def spec_of(*command: str, **env: str) -> EffectiveSpec:
    return EffectiveSpec("image", written(*command), (), tuple(EnvVar(k, v) for k, v in env.items()))


def started(spec: EffectiveSpec, engine: EngineSettings = NATIVE, secrets: Revealed = Revealed()) -> dict[str, str]:  # noqa: B008
    return dict(launch(spec, engine, SERVICE, Lease(1), {}, 1.0, FOLDERS, secrets).env)


@pytest.mark.parametrize(
    "options",
    [
        ["-cimport os; os.system('id')"],
        ["-c", "import os"],
        ["-uBcprint(1)"],
        ["-i"],
        ["-ui"],
        ["-"],
        ["--"],
        ["-x"],
        ["-X", "presite=evil"],
        ["-Xpresite=evil"],
        ["-X", "pycache_prefix=/mnt/models"],
        ["-W", "ignore::evil.Warning"],
        ["-Wignore::evil.Warning"],
        ["--check-hash-based-pycs", "never"],
        ["-mevil"],
    ],
)
def test_interpreter_option_that_runs_other_code_is_refused(options: list[str]) -> None:
    spec = spec_of("python3", "-u", *options, "-m", API_SERVER)
    (reason,) = unsupported(replace(spec, command=written_in("r.yaml", 0, texts(spec.command))))
    assert reason.code == "UnsupportedCommand"
    assert reason.origin == Origin("r.yaml", 2)
    assert "can run other code than vLLM" in reason.message or "not a script" in reason.message
    with pytest.raises(ValueError, match=r"other code|script"):
        started(spec)


def test_interpreter_option_without_other_code_is_kept() -> None:
    options = ("-u", "-BOOsE", "-W", "ignore", "-Werror::UserWarning", "-X", "utf8=1", "-Xfaulthandler", "-bb")
    spec = spec_of("python3", *options, "-m", API_SERVER)
    assert unsupported(spec) == ()
    argv = launch(spec, NATIVE, SERVICE, Lease(1), {}, 1.0, FOLDERS).argv
    assert argv[1 : len(options) + 1] == options
    subprocess.run([sys.executable, *options, "-m", "platform"], check=True, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", f"python3 -m {API_SERVER}; id"),
        ("/bin/bash", "-lc", "vllm serve"),
        ("env", "LD_PRELOAD=/x", "vllm", "serve"),
        ("/usr/bin/env", "-S", "vllm serve"),
        ("nohup", "vllm", "serve"),
        ("numactl", "vllm", "serve"),
        ("python3", "-m", "vllm.entrypoints.evil_server"),
        ("python3", "-m", "vllm.entrypoints.cli.main", "bench"),
        ("python3", "-m", "runpy", API_SERVER),
        ("$(SHELL)", "-m", API_SERVER),
        ("python3", "-W", "-m", API_SERVER),
        ("/mnt/models/python3", "-m", API_SERVER),
        ("/mnt/../mnt/models/bin/vllm", "serve"),
    ],
)
def test_command_that_is_not_vllm_alone_is_refused(command: tuple[str, ...]) -> None:
    spec = replace(spec_of(*command, SHELL="/bin/sh"), mounts=(Mount("s3://b/m"),))
    assert [reason.code for reason in unsupported(spec)] == ["UnsupportedCommand"]


LOADERS = {
    "LD_PRELOAD": "/mnt/models/evil.so",
    "LD_AUDIT": "/x",
    "PYTHONPATH": "/mnt/models",
    "PYTHONSTARTUP": "/mnt/models/x.py",
    "PYTHONHOME": "/mnt/models",
    "PYTHONINSPECT": "1",
    "PYTHONBREAKPOINT": "evil.run",
    "PYTHONPYCACHEPREFIX": "/mnt/models",
    "PYTHONWARNINGS": "ignore::evil.Warning",
    "BASH_ENV": "/mnt/models/x.sh",
    "ENV": "/mnt/models/x.sh",
    "BASH_FUNC_ls%%": "() { id; }",
    "GCONV_PATH": "/mnt/models",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "LOCPATH": "/mnt/models",
    "NODE_OPTIONS": "--require=/mnt/models/x.js",
    "PERL5OPT": "-Mevil",
    "OPENSSL_CONF": "/mnt/models/x.cnf",
    "NCCL_NET_PLUGIN": "/mnt/models/libnet.so",
    "VLLM_NCCL_SO_PATH": "/mnt/models/x.so",
    "TRITON_PTXAS_PATH": "/mnt/models/ptxas",
    "HSA_TOOLS_LIB": "/mnt/models/x.so",
    "CC": "/mnt/models/cc",
}
HARMLESS = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore,error::UserWarning",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "LDAP": "x",
    "ENVIRONMENT": "prod",
    "HF_TOKEN": "t",
    "MALLOC_ARENA_MAX": "2",
    "NCCL_NET_PLUGIN": "none",
    "CC": "gcc",
    "TRITON_CACHE_DIR": "/mnt/cache",
}


@pytest.mark.parametrize("name", LOADERS)
def test_variable_that_loads_code_never_reaches_a_hosts_interpreter(name: str) -> None:
    value = LOADERS[name]
    spec = spec_of("vllm", "serve", **{name: value})
    assert name not in started(spec)
    assert name not in question(spec, NATIVE, {}, "/h").env
    assert name not in question(spec, NATIVE, {}, "/h").given
    whole = EnvVar("*", source="secret s/*")
    secret = replace(spec, env=(whole,))
    assert name not in started(secret, secrets=Revealed({whole: {name: value}}))


def test_variable_that_loads_code_is_given_by_config_or_within_image() -> None:
    engine = NATIVE.model_copy(update={"env": {"LD_PRELOAD": "/usr/lib/libtcmalloc.so"}})
    assert started(spec_of("vllm", "serve", LD_PRELOAD="/x"), engine)["LD_PRELOAD"] == "/usr/lib/libtcmalloc.so"
    assert started(spec_of("vllm", "serve", LD_PRELOAD="/x"), CONTAINER)["LD_PRELOAD"] == "/x"


def order_of(given: dict[str, str], **host: str) -> Mapping[str, str]:
    whole = EnvVar("*", source="secret s/*")
    held = StoredSecret("team", "s", Origin("s.yaml", 1), {"GCONV_PATH": b"/x", "TOKEN": b"t"})
    env = (whole, *(EnvVar(name, value) for name, value in given.items()))
    stage = Stage(ServiceId("team", "chat"), "0" * 16, Mount("s3://a/b", env=env), "test")
    return request_for(stage, Path("/f"), Path("/m"), host, SecretStore({held.key: held})).env


def test_variable_that_loads_code_never_reaches_what_fetches_a_model() -> None:
    found = order_of({**LOADERS, "AWS_REGION": "x"})
    assert not found.keys() & (LOADERS.keys() | {"GCONV_PATH"})
    assert (found["AWS_REGION"], found["TOKEN"]) == ("x", "t")
    assert order_of(LOADERS, OPENSSL_CONF="/etc/ours.cnf")["OPENSSL_CONF"] == "/etc/ours.cnf"


@pytest.mark.parametrize("name", HARMLESS)
def test_variable_that_loads_nothing_is_passed_on(name: str) -> None:
    assert not loads_code(name, HARMLESS[name])
    assert started(spec_of("vllm", "serve", **{name: HARMLESS[name]}))[name] == HARMLESS[name]


# ---------------------------------------------------------------- messages for the author

SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: team}\nstringData: {GCONV_PATH: /x, TOKEN: t}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: team}\ndata: {BASH_ENV: /x, COLOUR: red}\n"

CONTAINER_OF_STORAGE = """
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterStorageContainer
metadata: {name: default}
spec:
  container: {name: storage-initializer, image: x, env: [{name: OPENSSL_CONF, value: /x}]}
  supportedUriFormats: [{prefix: "s3://"}]
"""


def told(target: HostSettings, *lines: str) -> list[tuple[int, str]]:
    files = {"hosts/box/chat.yaml": with_model(*lines), "hosts/box/s.yaml": SECRET, "hosts/box/m.yaml": MAP}
    verdict: Document = validate_on(read_manifests(snapshot(files)), target)
    assert verdict["valid"], verdict
    found: list[Any] = [each for each in verdict["warnings"] if "is ignored on a host" in each["message"]]
    assert all(each["file"] == "hosts/box/chat.yaml" for each in found)
    return sorted((each["line"], each["message"].split()[1]) for each in found)


def test_variable_that_loads_code_is_said_with_its_line() -> None:
    target = TARGET.model_copy(update={"secrets": Secrets(allow_plaintext=True)})
    env = ("env:", "- {name: LD_PRELOAD, value: /x}", "- {name: A, value: b}", "- {name: PYTHONSTARTUP, value: /x}")
    more = ("envFrom:", "- secretRef: {name: s}", "- configMapRef: {name: m}")
    found = told(target, *env, *more)
    first = min(line for line, _ in found)
    assert found == [
        (first, "LD_PRELOAD"),
        (first + 2, "PYTHONSTARTUP"),
        (first + 3, "BASH_ENV"),
        (first + 3, "GCONV_PATH"),
    ]
    stored = with_model().replace("storageUri: file:///models/tiny", "storageUri: s3://a/b")
    files = {"hosts/box/chat.yaml": stored, "hosts/box/container.yaml": CONTAINER_OF_STORAGE}
    warnings: list[Any] = validate_on(read_manifests(snapshot(files)), target)["warnings"]
    assert [each["message"].split(":")[0] for each in warnings if "OPENSSL_CONF" in each["message"]] == [
        "variable OPENSSL_CONF is ignored while s3"
    ]
    contained = target.model_copy(update={"kind": "systemd", "engines": (CONTAINER,)})
    assert told(contained, *env, *more) == []
