"""Which names of models a server answers to, by its arguments. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reconciler.engines.arguments import model_of, options, values_of
from reconciler.engines.expansion import LONGEST_EXPANSION, expand, expand_all
from reconciler.formats import json_values
from reconciler.model import Argument, EffectiveSpec

# Each one is a route of the proxy.
MOST_NAMES = 256
_LONGEST = 256
_MODALITIES = "--default-mm-loras"


def model_names(spec: EffectiveSpec) -> tuple[str, ...]:
    """The names that git gives a model and its adapters; of a model without one its id, where that is no path."""
    env, room = dict[str, str](), LONGEST_EXPANSION
    for variable in spec.env:
        if not variable.source:
            env[variable.name] = expand(variable.value, env, room)
            room -= len(env[variable.name])
    return _names(expand_all(spec.command_line, env))


def _names(arguments: Sequence[Argument]) -> tuple[str, ...]:
    own = values_of(arguments, "--served-model-name") or tuple(filter(_is_id, [model_of(arguments)]))
    return tuple(dict.fromkeys(filter(_is_routable, (*own, *adapter_names(arguments)))))[:MOST_NAMES]


def _is_routable(name: str) -> bool:
    """Can the proxy hold it, so that one service's names never break the table of all? An unknown variable is none."""
    return 0 < len(name) <= _LONGEST and name.isprintable() and "$(" not in name


def adapter_names(arguments: Sequence[Argument]) -> tuple[str, ...]:
    """The names of its LoRA adapters, which no served name of the model may be."""
    return tuple(dict.fromkeys((*_named_adapters(arguments), *_adapters_of_modalities(arguments))))


def _named_adapters(arguments: Sequence[Argument]) -> Iterator[str]:
    """As vLLM reads them: `NAME=PATH`, or JSON."""
    for value in values_of(arguments, "--lora-modules"):
        if "=" in value and "," not in value:
            yield value.partition("=")[0]
            continue
        found = _read(value)
        for each in found if isinstance(found, list) else [found]:
            name = each.get("name") if isinstance(each, dict) else None
            if isinstance(name, str):
                yield name


def _adapters_of_modalities(arguments: Sequence[Argument]) -> Iterator[str]:
    """Each is called by its modality: `{"audio": PATH}`, or `--default-mm-loras.audio PATH`."""
    for value in values_of(arguments, _MODALITIES)[:1]:
        found = _read(value)
        yield from found if isinstance(found, dict) else ()
    for flag, _ in options(arguments):
        if flag and flag.startswith(f"{_MODALITIES}."):
            yield flag.removeprefix(f"{_MODALITIES}.")


def _is_id(model: str) -> bool:
    return bool(model) and not model.startswith(("/", ".", "~")) and "://" not in model


def _read(text: str) -> object:
    try:
        return json_values.loads(text)
    except (ValueError, RecursionError):
        return None
