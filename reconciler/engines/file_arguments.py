"""Which files and folders a server's arguments name, as the container sees them. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler import json_texts
from reconciler.engines.arguments import flag_value, is_flag, values_with_places


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


CLOSED = "is closed to services: processes, devices, or keys of this host are there"
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
    "--mm-encoder-fp8-scale-path",
)
_FOLDERS = ("--allowed-local-media-path", "--hf-config-path", "--generation-config")
# A path of URLs.
_NO_FILE = frozenset({"--root-path"})
_SYSTEMS_OWN = frozenset({"proc", "sys", "dev", "run"})
_IN_JSON = re.compile(r'"(/[^"]*)"')
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


def absolute_paths(args: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Every absolute path in arguments: the index of its word, the flag before it, and the path. It may be none."""
    flag = ""
    for index, word in enumerate(args):
        if is_flag(word):
            flag = word.partition("=")[0].replace("_", "-")
        for path in (word, word.partition("=")[2], word.rpartition("=")[2], *_IN_JSON.findall(word)):
            if path.startswith("/") and flag not in _NO_FILE and _is_path(path):
                yield index, flag, path
                break


def is_systems_own(path: str) -> bool:
    """Does it lie where the kernel and programs that run keep what they need: processes, devices, sockets, keys?"""
    return any(_first_step(each) in _SYSTEMS_OWN for each in (path, posixpath.normpath(path)))


def is_below(path: str, folder: str) -> bool:
    """Is it this folder, or in it, by its name alone?"""
    path, folder = posixpath.normpath(path), posixpath.normpath(folder).rstrip("/")
    return path == folder or path.startswith(f"{folder}/")


def _first_step(path: str) -> str:
    return path.lstrip("/").partition("/")[0] if path.startswith("/") else ""


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
        found = json_texts.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
