"""Which files and folders a server's arguments name, as the container sees them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.engines.arguments import flag_value, values_with_places


class Holds(StrEnum):
    """What has to be there."""

    MODEL = "a model"
    TOKENIZER = "a tokenizer"
    ADAPTER = "a LoRA adapter"
    FILE = "a file"
    FOLDER = "a folder"


@dataclass(frozen=True, slots=True)
class Named:
    """`index` is the word of the arguments that names it."""

    index: int
    flag: str
    path: str
    holds: Holds


CERTIFICATE, KEY = "--ssl-certfile", "--ssl-keyfile"
_FILES = (
    CERTIFICATE,
    KEY,
    "--ssl-ca-certs",
    "--chat-template",
    "--config",
    "--tool-parser-plugin",
    "--reasoning-parser-plugin",
    "--log-config-file",
)
_FOLDERS = ("--allowed-local-media-path", "--hf-config-path")
_WEIGHTS_FROM_FILES = frozenset({"", "auto", "hf", "safetensors", "mistral", "fastsafetensors"})


def named_files(args: Sequence[str]) -> Iterator[Named]:
    """Every absolute path of a file that the server reads when it starts. Other names are of a hub, or texts."""
    for flag, holds in (
        ("--model", Holds.MODEL),
        ("--tokenizer", Holds.TOKENIZER),
        *((flag, Holds.FILE) for flag in _FILES),
        *((flag, Holds.FOLDER) for flag in _FOLDERS),
    ):
        for index, value in values_with_places(args, flag)[:1]:
            if _is_path(value):
                yield Named(index, flag, value, holds)
    yield from _draft(args)
    yield from _adapters(args)


def reads_weights(args: Sequence[str]) -> bool:
    """Are a model's weights read from the files of its folder, by their own format?"""
    return (flag_value(args, "--load-format") or "") in _WEIGHTS_FROM_FILES


def _draft(args: Sequence[str]) -> Iterator[Named]:
    for flag in ("--speculative-config", "-sc"):
        for index, value in values_with_places(args, flag)[:1]:
            for key, holds in (("model", Holds.MODEL), ("tokenizer", Holds.TOKENIZER)):
                path = _parsed(value).get(key)
                if isinstance(path, str) and _is_path(path):
                    yield Named(index, flag, path, holds)
        for index, value in values_with_places(args, f"{flag}.model")[:1]:
            if _is_path(value):
                yield Named(index, f"{flag}.model", value, Holds.MODEL)


def _adapters(args: Sequence[str]) -> Iterator[Named]:
    for index, value in values_with_places(args, "--lora-modules"):
        path = _parsed(value).get("path") if value.lstrip()[:1] in ("{", "[") else value.partition("=")[2]
        if isinstance(path, str) and _is_path(path):
            yield Named(index, "--lora-modules", path, Holds.ADAPTER)
    for index, value in values_with_places(args, "--default-mm-loras")[:1]:
        for path in _parsed(value).values():
            if isinstance(path, str) and _is_path(path):
                yield Named(index, "--default-mm-loras", path, Holds.ADAPTER)


def _is_path(value: str) -> bool:
    """A chat template may stand in the argument itself."""
    return value.startswith("/") and not any(each in value for each in "{}\n\0")


def _parsed(value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
