"""What the installed vLLM complains of, as findings: which argument is to blame, and what to write instead.

Imported by preflight_probe.py, and like it: standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.engines.preflight_program.preflight_hints import (
        CHOICES,
        ELSEWHERE,
        UNEXPECTED,
        better_key,
        better_value,
        crowded,
        is_json,
        misspelt,
        no_value,
        not_json,
        removed,
    )
    from reconciler.engines.preflight_program.preflight_parser import Engine, Refused
    from reconciler.engines.preflight_program.preflight_text import (
        Finding,
        Option,
        describe,
        join,
        paths_in,
        problems_of,
        shorten,
        suggestion,
    )
else:
    # A script finds its neighbours by their bare names.
    from preflight_hints import (
        CHOICES,
        ELSEWHERE,
        UNEXPECTED,
        better_key,
        better_value,
        crowded,
        is_json,
        misspelt,
        no_value,
        not_json,
        removed,
    )
    from preflight_parser import Engine, Refused
    from preflight_text import Finding, Option, describe, join, paths_in, problems_of, shorten, suggestion


def culprit_of_refusal(engine: Engine, error: Refused, options: list[Option]) -> Option | None:
    """The option that the parser names; else the one without which the error disappears, or changes."""
    names = set(error.flag.split("/"))
    named = [o for o in options if o.name in names]
    if named:
        return next((o for o in named if o.value and o.value in str(error)), named[-1])
    for option in reversed(options):
        try:
            engine.parse(join([o for o in options if o is not option]))
        except Refused as other:
            if str(other) == str(error):
                continue
        return option
    return None


def finding_of_refusal(engine: Engine, error: Refused, culprit: Option | None) -> Finding:
    message = shorten(str(error))
    if culprit is None:
        return Finding(message)
    name = culprit.name or culprit.tokens[0]
    if several := crowded(culprit.tokens[0], engine.flags):
        return Finding(several, culprit.index)
    if "ignored explicit argument" in message:
        return Finding(no_value(name, culprit.value, engine.flags), culprit.index)
    if has_bad_json(engine, culprit) or ("JSON" in message and not is_json(culprit.value)):
        return Finding(f"{name}: {explain_json(engine, culprit)}", culprit.index)
    choices = [str(choice) for choice in getattr(engine.actions.get(name), "choices", None) or ()]
    hint = better_choice(culprit.value, choices) if choices else ""
    hint = hint or hint_of_keys(engine, culprit, message) or hint_of(culprit, message)
    return Finding(f"{name}: {message}{hint}", culprit.index)


def better_choice(value: str, choices: list[str]) -> str:
    known = {plain_name(choice): choice for choice in choices}
    meant = known.get(plain_name(value)) or known.get(CHOICES.get(value.lower(), ""))
    return f"; did you mean {meant}?" if meant else suggestion(value, choices)


def plain_name(text: str) -> str:
    return text.lower().replace("-", "_")


def hint_of(option: Option, message: str) -> str:
    """What to write for the value that a message is about."""
    if "float" in message or "less than or equal" in message:
        reads = "float"
    else:
        reads = "int" if re.search(r"(invalid|expected) int", message) else "whole" * ("whole number" in message)
    return better_value(option.value, reads, message)


def has_bad_json(engine: Engine, option: Option) -> bool:
    """Does a flag that reads JSON have another value? The engine's own parser tells which flags read JSON."""
    if not option.name or "." in option.tokens[0].partition("=")[0] or is_json(option.value):
        return False
    return engine.reads_json(option.name)


def explain_json(engine: Engine, option: Option) -> str:
    if option.name == "--lora-modules" and option.value.lstrip("'\"")[:1] != "{":
        return f"cannot read {option.value!r}; write NAME=PATH for each adapter"
    dest = getattr(engine.actions.get(option.name), "dest", "")
    return not_json(option, isinstance(getattr(engine.defaults, dest, None), list))


def explain_unknown(engine: Engine, option: Option) -> str:
    token, flags = option.tokens[0], engine.flags
    if known := crowded(token, flags) or removed(option, engine.version):
        return known
    if meant := misspelt(token, flags) or (ELSEWHERE.get(option.name, "") in flags and ELSEWHERE[option.name]):
        return f"unrecognized argument {token.partition('=')[0]}; did you mean {meant}?"
    longer = [flag for flag in flags if flag.startswith(option.name)]
    if option.name.startswith("--") and len(longer) == 1:
        return f"{option.name} is an abbreviation of {longer[0]}; write it in full"
    return f"unrecognized argument {option.name}{suggestion(option.name.lower(), longer or flags)}"


def stray_word(engine: Engine, token: str, options: list[Option]) -> Finding:
    option = next((option for option in options if token in option.tokens), None)
    if option is None:
        return Finding(f"unexpected argument {token!r}")
    index = option.index + option.tokens.index(token)
    if several := crowded(token, engine.flags):
        return Finding(several, index)
    if token.startswith("--") and "--" in join(options):
        return Finding(f"{token} follows `--`, after which vLLM reads no flags; remove `--`", index)
    if meant := misspelt(token, engine.flags):
        return Finding(f"unexpected argument {token!r}: a flag begins with two hyphens; did you mean {meant}?", index)
    before = f" after {option.name}" if option.name else ""
    takes_none = getattr(engine.actions.get(option.name), "nargs", None) == 0 and option.tokens[1:] == [token]
    hint = f": {no_value(option.name, token, engine.flags)}" if takes_none else ""
    return Finding(f"unexpected argument {token!r}{before}{hint}", index)


def blame(engine: Engine, error: BaseException, options: list[Option]) -> list[Option]:
    """The options that a message may mean, all equally likely; the first is the last one given.

    Those named by a flag with several values, else by the longest path, else by a name that may be prose, else by a
    value.
    """
    text = describe(error)
    inputs = [str(p["input"]) for p in problems_of(error) if isinstance(p.get("input"), (str, int, float))]

    def long_names(option: Option) -> list[str]:
        return [name.strip("-") for name in engine.long.get(option.name, [option.name])]

    def is_named(option: Option) -> bool:
        spellings = {name.replace("-", sign) for name in long_names(option) for sign in "-_ "} - {""}
        return any(re.search(rf"(?<!\w)(?<!\w-){re.escape(s)}(?![\w-])", text, re.I) for s in spellings)

    def has_value(option: Option) -> bool:
        if not option.name or len(option.value) < 2:
            return False
        return stands_in(option.value.lower(), text.lower()) or any(
            len(value) > 1 and value in option.value for value in inputs
        )

    # Of a flag that is repeated, the last one counts.
    last = list({option.name: option for option in options}.values())[::-1]
    named, pathed = [o for o in last if is_named(o)], longest_paths(last, text)
    valued = [o for o in last if has_value(o)]
    surely = [o for o in named if "-" in long_names(o)[0] or stands_in(o.name, text)]
    surely.sort(key=lambda option: option not in valued)
    groups = (surely, both(pathed, named), pathed, both(named, valued), named, valued)
    return next((group for group in groups if group), [])


def both(some: list[Option], others: list[Option]) -> list[Option]:
    return [option for option in some if option in others]


def stands_in(part: str, text: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(part)}(?![\w.-])", text) is not None


def longest_paths(options: list[Option], text: str) -> list[Option]:
    """Those that name the longest path in a text: `/m/draft` is meant by its own flag, and not by `--model=/m`."""
    found = []
    for option in options:
        paths = [path for path in paths_in(option) if stands_in(path, text)]
        if option.name and paths:
            found.append((max(map(len, paths)), option))
    longest = max((length for length, _ in found), default=0)
    return [option for length, option in found if length == longest]


def finding_of(engine: Engine, error: BaseException, culprits: list[Option]) -> Finding:
    """A complaint that names its flag and does not list fifty alternatives."""
    culprit, others = (culprits[0], culprits[1:]) if culprits else (None, [])
    raw, text = str(error), describe(error)
    listed = re.search(r"\s*(?:\(cho+se from|Valid options are:|Must be one of|Available \w+:)\s(.*)", raw, re.S)
    if culprit is None:
        return Finding(text)
    if several := crowded(culprit.tokens[0], engine.flags):
        return Finding(several, culprit.index)
    if has_bad_json(engine, culprit):
        return Finding(f"{culprit.name}: {explain_json(engine, culprit)}", culprit.index)
    if listed and len(listed[1]) > 100:
        known = re.findall(r"[\w-]+(?:\.[\w-]+)*", listed[1])
        text = shorten(raw[: listed.start()].lstrip("'\"").rstrip(" .")) + better_choice(culprit.value, known)
    text = text.removeprefix(culprit.name.strip("-").replace("-", "_") + ": ")
    text = (text if culprit.name in text else f"{culprit.name}: {text}") + ("" if listed else hint_of(culprit, text))
    text += hint_of_keys(engine, culprit, text)
    return Finding(text, culprit.index, tuple(other.index for other in others))


def hint_of_keys(engine: Engine, option: Option, message: str) -> str:
    return "".join(better_key(key, keys_of(engine, option)) for key in UNEXPECTED.findall(message))


def keys_of(engine: Engine, option: Option) -> list[str]:
    """The fields of the configuration that a flag reads as JSON."""
    config = getattr(engine.defaults, getattr(engine.actions.get(option.name), "dest", ""), None)
    fields = getattr(config, "__dataclass_fields__", None) or engine.fields_of(option.name)
    return sorted(fields)
