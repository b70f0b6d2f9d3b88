"""Everything else is left to kserve-storage: gs, Azure, hf, hdfs, oci, modelscope and git over https.

It reports no progress, so the bytes on disk are counted; and it starts from scratch whenever it is started again, but
for Hugging Face's, whose own library goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kserve_storage.kserve_storage import Storage

from reconciler.host.staging.download.checksums import WholeFile
from reconciler.host.staging.download.failures import DownloadFailed, DownloadRefused, explained_disk, failure_of_status
from reconciler.host.staging.download.progress import DownloadProgress
from reconciler.model import ReasonCode
from reconciler.model.model_sources import ModelSource, shown, source_of

_REFUSED = ("authentication failed", "not found", "access denied", "no model found", "invalid", "cannot be empty")
_DENIED = (401, 403)
# Of the hub's own library, where nothing stands beneath its prose.
_CLOSED = ("401 client error", "403 client error", "gated repo", "invalid user token")
_GATED = (
    "access denied: the repository is gated, private or not there; put HF_TOKEN into a Secret of the service's "
    "serviceAccountName, or into targets[].storage.env of the config"
)
_OF_TOOLS = (".git", ".cache")
_SMALL = 1 << 20


def download(uri: str, source: ModelSource, folder: Path, progress: DownloadProgress) -> tuple[Path, str]:
    """Fetch a model. Returns the folder, and the name that its content gets. Raises DownloadFailed."""
    work = folder / "library.partial"
    snapshot = _snapshot(uri) if source is ModelSource.HUB else None
    if snapshot is None:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    progress.measure = lambda: sum(path.lstat().st_size for path in _files(work))
    progress.begin(progress.measure(), snapshot.total if snapshot else None)
    with explained_disk(str(folder)):
        _run(snapshot.uri if snapshot else _plain(uri), work, shown(uri))
    revision = snapshot.revision if snapshot else _commit(work) if source is ModelSource.GIT else _listing(work)
    if snapshot:
        _verify(snapshot, work)
    for name in _OF_TOOLS:
        shutil.rmtree(work / name, ignore_errors=True)
    return work, hashlib.sha256(f"{uri}\n{revision}".encode()).hexdigest()[:16]


def _run(uri: str, work: Path, prefix: str) -> None:
    try:
        Storage.download(uri, str(work))
    except DownloadFailed:
        raise
    except ImportError as error:
        text = f"{prefix}: the interpreter that downloads models has no {error.name}; install it there"
        raise DownloadRefused(ReasonCode.LIBRARY_NOT_INSTALLED, text) from None
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise DownloadFailed(ReasonCode.SOURCE_UNREACHABLE, f"{prefix}: {error}") from None
    except Exception as error:
        # Into the log of the download: the prose often says less than what it was made of.
        traceback.print_exc()
        raise _failure(error, prefix) from None


def _failure(error: Exception, prefix: str) -> DownloadFailed:
    """kserve-storage says everything in prose; beneath it there may be the server's own answer."""
    response = getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if source_of(prefix) is ModelSource.HUB and (
        status in _DENIED or any(word in str(error).lower() for word in _CLOSED)
    ):
        return DownloadRefused(ReasonCode.ACCESS_DENIED, f"{prefix}: {_GATED}")
    if isinstance(status, int) and status >= 400:
        return failure_of_status(status, prefix)
    if any(word in str(error).lower() for word in _REFUSED):
        return DownloadRefused(ReasonCode.SOURCE_REFUSED, f"{prefix}: {error}")
    return DownloadFailed(ReasonCode.SOURCE_FAILED, f"{prefix}: {error}")


def _plain(uri: str) -> str:
    """How an image is served elsewhere does not matter here: its files are fetched."""
    return re.sub(r"^oci\+\w+://", "oci://", uri)


# ---------------------------------------------------------------- what was fetched


def _files(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            if os.path.lexists(path):
                yield path


def _commit(work: Path) -> str:
    from dulwich.repo import Repo

    repository = Repo(str(work))
    try:
        return str(repository.head().decode())
    finally:
        repository.close()


def _listing(work: Path) -> str:
    """Names and sizes, and the small files themselves: configuration, indices."""
    known = hashlib.sha256()
    for path in sorted(_files(work)):
        size = path.lstat().st_size
        known.update(f"{path.relative_to(work)}\0{size}\n".encode())
        if size <= _SMALL and path.is_file():
            known.update(path.read_bytes())
    return known.hexdigest()


# ---------------------------------------------------------------- Hugging Face


@dataclass(frozen=True, slots=True)
class _RepositoryRevision:
    """One revision of a repository, by its commit. `hashes` are those of large files."""

    uri: str
    revision: str
    total: int
    hashes: dict[str, str]


def _snapshot(uri: str) -> _RepositoryRevision | None:
    """What the hub says that there is; None where it does not say, and then kserve-storage says why."""
    from huggingface_hub import HfApi

    name, _, revision = uri.partition("://")[2].partition(":")
    try:
        info: Any = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    except Exception:
        # Whatever it was, and it is another library's error in every other release: what is asked next says it better.
        return None
    files = info.siblings or ()
    hashes = {each.rfilename: each.lfs.sha256 for each in files if each.lfs}
    # The commit, so that all files are of one: a branch may move meanwhile.
    return _RepositoryRevision(f"hf://{name}:{info.sha}", info.sha, sum(each.size or 0 for each in files), hashes)


def _verify(snapshot: _RepositoryRevision, work: Path) -> None:
    for name, expected in snapshot.hashes.items():
        path = work / name
        if not path.is_file():
            continue
        known = WholeFile("sha256", bytes.fromhex(expected))
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                known.update(data)
        if not known.matches():
            path.unlink()
            raise DownloadFailed(ReasonCode.CHECKSUM_MISMATCH, f"{name}: its checksum differs from the hub's")
