"""What an engine may be asked of a revision that nobody has accepted yet: its parser, and nothing that runs or is read.

Whoever can push a branch writes the arguments. A preflight of what was accepted imports the classes that they name,
reads the files that they name and builds the model's configuration; here the parser alone judges what is left without
all that. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from reconciler.engines.arguments import flag_value, options
from reconciler.engines.launch import PreflightQuestion
from reconciler.errors import Retryable
from reconciler.model import Argument

# Flags that name code, files, folders or another model, by the words in their names: newer engines have more of them.
# Of a configuration in JSON even the parser imports what it names: vLLM's `inductor_passes` are.
_LEFT_OUT = re.compile(
    r"(^|-)(cls|class|plugins?|middleware|processors?|modules?|connector|transfer|manager|trust|load|loader|executor"
    r"|additional|templates?|files?|paths?|dirs?|configs?|certfile|keyfile|certs|key|token|speculative|spec"
    r"|logging|profiler|overrides|code|loras)(-|$)"
)
# Others of one dash are left out: a parser takes `-c` for `-cc`, a configuration, and `-O{...}` for one with its value.
_SHORT = frozenset({"-tp", "-pp", "-dp", "-dpn", "-dpr", "-dpl", "-ep", "-pcp", "-dcp", "-n", "-r", "-q"})
# Neither a folder on this host nor an absolute one: it is not looked for.
_NO_MODEL = "model-that-is-not-looked-at"


def parser_question(asked: PreflightQuestion) -> PreflightQuestion:
    """The same question for the parser alone. Raises Retryable where asking would run something of the revision."""
    if asked.image:
        raise Retryable("arguments for an engine in an image are checked when the revision is accepted")
    argv = tuple(each for name, written in options(asked.argv) if not _is_left_out(name, written) for each in written)
    paths = {mount: f"{_NO_MODEL}-{number}" for number, mount in enumerate(sorted(asked.paths))}
    env = {name: value for name, value in asked.env.items() if name not in asked.given}
    argv = _without_model(argv, tuple(paths))
    return replace(asked, argv=argv, env=env, paths=paths, mounted=False, given=frozenset(), files={})


def _is_left_out(name: str | None, written: Sequence[Argument]) -> bool:
    if name is None:
        # What follows `--` is a word to a parser, but vLLM looks for `--config` among all.
        return any(each.text.startswith("-") for each in written)
    if not name.startswith("--"):
        return name not in _SHORT
    plain = name.lstrip("-").partition(".")[0].replace("_", "-").lower()
    return bool(_LEFT_OUT.search(plain))


def _without_model(argv: tuple[Argument, ...], mounts: tuple[str, ...]) -> tuple[Argument, ...]:
    """A model that no mount holds could be any folder of this host."""
    model = flag_value(argv, "--model")
    if model is None or any(f"{model}/".startswith(f"{mount.rstrip('/')}/") for mount in mounts):
        return argv
    return tuple(each.rewritten(_renamed(each.text, model)) for each in argv)


def _renamed(text: str, model: str) -> str:
    """The value alone: a model may have the name of its flag."""
    flag, separator, value = text.partition("=")
    if text == model:
        return _NO_MODEL
    return f"{flag}{separator}{_NO_MODEL}" if value == model and separator else text
