"""Options before `-m` and variables that git may pass to an engine's interpreter. Pure.

An engine's command starts vLLM and nothing else. An option that runs other code (`-c`), or a variable that loads it
into every process (`LD_PRELOAD`, `PYTHONPATH`), would get around that without vLLM's own parser seeing it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
