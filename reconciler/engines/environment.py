"""The environment of an engine: interpreter options, variables, and the image that runs it. Pure.

An engine's command starts vLLM and nothing else. An option that runs other code (`-c`), or a variable that loads it
into every process (`LD_PRELOAD`, `PYTHONPATH`), would get around that without vLLM's own parser seeing it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import EngineSettings
from reconciler.model import Lease

# Of CPython 3.9 to 3.14. The others run other code, print something and end, or wait for a person.
_LETTERS = re.compile(r"-[bBdEIOPqRsSuv]+")
# `presite` imports a module, `pycache_prefix` names a folder of compiled ones.
_IMPLEMENTATION = re.compile(
    r"dev|faulthandler|importtime(=2)?|no_debug_ranges|warn_default_encoding|frozen_modules(=(on|off))?"
    r"|(utf8|gil|context_aware_warnings|thread_inherit_context)(=[01])?"
    r"|(tracemalloc|int_max_str_digits|cpu_count)(=\w+)?"
)
# The category of a warning with a dot in its name is imported.
_WARNING = re.compile(r"[^./\\]*")
_HARMLESS = re.compile(
    "PYTHON(ASYNCIODEBUG|CASEOK|COERCECLOCALE|DEBUG|DEVMODE|DONTWRITEBYTECODE|FAULTHANDLER|HASHSEED|INTMAXSTRDIGITS"
    "|IOENCODING|MALLOC|NODEBUGRANGES|NOUSERSITE|OPTIMIZE|PROFILEIMPORTTIME|SAFEPATH|TRACEMALLOC|UNBUFFERED|UTF8"
    "|VERBOSE|WARNDEFAULTENCODING|_CPU_COUNT|_GIL)"
)
# What glibc ignores for programs with more rights than their caller, what shells and other interpreters read before
# their script, and what names libraries to load.
_LOADERS = re.compile(
    "(LD_|PYTHON|PERL|BASH_FUNC_).*|BASH_ENV|BASHOPTS|SHELLOPTS|ENV|IFS|CDPATH|PS4|PROMPT_COMMAND"
    "|GCONV_PATH|GETCONF_DIR|GLIBC_TUNABLES|HOSTALIASES|LOCALDOMAIN|LOCPATH|NIS_PATH|NLSPATH|RESOLV_HOST_CONF|RES_OPTIONS"
    "|NODE_OPTIONS|NODE_PATH|RUBYLIB|RUBYOPT|JAVA_TOOL_OPTIONS|JDK_JAVA_OPTIONS|_JAVA_OPTIONS"
    "|OPENSSL_CONF|OPENSSL_ENGINES|OPENSSL_MODULES|OMP_TOOL_LIBRARIES|CUDA_INJECTION(32|64)_PATH",
    re.DOTALL,
)

# Where these name a library to load or a program to start by its path. `NCCL_NET_PLUGIN=none` is a setting.
_PROGRAMS = re.compile(
    r"NCCL_\w+_PLUGIN|VLLM_(NCCL|CUDART)_SO_PATH|TRITON_\w+_PATHS?|HSA_TOOLS_LIB|ROCP_TOOL_LIB|CC|CXX|CUDAHOSTCXX|CUDA_HOME"
)


def refused_option(tokens: Sequence[str]) -> tuple[int, str | None]:
    """Where in `python OPTIONS… -m MODULE …` the options end, and the one there that is not harmless; None: all are."""
    at = 1
    while at < len(tokens) and tokens[at].startswith("-") and tokens[at] != "-m":
        width = _width(tokens, at)
        if not width:
            return at, tokens[at]
        at += width
    return at, None


def _width(tokens: Sequence[str], at: int) -> int:
    """How many arguments a harmless option takes; 0 for another one."""
    token = tokens[at]
    if _LETTERS.fullmatch(token):
        return 1
    rule = {"-X": _IMPLEMENTATION, "-W": _WARNING}.get(token[:2])
    if rule is None or (len(token) == 2 and at + 1 == len(tokens)):
        return 0
    value, width = (token[2:], 1) if len(token) > 2 else (tokens[at + 1], 2)
    return width if rule.fullmatch(value) else 0


def loads_code(name: str, value: str | None = None) -> bool:
    """Would a variable load code into an interpreter, or into what it starts? None: its value is not known."""
    if name == "PYTHONWARNINGS":
        return value is not None and not _WARNING.fullmatch(value)
    if _PROGRAMS.fullmatch(name):
        return value is None or "/" in value
    return bool(_LOADERS.fullmatch(name)) and not _HARMLESS.fullmatch(name)


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# These are paths inside the image, or would make every start recompile vLLM.
_IMAGE_ONLY = frozenset(
    {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
)
_OURS = frozenset({"HOME", "PYTHONDONTWRITEBYTECODE"})
# A unix socket's path has 107 bytes, and vLLM names its sockets by 36 of them.
_LONGEST_SOCKET_FOLDER = 107 - 1 - 36


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders that a replica may write to.

    `home` is shared by all replicas of one engine: vLLM's compile caches live there and must survive. `tmp` is the
    replica's own. `private` is for files that may not reach a disk. `socket` is the path that it is to listen on.
    """

    home: str
    tmp: str
    private: str = ""
    socket: str = ""


def environment(
    given: Mapping[str, str],
    secret: Collection[str],
    engine: EngineSettings,
    model_paths: Mapping[str, str],
    folders: Folders,
    lease: Lease | None = None,
) -> dict[str, str]:
    """All variables of an engine: the container's (`given`; those in `secret` hold no paths), the config's, and the
    reconciler's.

    Nothing is inherited from us. The config wins over the container, and alone may load code into an interpreter of
    the host: in a container, the image is the wall.
    """
    translated = {
        name: value if name in secret else replace_paths(value, model_paths)
        for name, value in given.items()
        if name not in (_OURS if engine.podman else _IMAGE_ONLY) and (engine.podman or not loads_code(name, value))
    }
    if engine.python is None:
        # The image sets the others itself. Its GPUs are those that it is given; an old hook must not add others.
        return {**_caches(folders), **translated, **engine.env, "NVIDIA_VISIBLE_DEVICES": "void"}
    env = {**_base(engine.python, folders), **translated, **engine.env}
    if lease is not None:
        # Indices may mean different cards to different tools; an empty list hides all of them.
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(lease.gpus)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def _base(python: Path, folders: Folders) -> dict[str, str]:
    env = {
        "PATH": f"{python.parent}:{SYSTEM_PATH}",
        "TMPDIR": folders.tmp,
        "LANG": "C.UTF-8",
        **_caches(folders),
    }
    if len(folders.tmp.encode()) > _LONGEST_SOCKET_FOLDER:
        # All processes of a replica have its folder as their working directory. Outside of the compile cache's key.
        env["VLLM_RPC_BASE_PATH"] = "/proc/self/cwd"
    return env


def _caches(folders: Folders) -> dict[str, str]:
    return {
        "HOME": folders.home,
        "XDG_CACHE_HOME": f"{folders.home}/.cache",
        "XDG_CONFIG_HOME": f"{folders.home}/.config",
        # Its default is below TMPDIR, which goes away with the replica.
        "TORCHINDUCTOR_CACHE_DIR": f"{folders.home}/.cache/torchinductor",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def replace_paths(text: str, paths: Mapping[str, str]) -> str:
    """Whole paths in a text, and paths below them, become their folders on this host."""
    local = {path.rstrip("/"): folder.rstrip("/") for path, folder in paths.items() if path.rstrip("/")}
    if not local:
        return text
    known = "|".join(map(re.escape, sorted(local, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./-])({known})(?![\w.-])", lambda match: local[match[1]], text)


# Servers that are not vLLM, by a part of their images' names.
_OTHERS = {
    "huggingfaceserver": "KServe's Hugging Face server",
    "sklearnserver": "KServe's scikit-learn server",
    "xgbserver": "KServe's XGBoost server",
    "lgbserver": "KServe's LightGBM server",
    "pmmlserver": "KServe's PMML server",
    "paddleserver": "KServe's Paddle server",
    "text-generation-inference": "Text Generation Inference",
    "text-generation-server": "Text Generation Inference",
    "tgis": "Text Generation Inference",
    "text-embeddings-inference": "Text Embeddings Inference",
    "tritonserver": "Triton",
    "tensorrt-llm": "TensorRT-LLM",
    "sglang": "SGLang",
    "lmdeploy": "LMDeploy",
    "llama.cpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "ollama": "Ollama",
    "caikit": "Caikit",
    "torchserve": "TorchServe",
    "mlserver": "MLServer",
    "model_server": "OpenVINO Model Server",
    "openvino": "OpenVINO Model Server",
}


def doubtful_image(image: str, command: Sequence[str]) -> str:
    """Why it is not certain that a container runs vLLM:

    neither its command nor its image's name says so. None: it is.
    """
    repository = image.partition("@")[0].lower()
    if command or "vllm" in repository:
        return ""
    advice = "write command: [vllm, serve], and --model=/mnt/models and --served-model-name={{.Name}} in args"
    if server := next((name for part, name in _OTHERS.items() if part in repository), ""):
        return f"image {image} starts {server}, whose arguments are others; a host runs vLLM: {advice}"
    what = f"image {image} is not known to be vLLM" if image else "no image is named"
    return f"{what}, and it has no command: a host starts `vllm serve` with its args; if that is intended, {advice}"


def find_engine(image: str, engines: Iterable[EngineSettings]) -> EngineSettings | None:
    """The first engine whose image, or pattern with `*`, is this image."""
    return next((engine for engine in engines if _matches(image, engine.image)), None)


def _matches(image: str, pattern: str) -> bool:
    """Each part at the first place that is left for it: no other choice can match where this one does not."""
    first, *rest = pattern.split("*")
    if not rest:
        return image == pattern
    *middle, last = rest
    at, end = len(first), len(image) - len(last)
    if not (image.startswith(first) and image.endswith(last)):
        return False
    for part in middle:
        found = image.find(part, at, max(at, end))
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def full_name(image: str) -> str:
    """`vllm` → `docker.io/library/vllm:latest`: what a cluster's hosts take it for. A digest makes a tag needless."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif "." not in first and ":" not in first and first != "localhost":
        image = f"docker.io/{image}"
    named, _, digest = image.partition("@")
    repository, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = named, "latest"
    return f"{repository}@{digest}" if digest else f"{repository}:{tag}"
