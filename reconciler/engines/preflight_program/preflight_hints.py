"""What to write instead of an argument that vLLM refuses: JSON, one item for each flag, the successor of a flag.

Imported by preflight_probe.py, and like it: standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from reconciler.engines.preflight_program.preflight_text import SECRET, Option, is_flag, join, normal, split
else:
    # A script finds its neighbours by their bare names.
    from preflight_text import SECRET, Option, is_flag, join, normal, split

DROP = "it has no effect any more: leave it out"
# Flags that vLLM once had: the version without them ("" where it is not known), and what to write. `{}` is their value.
REMOVED = {
    "--calculate-kv-scales": ("", "the scales come from the model's checkpoint: leave it out"),
    "--cuda-graph-sizes": ("", "write --cudagraph-capture-sizes with the same sizes"),
    "--device": ("0.10", "the installed build decides: leave it out"),
    "--disable-async-output-proc": ("", DROP),
    "--disable-frontend-multiprocessing": ("", DROP),
    "--disable-log-requests": ("0.12", "requests are not logged unless --enable-log-requests is given: leave it out"),
    "--disable-logprobs-during-spec-decoding": ("", DROP),
    "--disable-mm-preprocessor-cache": ("0.13", "write --mm-processor-cache-gb=0"),
    "--enable-lora-bias": ("", DROP),
    "--enable-prompt-adapter": ("", "prompt adapters are not supported any more; use --enable-lora"),
    "--enable-reasoning": ("0.10", "--reasoning-parser alone enables reasoning: leave it out"),
    "--engine-use-ray": ("", DROP),
    "--eplb-log-balancedness": ("", "write --eplb-config.log_balancedness=true"),
    "--eplb-step-interval": ("", "write --eplb-config.step_interval={}"),
    "--eplb-window-size": ("", "write --eplb-config.window_size={}"),
    "--full-cuda-graph": ("", "write --compilation-config.cudagraph_mode=FULL"),
    "--guided-decoding-backend": ("0.12", "write --structured-outputs-config.backend={}"),
    "--guided-decoding-disable-additional-properties": (
        "0.12",
        "write --structured-outputs-config.disable_additional_properties=true",
    ),
    "--guided-decoding-disable-any-whitespace": (
        "0.12",
        "write --structured-outputs-config.disable_any_whitespace=true",
    ),
    "--guided-decoding-disable-fallback": ("0.12", DROP),
    "--long-lora-scaling-factors": ("", DROP),
    "--lora-extra-vocab-size": ("", DROP),
    "--max-context-len-to-capture": ("", DROP),
    "--max-long-partial-prefills": ("", DROP),
    "--max-num-partial-prefills": ("", DROP),
    "--max-prompt-adapter-token": ("", "prompt adapters are not supported any more; use --enable-lora"),
    "--max-prompt-adapters": ("", "prompt adapters are not supported any more; use --enable-lora"),
    "--max-seq-len-to-capture": ("0.11", DROP),
    "--multi-step-stream-outputs": ("0.10.1", DROP),
    "--ngram-prompt-lookup-max": ("", "write --speculative-config.prompt_lookup_max={}"),
    "--ngram-prompt-lookup-min": ("", "write --speculative-config.prompt_lookup_min={}"),
    "--num-lookahead-slots": ("0.12", "--speculative-config decides it: leave it out"),
    "--num-redundant-experts": ("", "write --eplb-config.num_redundant_experts={}"),
    "--num-scheduler-steps": ("0.10.1", "multi-step scheduling is gone, vLLM schedules ahead by itself: leave it out"),
    "--num-speculative-tokens": ("", "write --speculative-config.num_speculative_tokens={}"),
    "--override-neuron-config": ("", "write --additional-config with the same JSON"),
    "--override-pooler-config": ("", "write --pooler-config with the same JSON"),
    "--preemption-mode": ("", DROP),
    "--prompt-adapters": ("", "prompt adapters are not supported any more; use --lora-modules"),
    "--qlora-adapter-name-or-path": ("", "write --lora-modules=NAME=PATH"),
    "--rope-scaling": ("0.11.1", 'write --hf-overrides={{"rope_parameters": {}}}, with rope_theta of the model inside'),
    "--rope-theta": ("0.11.1", "write --hf-overrides.rope_parameters.rope_theta={}"),
    "--scheduler-delay-factor": ("", DROP),
    "--spec-decoding-acceptance-method": ("", DROP),
    "--speculative-disable-by-batch-size": ("", DROP),
    "--speculative-draft-tensor-parallel-size": ("", "write --speculative-config.draft_tensor_parallel_size={}"),
    "--speculative-max-model-len": ("", "write --speculative-config.max_model_len={}"),
    "--speculative-model": ("", "write --speculative-config.model={}"),
    "--speculative-model-quantization": ("", "write --speculative-config.quantization={}"),
    "--swap-space": ("0.18", "requests are recomputed and not swapped: leave it out"),
    "--task": ("0.13", "{}"),
    "--tokenizer-pool-extra-config": ("", DROP),
    "--tokenizer-pool-size": ("", DROP),
    "--tokenizer-pool-type": ("", DROP),
    "--use-v2-block-manager": ("0.10", DROP),
    "--worker-use-ray": ("0.7", "write --distributed-executor-backend=ray"),
}
_TASKS = {
    "auto": "leave it out, vLLM finds out by itself",
    "generate": "write --runner=generate",
    "embedding": "write --runner=pooling --convert=embed, each in an item of its own",
    "embed": "write --runner=pooling --convert=embed, each in an item of its own",
    "classify": "write --runner=pooling --convert=classify, each in an item of its own",
    "score": "write --runner=pooling --convert=classify, each in an item of its own",
    "reward": "write --runner=pooling",
}
# What other servers call it, and what people call it who write from memory.
ELSEWHERE = {
    "--context-length": "--max-model-len",
    "--ctx-size": "--max-model-len",
    "--data-parallel": "--data-parallel-size",
    "--dp": "--data-parallel-size",
    "--dp-size": "--data-parallel-size",
    "--gpu-mem-util": "--gpu-memory-utilization",
    "--gpu-util": "--gpu-memory-utilization",
    "--gpu-utilization": "--gpu-memory-utilization",
    "--log-requests": "--enable-log-requests",
    "--lora": "--lora-modules",
    "--max-batch-size": "--max-num-seqs",
    "--max-concurrent-requests": "--max-num-seqs",
    "--max-context-len": "--max-model-len",
    "--max-context-length": "--max-model-len",
    "--max-input-length": "--max-model-len",
    "--max-len": "--max-model-len",
    "--max-length": "--max-model-len",
    "--max-running-requests": "--max-num-seqs",
    "--max-seq-len": "--max-model-len",
    "--max-seq-length": "--max-model-len",
    "--max-sequence-length": "--max-model-len",
    "--max-tokens": "--max-model-len",
    "--max-total-tokens": "--max-model-len",
    "--mem-fraction-static": "--gpu-memory-utilization",
    "--model-dir": "--model",
    "--model-id": "--model",
    "--model-name": "--served-model-name",
    "--model-path": "--model",
    "--num-shard": "--tensor-parallel-size",
    "--pp": "--pipeline-parallel-size",
    "--pp-size": "--pipeline-parallel-size",
    "--quantize": "--quantization",
    "--tokenizer-path": "--tokenizer",
    "--tp": "--tensor-parallel-size",
    "--tp-size": "--tensor-parallel-size",
}
# Keys of JSON flags that vLLM once had.
KEYS = {"level": "mode", "full_cuda_graph": "cudagraph_mode", "use_cudagraph": "cudagraph_mode"}
UNEXPECTED = re.compile(r"([\w.]+): Unexpected keyword argument")
CHOICES = {
    "classify": "pooling",
    "embed": "pooling",
    "embedding": "pooling",
    "reward": "pooling",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}


# ---------------------------------------------------------------- flags


def removed(option: Option, version: str) -> str:
    """What replaced a flag that vLLM once had; empty if it never had it."""
    name = option.name.replace("--no-", "--", 1)
    if name not in REMOVED:
        return ""
    since, instead = REMOVED[name]
    value = _TASKS.get(option.value, "see --runner and --convert") if name == "--task" else option.value
    gone = f"was removed in vLLM {since}" if since else f"was removed, and vLLM {version} does not know it"
    return f"{option.name} {gone}; {instead.format(value or 'VALUE')}"


def crowded(token: str, flags: Collection[str]) -> str:
    """Why one item of the list cannot be read: it holds several arguments, flags among them. Empty: it does not."""
    one = _ONE_JSON.fullmatch(token)
    pieces = [f"{one[1]}={one[2]}", ""] if one and is_json(one[2]) else tokens_in(token)
    if len(pieces) < 2 or not (_LONE.match(token) or any(name_of(piece) in flags for piece in pieces[1:])):
        return ""
    options = split([piece for piece in pieces if piece not in ("=", "")])
    items = ", ".join(f"{name_of(each.name)}=VALUE" if is_secret(each) else joined(each) for each in options)
    shown = "this" if any(map(is_secret, options)) else f"`{cut(token)}`"
    return f"{shown} is one item of the list, and no shell splits it; write an item for each flag: {items}"


def is_secret(option: Option) -> bool:
    return name_of(option.name).strip("-").replace("-", "_") in SECRET


_ONE_JSON = re.compile(r"(--?[A-Za-z][\w.-]*):?\s+([\[{].*)", re.DOTALL)
_LONE = re.compile(r"--?[A-Za-z][\w.-]*:?\s")


def tokens_in(token: str) -> list[str]:
    try:
        return shlex.split(token)
    except ValueError:
        return token.split()


def name_of(piece: str) -> str:
    return normal(piece).rstrip(":")


def joined(option: Option) -> str:
    """A flag with its value as one argument; with several values as they are, side by side."""
    first, *values = option.tokens
    if is_flag(first) and "=" not in first and len(values) == 1:
        return f"{first.rstrip(':')}={values[0]}"
    return " ".join(join([option]))


def misspelt(token: str, flags: Collection[str]) -> str:
    """What an argument without dashes, or with others than two hyphens, was meant to be;

    empty where it means no flag.
    """
    bare = token.lstrip("-\u2010\u2011\u2012\u2013\u2014\u2015\u2212")
    name, sign, rest = re.match(r"([\w.-]*)(.?)(.*)", bare, re.S).groups()  # type: ignore[union-attr]
    meant = normal(f"--{name}")
    if meant not in flags or sign not in ("", "=", ":"):
        return ""
    return meant + (f"={rest.strip()}" if rest.strip() else "")


# ---------------------------------------------------------------- values


def unquoted(value: str) -> str:
    """The value without quotes around the whole of it: no shell takes them away."""
    while len(value) > 1 and value[0] == value[-1] and value[0] in "'\"`":
        value = value[1:-1]
    return value


def is_json(value: str) -> bool:
    """Is it an object or a list in JSON? No flag takes less."""
    return not fault_of_json(value)


def fault_of_json(value: str) -> str:
    try:
        found = json.loads(value)
    except RecursionError:
        return "too deep"
    except ValueError as error:
        return f"{getattr(error, 'msg', error)} at character {getattr(error, 'pos', 0) + 1}"
    return "" if isinstance(found, (dict, list)) else "it is a single value"


def as_json(tokens: list[str], like_list: bool = False) -> str:
    """The values as JSON, where their meaning is certain; else empty."""
    written = unquoted(",".join(tokens).strip())
    if len(written) > 10_000:
        return ""
    # Quotes that a word processor made curly; but in text that is valid as it is they are part of a value.
    text = written.translate({0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'"})
    text = text.replace('\\"', '"') if text.startswith('{\\"') else text
    as_written = ((_as_it_is, written), (_as_python, written))
    straightened = ((each, text) for each in (_as_it_is, _as_python, _as_yaml, _as_pairs))
    for attempt, given in dict.fromkeys((*as_written, *straightened)):
        try:
            found = attempt(given)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, (list, dict)) and (isinstance(found, list) or not like_list):
            return json.dumps(found)
    if like_list and text and text[0] not in "[{":
        return json.dumps([each.strip() for each in text.split(",")])
    return ""


def _as_it_is(text: str) -> Any:
    return json.loads(text)


def _as_python(text: str) -> Any:
    return json.loads(json.dumps(ast.literal_eval(text)))


def _as_yaml(text: str) -> Any:
    """`{image: 2}`, and a comma too many."""
    text = re.sub(r"([{,]\s*)([A-Za-z_][\w.-]*)\s*:", r'\1"\2":', text.replace("'", '"'))
    text = re.sub(r":\s*(True|False|None)\b", lambda m: ": " + PYTHON[m[1]], text)
    text = re.sub(r":\s*([A-Za-z_/][\w./-]*)\s*(?=[,}])", lambda m: f": {_scalar(m[1])}", text)
    return json.loads(re.sub(r",(\s*[}\]])", r"\1", text))


PYTHON = {"True": "true", "False": "false", "None": "null"}


def _scalar(token: str) -> str:
    return token if token in PYTHON.values() else json.dumps(token)


def _as_pairs(text: str) -> Any:
    """`image=2,video=1`, the way that vLLM read until it wanted JSON."""
    pairs = [re.fullmatch(r"\s*([\w.-]+)\s*[=:]\s*([^=:{}\[\]]+?)\s*", part) for part in text.split(",") if part]
    return {m[1]: _scalar_of(m[2]) for m in pairs if m} if pairs and all(pairs) else None


def _scalar_of(token: str) -> Any:
    try:
        return json.loads(PYTHON.get(token, token))
    except ValueError:
        return unquoted(token)


def not_json(option: Option, like_list: bool = False) -> str:
    """What is wrong with a value that has to be JSON, and what to write."""
    tokens = values_of(option)
    value = " ".join(tokens)
    quotes = "; the quotes around it are part of the value, as no shell takes them away" if _is_quoted(value) else ""
    better = as_json(tokens, like_list)
    if better:
        return f"{cut(value)} is not JSON{quotes}; write {better}"
    if re.fullmatch(r"@?[\w./-]+\.(json|ya?ml)", value):
        return f"{cut(value)} is not JSON, and vLLM reads no file here; write the JSON itself"
    example = '["value"]' if like_list else '{"key": "value"}'
    return f"{cut(value)} is not JSON ({fault_of_json(value)}){quotes}; write JSON such as {example}"


def _is_quoted(value: str) -> bool:
    return unquoted(value) != value


def values_of(option: Option) -> list[str]:
    _, equals, first = option.tokens[0].partition("=")
    return [*([first] if equals else []), *option.tokens[1:]] if option.name else option.tokens


def cut(value: str) -> str:
    return value if len(value) <= 120 else value[:120] + "…"


def no_value(name: str, value: str, flags: Collection[str]) -> str:
    """A flag that only is there or not, with a value."""
    off = name.replace("--no-", "--", 1) if name.startswith("--no-") else f"--no-{name[2:]}"
    if unquoted(value).lower() not in ("false", "0", "no", "off"):
        return f"{name} takes no value; write {name} alone"
    return f"{name} takes no value; " + (f"write {off}" if off in flags else "leave it out")


def better_value(value: str, reads: str, message: str) -> str:
    """What to write for a value that is none of a number, or of a choice; empty where that is not plain."""
    plain = unquoted(value.strip()).strip()
    if hole := re.search(r"\$\(([\w.-]+)\)|\$\{?([A-Za-z_]\w*)\}?|\{\{.*?\}\}|<[A-Za-z][\w -]*>", plain):
        return unfilled(hole)
    number = _number(plain, reads, message)
    if number and number != value:
        return f"; write {number}"
    return f"; the quotes are part of the value: write {plain}" if plain != value.strip() and plain else ""


def better_key(key: str, known: list[str]) -> str:
    """The likely meaning of a misspelt key of a JSON value."""
    meant = KEYS.get(key) if KEYS.get(key) in known else next(iter(difflib.get_close_matches(key, known, 1, 0.6)), "")
    return f"; did you mean {meant}?" if meant else ""


def unfilled(hole: re.Match[str]) -> str:
    if hole[1]:
        return f"; {hole[0]} was not filled in: the container has no env variable {hole[1]}"
    if hole[2]:
        return f"; {hole[0]} is a shell's: write $({hole[2]}) for an env variable of the container"
    if hole[0].startswith("{{"):
        return f"; {hole[0]} was not filled in: commit the rendered manifest"
    return f"; {hole[0]} is a placeholder: write the value itself"


_AMOUNT = re.compile(r"(\d[\d,_ ]*(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?(?:\s*tokens?)?")


def _number(plain: str, reads: str, message: str) -> str:
    plain = plain.partition(" #")[0].rstrip(",; ")
    if reads == "float":
        return _share(plain, message)
    found = _AMOUNT.fullmatch(plain)
    if not found or not reads:
        return ""
    digits = re.sub(r"(?<=\d)[,_ ](?=\d{3}\b)", "", found[1]).strip()
    unit = found[2].upper() if found[3] else found[2]
    if not re.fullmatch(r"\d+(\.\d+)?", digits):
        return ""
    if reads != "int":
        return digits + unit if unit or "." not in digits else ""
    factor = (1024 if unit.isupper() else 1000) ** (" kmgt".index(unit.lower() or " "))
    return str(int(float(digits) * factor)) if float(digits) * factor % 1 == 0 else ""


def _share(plain: str, message: str) -> str:
    """90 % as the share that vLLM wants."""
    found = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*(%?)", plain)
    if not found:
        return ""
    number, is_percent = float(found[1].replace(",", ".")), bool(found[2])
    if is_percent or ("less than or equal to 1" in message and 10 <= number <= 100):
        return f"{number / 100 if number > 1 else number:g}"
    return f"{number:g}" if "," in found[1] else ""


# ---------------------------------------------------------------- accepted, and yet not what was meant


def suspicious(option: Option, flags: Collection[str]) -> str:
    """Why an accepted value is probably a mistake; it does not show the value, which may be a secret."""
    for value in values_of(option):
        swallowed = [name_of(piece) for piece in value.split()[1:] if name_of(piece) in flags]
        if swallowed and value.lstrip()[:1] not in ("{", "["):
            return f"the value of {option.name} holds {swallowed[0]}; write an item of the list for each flag"
        if option.name and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            return f"the quotes around the value of {option.name} are part of it, as no shell takes them away"
    return ""
