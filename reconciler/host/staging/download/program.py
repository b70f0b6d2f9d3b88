"""The way through: what to fetch, by whom, and what to say in the end.

The last step is to make what was fetched read-only, so that it survives a power cut, and to give it its name.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TextIO, assert_never, cast

from reconciler.host.staging.download.confined import close_memory, confine
from reconciler.host.staging.download.failures import DownloadFailed, DownloadRefused
from reconciler.host.staging.download.progress import DownloadProgress
from reconciler.host.staging.download.request import FetchRequest, enter, leave, read_order
from reconciler.host.staging.state import HOME
from reconciler.model import ReasonCode
from reconciler.model.model_sources import ModelSource, secret_parts, shown, source_of
from reconciler.system.files import sync_folder
from reconciler.system.process_limits import limit_memory

_HIDDEN = "***"
# As much as its unit has, where it is one.
_MEMORY_BYTES = 8 << 30


def main() -> int:
    """Download one model. 0: complete; 1: the state in its folder has the reason."""
    # Nothing that is written on the way is for others.
    os.umask(0o077)
    close_memory()
    limit_memory(_MEMORY_BYTES)
    order = read_order(sys.stdin.buffer)
    message = Discreet(sys.stderr, (*order.secrets, *secret_parts(order.uri)))
    sys.stdout = sys.stderr = cast("TextIO", message)
    progress = DownloadProgress(order.folder)
    try:
        (order.folder / HOME).mkdir(exist_ok=True)
        enter(order)
        confine(order.folder / HOME, order.folder, *((order.memory,) if order.files else ()))
        progress.watch()
        content = _fetch(order, progress)
    except DownloadFailed as error:
        progress.failed(error.code, message.hide(str(error)), error.refused)
        return 1
    except BaseException as error:
        traceback.print_exc()
        text = f"unexpected {type(error).__name__}: {error}; see the log in {order.folder}"
        progress.failed(ReasonCode.INTERNAL_ERROR, message.hide(text), refused=False)
        return 1
    finally:
        leave(order)
    progress.staged(content)
    return 0


def _fetch(order: FetchRequest, progress: DownloadProgress) -> str:
    """All of it, in place under the name that is returned. Raises DownloadFailed."""
    try:
        from kserve_storage.kserve_storage import Storage
    except ImportError as error:
        text = (
            f"{sys.executable} has no kserve-storage ({error}); install vllm-reconciler[storage] there, or name an "
            "interpreter that has it in targets[].storage.python"
        )
        raise DownloadRefused(ReasonCode.LIBRARY_NOT_INSTALLED, text) from None
    # Late: without kserve-storage they cannot be imported either.
    from reconciler.host.staging.download import archive, library

    try:
        Storage._update_with_storage_spec()
    except (ValueError, TypeError):
        text = "the Secret's entry for this storage, or its parameters, are not JSON of texts"
        raise DownloadRefused(ReasonCode.INVALID_STORAGE_SETTINGS, text) from None
    Storage._configure_global_ca_bundle()
    match kind := source_of(order.uri):
        case ModelSource.S3 | ModelSource.HTTP:
            work, content = _transfer(order, kind, progress)
            if (order.folder / content).is_dir():
                # It was cut off after the last step, before it could say so.
                return content
            unpacked = order.folder / f"{content}.unpacked"
            progress.follow(unpacked)
            work = archive.unpack_if_lone(work, unpacked)
        case ModelSource.HUB | ModelSource.GIT | ModelSource.LIBRARY:
            work, content = library.download(order.uri, kind, order.folder, progress)
        case ModelSource.FOLDER | ModelSource.CLAIM | None:
            raise DownloadRefused(ReasonCode.UNSUPPORTED_STORAGE, f"{shown(order.uri)}: nothing that can be fetched")
        case _:
            assert_never(kind)
    if not any(work.iterdir()):
        raise DownloadRefused(ReasonCode.MODEL_NOT_FOUND, "its source is empty")
    seal(work, order.folder / content)
    _tidy(order.folder)
    return content


def _transfer(
    order: FetchRequest, kind: Literal[ModelSource.S3, ModelSource.HTTP], progress: DownloadProgress
) -> tuple[Path, str]:
    from reconciler.host.staging.download.transfer import FileSource, Transfer

    source: FileSource
    match kind:
        case ModelSource.S3:
            from reconciler.host.staging.download.s3 import S3Source

            source = S3Source(order.uri)
        case ModelSource.HTTP:
            from reconciler.host.staging.download.https import HttpSource

            source = HttpSource(order.uri)
        case _:
            assert_never(kind)
    return Transfer(source, order.uri, order.folder, progress).run()


def _tidy(folder: Path) -> None:
    """What attempts needed is not needed any more."""
    for path in (*folder.glob("*.partial"), *folder.glob("*.unpacked"), folder / "unfinished", folder / HOME):
        shutil.rmtree(path, ignore_errors=True)


class Discreet(io.TextIOBase):
    """A stream that shows no secret. Libraries log their settings, HDFS' with all of its credentials."""

    def __init__(self, stream: TextIO, secrets: Sequence[str]) -> None:
        self._stream = stream
        # The longest first: one may be part of another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def write(self, text: str) -> int:
        self._stream.write(self.hide(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def seal(work: Path, target: Path) -> None:
    """Put a complete folder in place as a whole. Raises Refused, OSError."""
    if target.is_dir():
        # The same content was there already.
        shutil.rmtree(work)
        return
    root = work.resolve()
    for folder, names, files in os.walk(work, topdown=False):
        for name in (*files, *names):
            _close(Path(folder, name), root)
        sync_folder(Path(folder))
        os.chmod(folder, 0o555)  # noqa: S103 - for the user that serves it
    os.rename(work, target)
    sync_folder(target.parent)


def _close(path: Path, root: Path) -> None:
    if path.is_symlink():
        # Not by `resolve`, which raises for a link to itself.
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise DownloadRefused(
                ReasonCode.UNSAFE_PATH, f"{path.name!a}: a link that points outside of the model's folder"
            )
    elif path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o444)
        finally:
            os.close(descriptor)
