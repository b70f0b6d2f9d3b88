"""The parser of the installed vLLM, made to raise instead of exiting.

Imported by preflight_probe.py, and like it: standard library and vLLM only, Python 3.9 and later.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from reconciler.engines.preflight_program.preflight_text import describe
else:
    # A script finds its neighbours by their bare names.
    from preflight_text import describe


class Environment(Exception):
    """No verdict is possible here, with the reason. `index` is the argument that may be to blame."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class Unknown(Environment):
    """This vLLM is unlike those that we know: too old, or too new."""


class Refused(Exception):
    """The parser's complaint, with the flag it names (`--dtype`, `--tensor-parallel-size/-tp`) if any."""

    def __init__(self, message: str, flag: str = "") -> None:
        super().__init__(message)
        self.flag = flag


class Engine:
    """What we need of the installed vLLM."""

    def __init__(self) -> None:
        prepare_environment()
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise Environment(f"{sys.executable} has no vLLM: {error}") from error
        self.version = str(getattr(vllm, "__version__", "unknown"))
        cli = first_of("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
        base = first_of("vllm.utils.argparse_utils", "vllm.utils").FlexibleArgumentParser
        self.parser = cli.make_arg_parser(quiet(base)(prog="vllm", allow_abbrev=False))
        self.base = base
        self.flags = sorted(flag for action in self.parser._actions for flag in action.option_strings)
        self.actions = {flag: action for action in self.parser._actions for flag in action.option_strings}
        self.long = {flag: spelled_out(action.option_strings) for flag, action in self.actions.items()}
        self.checks = [*checks_of(cli, "validate_parsed_serve_args"), *server_checks()]
        self.defaults = self.parse([])[0]

    def parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The parsed arguments and those that it does not know. Raises Refused."""
        self.parser.unknown = []
        try:
            return self.parser.parse_args(list(argv)), self.parser.unknown
        except Refused:
            raise
        except (Exception, SystemExit) as error:
            raise Refused(describe(error)) from error

    def reads_json(self, name: str) -> bool:
        """Does its parser make something else than text of `{}`?"""
        try:
            found = getattr(self.parse([f"{name}={{}}"])[0], self.actions[name].dest, "")
        except (Refused, KeyError):
            return False
        return found is not None and not isinstance(found, str) and found != ["{}"]

    def http_flags(self) -> set[str]:
        """Those of the HTTP server alone: the gRPC server takes the engine's, and where to listen."""
        engine = importlib.import_module("vllm").AsyncEngineArgs.add_cli_args(self.base())
        known = {flag for action in engine._actions for flag in action.option_strings}
        return set(self.flags) - known - {"--grpc", "--host", "--port", "--config"}

    def fields_of(self, name: str) -> list[str]:
        """The fields of the configuration that a flag's JSON becomes; none where that is not known."""
        config = importlib.import_module("vllm.config")
        title = "".join(part.capitalize() for part in name.strip("-").split("-"))
        return list(getattr(getattr(config, title, None), "__dataclass_fields__", ()))

    def build_config(self, args: argparse.Namespace) -> Any:
        return importlib.import_module("vllm").AsyncEngineArgs.from_cli_args(args).create_engine_config()


def spelled_out(names: list[str]) -> list[str]:
    """`--tensor-parallel-size` of that and `-tp`; `--enable-x` of that and `--no-enable-x`; of two long names both."""
    full = [name for name in names if name.startswith("--") and not name.startswith("--no-")]
    return full or [max(names, key=len)]


def prepare_environment() -> None:
    # A script's folder comes first on the path, and this one would hide modules of the same names from vLLM.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS"):
        os.environ[name] = "1"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    # A CUDA or ROCm build cannot even list its flags on a host without a GPU.
    if not glob.glob("/dev/nvidia[0-9]*") and not os.path.exists("/dev/kfd"):
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")


def first_of(*names: str) -> Any:
    """The first module that this version has."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error
    raise Unknown(f"this vLLM has an unknown layout: {missing}")


def checks_of(module: Any, *names: str) -> list[Callable[[Any], None]]:
    """The functions of these names that this version has."""
    return [getattr(module, name) for name in names if hasattr(module, name)]


def server_checks() -> list[Callable[[Any], None]]:
    """Names of tool and reasoning parsers are checked by the server only when it starts."""
    try:
        module = first_of("vllm.entrypoints.launchers.launcher", "vllm.entrypoints.openai.api_server")
    except Environment:
        return []
    return checks_of(module, "validate_api_server_args")


def quiet(base: Any) -> Any:
    """A parser that raises instead of exiting, and that returns unknown arguments."""

    class Parser(base):  # type: ignore[misc]
        unknown: list[str]

        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            namespace, self.unknown = super().parse_known_args(args, namespace)
            return namespace, []

        def error(self, message: str) -> NoReturn:
            cause = sys.exc_info()[1]
            flag = cause.argument_name if isinstance(cause, argparse.ArgumentError) else None
            raise Refused(cause.message if isinstance(cause, argparse.ArgumentError) else message, flag or "")

        def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
            raise Refused(message or "makes the server print something and exit instead of serving")

    return Parser
