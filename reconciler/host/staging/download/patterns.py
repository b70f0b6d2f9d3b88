"""Which files of a model are downloaded:

`STORAGE_ALLOW_PATTERNS` and `STORAGE_IGNORE_PATTERNS`, as in kserve-storage.
"""

from __future__ import annotations

from kserve_storage.kserve_storage import _parse_patterns_from_env, _should_download


def is_wanted(path: str) -> bool:
    """Does a file's path in the model's folder pass both?"""
    allowed = _parse_patterns_from_env("STORAGE_ALLOW_PATTERNS")
    ignored = _parse_patterns_from_env("STORAGE_IGNORE_PATTERNS")
    return bool(_should_download(path, allowed, ignored))
