"""Where models come from: who gets their files, by the scheme of a URI, and under which key they are kept. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from enum import StrEnum, auto
from functools import lru_cache

from reconciler.model import EffectiveSpec, Mount, ServiceId

_SHORTEST_SECRET = 4
_KEY = re.compile(r"[0-9a-f]{16}")
_AZURE = re.compile(r"\.((blob|file)\.core\.windows|z\d\d?\.(blob|file)\.storage\.azure)\.net/")


class ModelSource(StrEnum):
    """Who gets a model's files, and how they are checked."""

    # Used where they are: nothing is fetched, and nothing checked but that they may be served.
    FOLDER = auto()
    CLAIM = auto()
    # Our own program goes on where it was, and compares with the checksums that S3 keeps.
    S3 = auto()
    # Our own downloader: the server must support ranges and report digests.
    HTTP = auto()
    # kserve-storage, at one commit; large files are compared with the hub's SHA-256.
    HUB = auto()
    # kserve-storage, at one commit, which is itself a hash of all files.
    GIT = auto()
    # kserve-storage restarts from scratch each time, and checks as the library of that source does.
    LIBRARY = auto()


SOURCE_BY_SCHEME: Mapping[str, ModelSource] = {
    "": ModelSource.FOLDER,
    "file": ModelSource.FOLDER,
    "pvc": ModelSource.CLAIM,
    "s3": ModelSource.S3,
    # Or of git or Azure, which an address tells: see `source_of`.
    "https": ModelSource.HTTP,
    "http": ModelSource.HTTP,
    "gs": ModelSource.LIBRARY,
    "hf": ModelSource.HUB,
    "hdfs": ModelSource.LIBRARY,
    "webhdfs": ModelSource.LIBRARY,
    "oci": ModelSource.LIBRARY,
    "oci+native": ModelSource.LIBRARY,
    "oci+fetch": ModelSource.LIBRARY,
    "modelscope": ModelSource.LIBRARY,
}
"""Every scheme that a model may have; another one is refused."""
_HERE_ALREADY = (ModelSource.FOLDER, ModelSource.CLAIM)
SCHEMES = tuple(scheme for scheme, source in SOURCE_BY_SCHEME.items() if source not in _HERE_ALREADY)
"""What can be fetched; Azure's blobs and files and git repositories are https."""


def is_key(name: str) -> bool:
    """May a folder of this name be one of a fetched model?"""
    return _KEY.fullmatch(name) is not None


def is_fetched(uri: str) -> bool:
    """Does it lie elsewhere? Folders and claims of this host are used where they are."""
    return source_of(uri) not in _HERE_ALREADY


def source_of(uri: str) -> ModelSource | None:
    """Who gets it; None for a scheme that is not supported."""
    found = SOURCE_BY_SCHEME.get(_scheme_of(uri))
    if found is not ModelSource.HTTP:
        return found
    if _is_git(uri):
        return ModelSource.GIT
    return ModelSource.LIBRARY if _is_azure(uri) else ModelSource.HTTP


def _scheme_of(uri: str) -> str:
    """What stands before `://`, in small letters; nothing for a path."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else ""


def fetched(service: ServiceId, spec: EffectiveSpec) -> Iterator[tuple[str, Mount]]:
    """The models of a spec that have to be fetched, each with its key."""
    for mount in spec.mounts:
        if is_fetched(mount.uri):
            yield key_of(service.namespace, mount), mount


def shown(uri: str) -> str:
    """A URI as people may read it: without a password, and without a query, which may hold a signature."""
    scheme, separator, rest = uri.partition("?")[0].partition("://")
    if not separator:
        return uri
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def secret_parts(uri: str) -> tuple[str, ...]:
    """What `shown` leaves out, for code that has to redact it from other texts."""
    rest, _, query = uri.partition("://")[2].partition("?")
    login = rest.partition("/")[0].rpartition("@")[0]
    return tuple(part for part in (query, login, login.partition(":")[2]) if len(part) >= _SHORTEST_SECRET)


@lru_cache(maxsize=8192)
def key_of(namespace: str, mount: Mount) -> str:
    """Equal keys, equal files: 16 hex digits of what is fetched and by whose leave.

    Where it is mounted does not count, nor what certificates say. What one namespace's Secrets opened is nothing that
    another one may read.
    """
    files = [(each.path, each.source) for each in mount.files]
    written = {"uri": mount.uri, "env": [astuple(each) for each in mount.env], "files": files}
    secret = any(each.source for each in mount.env) or any(each.source for each in mount.files)
    text = json.dumps([namespace if secret else "", written], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_git(uri: str) -> bool:
    """As kserve-storage tells it: only over https."""
    start = uri.find("https://")
    return start >= 0 and uri.find(".git", start + len("https://") + 1) >= 0


def _is_azure(uri: str) -> bool:
    """By the first address in it: trying each one would take hours for a long text."""
    start = uri.find("https://")
    return start >= 0 and _AZURE.search(uri, start + len("https://") + 1) is not None
