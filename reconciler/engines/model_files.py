"""Are the files that an engine is about to read whole? Headers and small files are read, weights never are."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from reconciler.engines.file_arguments import FileContent
from reconciler.engines.fit_files import (
    NOT_WEIGHTS,
    Unjudged,
    UnknownModel,
    UnreadableModel,
    read_header,
    read_json,
    read_weights,
)
from reconciler.system.files import means_nothing_is_there, open_regular


class MissingFile(UnreadableModel):
    """There is nothing of that name."""


_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "params.json",
)
# Up to a hundred megabytes, so only its ends are looked at.
_LARGE = ("tokenizer.json", "vocab.json", "tekken.json")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_ENDS = 64
_LONGEST_PEM = 1 << 20
Stamps = tuple[tuple[str, int, int, int], ...]


def check(path: str, holds: FileContent, weights: bool = True) -> None:
    """Raises UnreadableModel, naming the missing or damaged file; UnknownModel where the files do not show it."""
    info = _info(path)
    if info is None:
        raise MissingFile(f"{path}: is not there")
    is_folder = stat.S_ISDIR(info.st_mode)
    if holds in (FileContent.ADAPTER, FileContent.FOLDER) and not is_folder:
        raise UnreadableModel(f"{path}: is not a folder")
    if holds is FileContent.FILE:
        _check_file(path, info)
    elif is_folder and holds is not FileContent.FOLDER:
        _check_folder(path, holds, weights, stamps_of(path))


def check_pair(certificate: str, key: str) -> None:
    """Do these two files make a server speak TLS? Raises UnreadableModel."""
    try:
        with _copied(certificate) as first, _copied(key) as second:
            # An engine cannot be asked for the key's passphrase either.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(first, second, password=lambda: b"")
    except _Unopened:
        # The other check says so.
        return
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or str(error)
        raise UnreadableModel(f"{certificate} and {key}: no pair of a certificate and its key ({why})") from None
    except OSError as error:
        raise UnknownModel(f"{certificate}: cannot be read: {error.strerror}") from None


class _Unopened(Exception):
    """No such file, or not readable."""


@contextlib.contextmanager
def _copied(path: str) -> Iterator[str]:
    """Where the library may read what is in a file: it would open whatever has the name. Raises _Unopened, OSError."""
    try:
        with open_regular(path) as file:
            data = file.read(_LONGEST_PEM)
    except OSError:
        raise _Unopened from None
    copy = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(copy, data)
        yield f"/proc/self/fd/{copy}"
    finally:
        os.close(copy)


def stamps_of(folder: str) -> Stamps:
    """Changes with every file of the folder. Raises UnknownModel."""
    try:
        with os.scandir(folder) as entries:
            found = [(each.name, info) for each in entries if (info := _info(each.path)) is not None]
    except OSError as error:
        raise UnknownModel(f"{folder}: cannot be read: {error.strerror}") from None
    return tuple(sorted((name, info.st_mtime_ns, info.st_size, info.st_ino) for name, info in found))


def _check_folder(path: str, holds: FileContent, weights: bool, stamps: Stamps) -> None:
    """What was seen of a folder holds while its files stay. What the disk hid is looked at again."""
    if fault := _fault(path, holds, weights, stamps):
        raise UnreadableModel(fault)


@lru_cache(512)
def _fault(path: str, holds: FileContent, weights: bool, stamps: Stamps) -> str:
    """Raises UnknownModel."""
    try:
        _look(Path(path), holds, weights, frozenset(name for name, *_ in stamps))
    except UnknownModel:
        raise
    except UnreadableModel as error:
        return str(error)
    return ""


def _look(folder: Path, holds: FileContent, weights: bool, names: frozenset[str]) -> None:
    """Raises UnreadableModel."""
    if holds is FileContent.ADAPTER:
        _check_adapter(folder, names)
        return
    for name in _SMALL:
        with contextlib.suppress(Unjudged):
            read_json(folder / name)
    for name in names.intersection(_LARGE):
        _check_ends(folder / name)
    if holds is FileContent.MODEL and weights:
        if not any(name.endswith(".safetensors") for name in names):
            for name in _archives(names):
                _check_archive(folder / name)
        with contextlib.suppress(Unjudged):
            read_weights(folder)


def _archives(names: frozenset[str]) -> list[str]:
    return [name for name in names if name.endswith((".bin", ".pt", ".pth")) and name not in NOT_WEIGHTS]


def _check_adapter(folder: Path, names: frozenset[str]) -> None:
    if read_json(folder / "adapter_config.json") is None:
        raise UnreadableModel(f"{folder}: has no adapter_config.json; it is not a LoRA adapter")
    if not names & {*_ADAPTERS}:
        raise UnreadableModel(f"{folder}: holds no adapter_model.safetensors; is the copy complete?")
    if _ADAPTERS[0] in names:
        read_header(folder / _ADAPTERS[0])


def _check_ends(path: Path) -> None:
    """A JSON object that was cut short does not end as one."""
    try:
        with open_regular(path) as file:
            begin = file.read(_ENDS)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _ENDS))
            end = file.read()
    except OSError as error:
        raise UnknownModel(f"{path}: cannot be read: {error.strerror}") from None
    if not begin.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or not end.rstrip().endswith(b"}"):
        raise UnreadableModel(f"{path}: is not a JSON object, or truncated; copy it again")


def _check_archive(path: Path) -> None:
    """PyTorch writes zip archives, whose list of contents comes last."""
    try:
        with open_regular(path) as file:
            is_cut = file.read(2) == b"PK" and not zipfile.is_zipfile(file)
    except OSError as error:
        raise UnknownModel(f"{path}: cannot be read: {error.strerror}") from None
    if is_cut:
        raise UnreadableModel(f"{path}: is cut short; copy it again")


def _check_file(path: str, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        what = "is a folder, and a file is needed" if stat.S_ISDIR(info.st_mode) else "is not a regular file"
        raise UnreadableModel(f"{path}: {what}")
    if not os.access(path, os.R_OK):
        raise UnknownModel(f"{path}: cannot be read: Permission denied")


def _info(path: str) -> os.stat_result | None:
    """None where nothing is. Raises UnknownModel."""
    try:
        return os.stat(path)
    except OSError as error:
        if means_nothing_is_there(error):
            return None
        raise UnknownModel(f"{path}: cannot be looked at: {error.strerror}") from None
