"""Which files and folders a server's arguments name, as the container sees them. Pure."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.engines.arguments import flag_value, options, values_with_arguments
from reconciler.formats import json_values
from reconciler.model import NO_ORIGIN, Argument


class FileContent(StrEnum):
    """What has to be there."""

    MODEL = "a model"
    TOKENIZER = "a tokenizer"
    ADAPTER = "a LoRA adapter"
    FILE = "a file"
    FOLDER = "a folder"


@dataclass(frozen=True, slots=True)
class Named:
    """`argument` is the one that names it."""

    argument: Argument
    flag: str
    path: str
    holds: FileContent


CLOSED = "is closed to services: processes, devices, or keys of this host are there"
CERTIFICATE, KEY = "--ssl-certfile", "--ssl-keyfile"
CONFIG = "--config"
_MEDIA = "--allowed-local-media-path"
_FILES = (
    CERTIFICATE,
    KEY,
    "--ssl-ca-certs",
    "--chat-template",
    CONFIG,
    "--tool-parser-plugin",
    "--reasoning-parser-plugin",
    "--log-config-file",
    "--mm-encoder-fp8-scale-path",
)
_FOLDERS = (_MEDIA, "--hf-config-path", "--generation-config")
# A path of URLs.
_NO_FILE = frozenset({"--root-path"})
# Most arguments; JSON may write a slash otherwise.
_NO_PATH = re.compile(r"(?:[^/.\\]|\.(?!\.))*")
# Ids of a hub, with a revision or a quantisation behind a colon, and addresses.
_REMOTE = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?|[a-z][a-z0-9+.-]*://\S+")
# Any other value without a slash is one of vLLM's own names.
_MODELS = ("--model", "--tokenizer", "--model-id")
_SYSTEMS_OWN = frozenset({"proc", "sys", "dev", "run"})
_IN_JSON = re.compile(r'"(/[^"]*)"')
_WEIGHTS_FROM_FILES = frozenset({"", "auto", "hf", "safetensors", "mistral", "fastsafetensors"})


def named_files(args: Sequence[Argument]) -> Iterator[Named]:
    """Every absolute path of a file that the server reads when it starts. Other names are of a hub, or texts."""
    return (each for each in _named(args) if _is_path(each.path))


def remote_names(args: Sequence[Argument]) -> Iterator[Named]:
    """Every model, tokenizer and adapter that the server would fetch: ids of a hub, and addresses.

    `--model-id` is what KServe's own server calls it.
    """
    ids = values_with_arguments(args, "--model-id")
    others = (Named(each, "--model-id", value, FileContent.MODEL) for each, value in ids)
    for each in (*_named(args), *others):
        is_model = (
            each.holds in (FileContent.MODEL, FileContent.TOKENIZER, FileContent.ADAPTER)
            or each.flag == "--hf-config-path"
        )
        if is_model and _REMOTE.fullmatch(each.path) and (each.flag in _MODELS or "/" in each.path):
            yield each


def _named(args: Sequence[Argument]) -> Iterator[Named]:
    for flag, holds in (
        ("--model", FileContent.MODEL),
        ("--tokenizer", FileContent.TOKENIZER),
        *((flag, FileContent.FILE) for flag in _FILES),
        *((flag, FileContent.FOLDER) for flag in _FOLDERS),
    ):
        for each, value in values_with_arguments(args, flag)[:1]:
            yield Named(each, flag, value, holds)
    yield from _draft(args)
    yield from _adapters(args)


def paths_in(args: Sequence[Argument]) -> Iterator[tuple[Argument, str, str]]:
    """Every path in arguments that is certain to be one: the argument that holds it, the flag before it, and the path.

    It begins at the root, or climbs out of the folder that an engine runs in. It may be none.
    """
    for flag, given in options(args):
        for each in given if flag not in _NO_FILE else ():
            if _NO_PATH.fullmatch(each.text):
                continue
            for path in dict.fromkeys(map(_without_scheme, _texts(each.text))):
                if _is_path(path) or climbs(path):
                    yield each, flag or "", path


def _texts(token: str) -> Iterator[str]:
    """Where a path may be in an argument: `NAME=PATH`, `FLAG=A,B`, anywhere in JSON."""
    _, _, value = token.partition("=")
    for text in (token, value, *_strings(_read_json(token)), *_strings(_read_json(value))):
        for part in (text, *text.split(",")):
            yield part
            yield part.rpartition("=")[2]
    yield from _IN_JSON.findall(token)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in (*value, *value.values()) for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def _without_scheme(text: str) -> str:
    return re.sub(r"^file:(//(localhost)?(?=/))?", "", text)


def climbs(path: str) -> bool:
    """Does it leave the folder that it begins in? That folder is the daemon's, and others are next to it."""
    if not path.startswith(("..", "./", "~")) and "/.." not in path:
        return False
    real = posixpath.normpath(path)
    return (real == ".." or real.startswith("../")) and "\0" not in path and len(path.split()) == 1


def serves_folder(flag: str) -> bool:
    """Does an engine serve any file in the folder that this flag names? A part of a flag will do."""
    return _MEDIA.startswith(flag) and len(flag) > len("--allowed-")


def is_around(path: str, folder: str) -> bool:
    """Does the path contain this folder, or system folders?"""
    return posixpath.normpath(path) == "/" or is_below(folder, path)


def written_in(content: object) -> tuple[Argument, ...]:
    """The arguments that vLLM makes of its argument file: no line in git has them, but one has the name of the file."""
    if not isinstance(content, dict):
        return ()
    said = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in content.items()}
    return tuple(Argument(f"--{key}={value}", NO_ORIGIN) for key, value in said.items())


def is_systems_own(path: str) -> bool:
    """Is it where the kernel and running programs keep what they need: processes, devices, sockets, keys?"""
    return any(_first_step(each) in _SYSTEMS_OWN for each in (path, posixpath.normpath(path)))


def is_below(path: str, folder: str) -> bool:
    """Is it this folder, or in it, by its name alone?"""
    path, folder = posixpath.normpath(path), posixpath.normpath(folder).rstrip("/")
    return path == folder or path.startswith(f"{folder}/")


def _first_step(path: str) -> str:
    return path.lstrip("/").partition("/")[0] if path.startswith("/") else ""


def reads_weights(args: Sequence[Argument]) -> bool:
    """Are a model's weights read from the files of its folder, by their own format?"""
    return (flag_value(args, "--load-format") or "") in _WEIGHTS_FROM_FILES


def _draft(args: Sequence[Argument]) -> Iterator[Named]:
    for flag in ("--speculative-config", "-sc"):
        for each, value in values_with_arguments(args, flag)[:1]:
            for key, holds in (("model", FileContent.MODEL), ("tokenizer", FileContent.TOKENIZER)):
                path = _parsed(value).get(key)
                if isinstance(path, str):
                    yield Named(each, flag, path, holds)
        for each, value in values_with_arguments(args, f"{flag}.model")[:1]:
            yield Named(each, f"{flag}.model", value, FileContent.MODEL)


def _adapters(args: Sequence[Argument]) -> Iterator[Named]:
    for each, value in values_with_arguments(args, "--lora-modules"):
        path = _parsed(value).get("path") if value.lstrip()[:1] in ("{", "[") else value.partition("=")[2]
        if isinstance(path, str):
            yield Named(each, "--lora-modules", path, FileContent.ADAPTER)
    for each, value in values_with_arguments(args, "--default-mm-loras")[:1]:
        for path in _parsed(value).values():
            if isinstance(path, str):
                yield Named(each, "--default-mm-loras", path, FileContent.ADAPTER)


def _is_path(value: str) -> bool:
    """A chat template may stand in the argument itself."""
    return value.startswith("/") and not any(each in value for each in "{}\n\0")


def _parsed(value: str) -> dict[str, Any]:
    found = _read_json(value)
    return found if isinstance(found, dict) else {}


def _read_json(text: str) -> object:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json_values.loads(text)
    except (ValueError, RecursionError):
        return None
