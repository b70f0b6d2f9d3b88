"""Ask the installed vLLM whether it accepts these arguments. Run by the workload's interpreter, never by the daemon's.

Standard input: `{"argv": [flags of the server], "paths": {path in the container: path on this host}, "files": {path
in the container: what is in that file, as base64; they are there for the time of the question}, "variables":
[names that git sets], "absent": [folders of the container that are not here], "added": [flags that the reconciler
adds], "dispensable": [those that it can do without], "oldest": the oldest vLLM that it serves}`.
Standard output: one JSON object, either the verdict

    {"vllm", "parsed", "gpus", "errors": [{"message", "index", "others"}], "warnings": [...],
     "deep": whether a model was read, "lacks": [dispensable flags that this vLLM does not know]}

or `{"environment": why no verdict is possible, "variable": the one to blame or "", "index", "final": whether asking
again is of no use}`: this interpreter or host is to blame, not the arguments. `index` counts in argv; null where no
single argument is to blame; `others` may be meant as well. `parsed` is canonical: equal text, equal meaning.

Standard library and vLLM only; Python 3.9 and later. It starts no engine and uses no network.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import re
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.engines.preflight_program.preflight_findings import (
        blame,
        culprit_of_refusal,
        explain_unknown,
        finding_of,
        finding_of_refusal,
        stray_word,
    )
    from reconciler.engines.preflight_program.preflight_hints import suspicious
    from reconciler.engines.preflight_program.preflight_loads import (
        Unimportable,
        check_grpc,
        check_imports,
        check_variables,
        tokenizer_faults,
    )
    from reconciler.engines.preflight_program.preflight_parser import Engine, Environment, Refused, Unknown
    from reconciler.engines.preflight_program.preflight_text import (
        Finding,
        describe,
        is_flag,
        join,
        normal,
        paths_in,
        replace_paths,
        split,
        text_of,
    )
else:
    # A script finds its neighbours by their bare names.
    from preflight_findings import (
        blame,
        culprit_of_refusal,
        explain_unknown,
        finding_of,
        finding_of_refusal,
        stray_word,
    )
    from preflight_hints import suspicious
    from preflight_loads import Unimportable, check_grpc, check_imports, check_variables, tokenizer_faults
    from preflight_parser import Engine, Environment, Refused, Unknown
    from preflight_text import Finding, describe, is_flag, join, normal, paths_in, replace_paths, split, text_of

MOST_ERRORS = 20
MOST_DEEP_ERRORS = 4


# ---------------------------------------------------------------- parsing and checking


def parse_all(engine: Engine, argv: list[str]) -> tuple[argparse.Namespace | None, list[Finding]]:
    """Parse; drop what is refused and parse again, so that all errors are found at once."""
    options = split(argv)
    findings: list[Finding] = []
    while len(findings) < MOST_ERRORS:
        try:
            args, unknown = engine.parse(join(options))
        except Refused as error:
            culprit = culprit_of_refusal(engine, error, options)
            findings.append(finding_of_refusal(engine, error, culprit))
            if culprit is None:
                return None, findings
            options.remove(culprit)
            continue
        if not unknown:
            break
        # vLLM has written `-` for `_` in them.
        names = {normal(token) for token in unknown if is_flag(token)} | set(unknown)
        strangers = [o for o in options if o.name and (o.name in names or o.tokens[0] in names)]
        findings += [Finding(explain_unknown(engine, o), o.index) for o in strangers]
        if not strangers:
            findings += [stray_word(engine, token, options) for token in unknown]
            break
        options = [o for o in options if o not in strangers]
    else:
        return None, findings
    if getattr(args, "model_tag", None):
        findings.append(stray_word(engine, args.model_tag, options))
    return args, sorted(findings, key=lambda f: -1 if f.index is None else f.index)


def check_all(engine: Engine, args: argparse.Namespace, argv: list[str]) -> list[Finding]:
    """What the server checks before it loads anything."""
    options = split(argv)
    findings: list[Finding] = []
    args.subparser = "serve"
    for check in engine.checks:
        try:
            check(args)
        except (Exception, SystemExit) as error:
            findings.append(finding_of(engine, error, blame(engine, error, options)))
            break
    return findings


def check_against_model(engine: Engine, args: argparse.Namespace, argv: list[str]) -> tuple[Any, list[Finding]]:
    """Build the engine's configuration from the model's files, again without what was refused, to find more."""
    options = split(argv)
    findings: list[Finding] = []
    while True:
        try:
            config = engine.build_config(args)
            return (None if findings else config), findings
        except (RuntimeError, ImportError, MemoryError) as error:
            if isinstance(error, NotImplementedError):
                findings.append(Finding(describe(error)))
                return None, findings
            index = next((option.index for option in blame(engine, error, options)), None)
            text = f"the engine's configuration cannot be built here: {describe(error)}"
            raise Environment(text, index) from error
        except (Exception, SystemExit) as error:
            culprits = blame(engine, error, options)
            culprit = culprits[0] if culprits else None
            if culprit and any(culprit.index in known.others for known in findings):
                # The same complaint, now of the default of what was left out.
                return None, findings
            findings.append(finding_of(engine, error, culprits))
            if culprit is None or culprit.name == "--model" or len(findings) == MOST_DEEP_ERRORS:
                return None, findings
            options.remove(culprit)
            args, _ = engine.parse(join(options))


def lacking(engine: Engine, request: dict[str, Any]) -> list[str]:
    """The added flags that this vLLM does not know. Raises Unknown for one that is indispensable."""
    unknown = []
    for token in request.get("added", ()):
        name = token.split("=", 1)[0]
        try:
            if not engine.parse([token])[1]:
                continue
            why = "does not know"
        except Refused as error:
            why = f"refuses ({error})"
        if name not in request.get("dispensable", ()):
            raise Unknown(f"vLLM {engine.version} {why} {name}, which the reconciler adds")
        unknown.append(name)
    return unknown


def unnamed_model(engine: Engine, args: argparse.Namespace, argv: list[str]) -> list[Finding]:
    given = {option.name for option in split(argv)}
    if args.model != engine.defaults.model or given & {"--model", "--config"}:
        return []
    return [
        Finding(
            f"no --model is given, and vLLM would serve its default, {args.model}; add for example --model=/mnt/models"
        )
    ]


def lost_flags(engine: Engine, args: argparse.Namespace, argv: list[str]) -> list[Finding]:
    """Arguments for the HTTP server, which --grpc replaces; and --grpc in an argument file."""
    given = {option.name for option in split(argv)}
    for name, wanted in (("--grpc", getattr(args, "grpc", False)), ("--grpc-port", getattr(args, "grpc_port", None))):
        if name not in given and wanted not in (None, False):
            files = [o.index for o in split(argv) if o.name == "--config"]
            text = f"{name} is set in the file of --config, which only the engine reads; write it as an argument"
            return [Finding(text, files[-1] if files else None)]
    if not getattr(args, "grpc", False):
        return []
    lost = engine.http_flags()
    text = "is for the HTTP server, which --grpc replaces; remove one of them"
    return [Finding(f"{o.name} {text}", o.index) for o in split(argv) if o.name in lost]


def missing_model(model: str, argv: list[str]) -> Finding:
    culprit = [option for option in split(argv) if option.name == "--model"]
    return Finding(f"no model files at {model}", culprit[-1].index if culprit else None)


def is_of_absent(finding: Finding, argv: list[str], request: dict[str, Any]) -> bool:
    """Is it about an argument that names a file which the container will have, and that is not here?"""
    blamed = [option for option in split(argv) if option.index == finding.index]
    return any(is_absent(path, request) for option in blamed for path in paths_in(option))


def is_absent(path: str, request: dict[str, Any]) -> bool:
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in request.get("absent", ()))


def without_gguf(engine: Engine, model: str, finding: Finding) -> Finding:
    """What it says of a file that it takes for something else: newer releases read GGUF by a plugin only."""
    if not model.endswith(".gguf") or importlib.util.find_spec("vllm.model_executor.model_loader.gguf_loader"):
        return finding
    text = f"vLLM {engine.version} has no GGUF loader of its own; take safetensors, or install a plugin that reads GGUF"
    return Finding(f"{text} ({finding.message})", finding.index, finding.others)


# ---------------------------------------------------------------- in addition to the verdict


def count_gpus(args: argparse.Namespace, config: Any) -> int:
    """How many GPUs one replica takes."""
    if config is not None:
        return int(config.parallel_config.world_size) * int(config.parallel_config.data_parallel_size)
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size")
    count = 1
    for name in sizes:
        count *= int(getattr(args, name, 1) or 1)
    return count


def warnings_of(engine: Engine, args: argparse.Namespace, argv: list[str]) -> list[str]:
    given = [option.name for option in split(argv)]
    warnings = [
        f"{name} is given more than once; the last one counts" for name in sorted(set(given)) if repeated(name, argv)
    ]
    deprecated = {a for a in engine.parser._actions if getattr(a, "deprecated", False)}
    for action in deprecated | set(getattr(engine.parser, "_deprecated", ())):
        warnings += [f"{name} is deprecated" for name in action.option_strings if name in given]
    if "--shutdown-timeout" in given and not getattr(args, "shutdown_timeout", 0):
        warnings.append("--shutdown-timeout 0: a stop by anyone but the reconciler freezes running requests")
    if int(getattr(args, "api_server_count", None) or getattr(args, "data_parallel_size", 1) or 1) > 1:
        warnings.append(
            "more than one API server: vLLM drops running requests on SIGTERM, only our own drain protects them"
        )
    return warnings


def doubtful(engine: Engine, argv: list[str]) -> list[str]:
    """What the engine accepts, though it is probably a mistake."""
    return [text for text in (suspicious(option, engine.flags) for option in split(argv)) if text]


def repeated(name: str, argv: list[str]) -> bool:
    """`--a.b 1 --a.c 2` is one JSON value in two parts, and an argument without a flag has no name."""
    return bool(name) and sum(o.name == name and "." not in o.tokens[0].split("=")[0] for o in split(argv)) > 1


# ---------------------------------------------------------------- one question, one answer


def written(files: dict[str, str], folder: str) -> dict[str, str]:
    """Where the files of mounted volumes are here: each is written below the folder, by its own path."""
    paths = {}
    for path, data in files.items():
        place = folder + os.path.normpath("/" + path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(base64.b64decode(data))
        paths[path] = place
    return paths


def rewrite_config(argv: list[str], files: dict[str, str], paths: dict[str, str]) -> None:
    """The file of arguments names folders as the arguments themselves do."""
    for option in split(argv):
        if option.name == "--config" and option.value in files:
            with open(files[option.value], "r+", encoding="utf-8", errors="surrogateescape") as file:
                text = replace_paths(file.read(), paths)
                file.seek(0)
                file.truncate()
                file.write(text)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Variables may name files, and vLLM reads some of these while it is imported."""
    if not request.get("files"):
        return judge(request, {})
    with tempfile.TemporaryDirectory(prefix="preflight-") as folder:
        files = written(request["files"], folder)
        rewrite_config(request["argv"], files, {**request.get("paths", {}), **files})
        for name in set(request.get("variables", ())) & set(os.environ):
            os.environ[name] = replace_paths(os.environ[name], files)
        return judge(request, files)


def judge(request: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    paths = {str(k).rstrip("/"): str(v).rstrip("/") for k, v in request.get("paths", {}).items()}
    paths.update(files)
    back = {local: mount for mount, local in paths.items()}
    argv = [replace_paths(token, paths) for token in request["argv"]]
    engine = Engine()
    lacks = lacking(engine, request)
    args, findings = parse_all(engine, argv)
    config, deep = None, False
    findings += check_variables(request)
    if args is not None and not findings:
        findings = unnamed_model(engine, args, argv) + check_all(engine, args, argv) + lost_flags(engine, args, argv)
        findings = [finding for finding in findings if not is_of_absent(finding, argv, request)]
        if not findings:
            check_grpc(args, split(argv))
        deep = os.path.exists(args.model)
        if os.path.isabs(args.model) and not deep and not is_absent(args.model, request):
            findings.append(missing_model(args.model, argv))
        else:
            check_imports(args, split(argv))
        if deep:
            config, more = check_against_model(engine, args, argv)
            more = [without_gguf(engine, args.model, finding) for finding in more]
            if config is not None and not findings:
                more += tokenizer_faults(config, split(argv))
            findings += [f for f in more if f.index is None or f.index not in {known.index for known in findings}]
    accepted = args is not None and not findings
    # Building the configuration may write into the arguments; the text must not depend on whether it was built.
    parsed = text_of(engine.parse(argv)[0], engine.defaults, lambda text: replace_paths(text, back)) if accepted else ""
    warnings = warnings_of(engine, args, argv) if args is not None else []
    return {
        "vllm": engine.version,
        "parsed": parsed,
        "gpus": count_gpus(args, config) if args is not None else 1,
        "errors": [{"message": replace_paths(f.message, back), "index": f.index, "others": f.others} for f in findings],
        "warnings": [*warnings, *(doubtful(engine, argv) if accepted else [])],
        "deep": deep,
        "lacks": lacks,
    }


def variable_behind(error: BaseException | None) -> str:
    """The variable that was being read where it went wrong: vLLM's own code names it there, or the message does."""
    while error is not None:
        found, trace = "", error.__traceback__
        while trace is not None:
            named = {c for c in trace.tb_frame.f_code.co_consts if isinstance(c, str) and c in os.environ}
            # A frame that reads one variable alone reads the one that is wrong.
            found = named.pop() if len(named) == 1 else found
            trace = trace.tb_next
        tokens = re.findall(r"\w+", str(error))
        found = next((name for name in os.environ if name in tokens), found)
        if found:
            return found
        error = error.__cause__ or error.__context__
    return ""


def main() -> int:
    # Imports may print, also from C; only the answer may reach standard output.
    out = os.dup(1)
    os.dup2(2, 1)
    request: dict[str, Any] = {}
    try:
        request = json.load(sys.stdin)
        result = answer(request)
    except Unknown as error:
        text = f"{error}; the oldest vLLM that is served is {request.get('oldest')}"
        result = {"environment": text, "final": True}
    except Unimportable as error:
        result = {"environment": str(error), "index": error.index, "final": True}
    except Environment as error:
        result = {"environment": str(error), "variable": variable_behind(error), "index": error.index}
    except (Exception, SystemExit) as error:
        result = {"environment": f"{type(error).__name__}: {describe(error)}", "variable": variable_behind(error)}
        import traceback

        traceback.print_exc()
    with os.fdopen(out, "w") as file:
        json.dump(result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
