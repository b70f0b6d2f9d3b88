"""The files that a spec's arguments name, looked at where they lie on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

from reconciler.engines.environment import replace_paths
from reconciler.engines.file_arguments import CERTIFICATE, KEY, Holds, Named, named_files, reads_weights
from reconciler.engines.fit_files import UnknownModel, UnreadableModel
from reconciler.engines.launch import Question, origin_of_word
from reconciler.engines.model_files import MissingFile, check, check_pair
from reconciler.model import Desired, EffectiveSpec, Origin, Reason
from reconciler.targets.reading import can_read
from reconciler.targets.stamps import Stamp, stamp_of

UNKNOWN = "FileUnknown"
"""The code of a file that could not be looked at: it may be as it should be."""


def unusable_files(wish: Desired, spec: EffectiveSpec, asked: Question, reader: str) -> Iterator[Reason]:
    """One reason for each argument that names what is missing, damaged or hidden by the disk, or from its reader."""
    weights = reads_weights(asked.argv)
    seen = [(one, replace_paths(one.path, asked.paths)) for one in named_files(asked.argv) if _is_ours(one, spec)]
    # What an image brings along is not for us to see.
    seen = [(one, local) for one, local in seen if local != one.path or not asked.image or _below_mounts(one, asked)]
    for one, local in seen:
        try:
            check(local, one.holds, weights)
            if one.holds is Holds.FILE and reader and os.geteuid() == 0:
                _check_reader(local, reader, stamp_of(local))
        except UnreadableModel as error:
            yield _reason(error, one, wish, spec, asked)
    pair = {one.flag: (one, local) for one, local in seen if one.flag in (CERTIFICATE, KEY)}
    if len(pair) == 2:
        try:
            check_pair(pair[CERTIFICATE][1], pair[KEY][1])
        except UnreadableModel as error:
            yield _reason(error, pair[CERTIFICATE][0], wish, spec, asked)


@lru_cache(512)
def _check_reader(path: str, reader: str, _stamp: Stamp) -> None:
    """Raises UnknownModel."""
    if not can_read(path, reader):
        raise UnknownModel(f"{path}: cannot be read by {reader}, who runs replicas; see to its mode and folders")


def _is_ours(one: Named, spec: EffectiveSpec) -> bool:
    """A Secret's files are written when a replica starts."""
    return not any(_is_below(one.path, mount.path) for mount in spec.secrets)


def _below_mounts(one: Named, asked: Question) -> bool:
    return any(_is_below(one.path, mount) for mount in asked.paths)


def _is_below(path: str, folder: str) -> bool:
    return path == folder.rstrip("/") or path.startswith(f"{folder.rstrip('/')}/")


def _reason(error: UnreadableModel, one: Named, wish: Desired, spec: EffectiveSpec, asked: Question) -> Reason:
    missing = isinstance(error, MissingFile)
    code = UNKNOWN if isinstance(error, UnknownModel) else "FileMissing" if missing else "FileDamaged"
    # Of a path in the container, both are told: the error names the one of this host.
    path = "" if one.path in str(error) else f" {one.path}"
    return Reason(code, f"{one.flag}{path}: {error}", _origin(one, wish, spec, asked))


def _origin(one: Named, wish: Desired, spec: EffectiveSpec, asked: Question) -> Origin:
    """The service's own argument; else where it says which model it is, for the runtime serves others as well."""
    word = origin_of_word(spec, asked.indices[one.index], wish.argument_origins)
    if word is not None and word.file == wish.origin.file:
        return word
    mounts = (origin for path, origin in wish.mount_origins if _is_below(one.path, path))
    return next(mounts, None) or word or wish.origin
