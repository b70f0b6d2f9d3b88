"""Which names stand for confidential values. Pure."""

from __future__ import annotations

import re

# `tokens` alone is a count here (`max_tokens`), a `tokenizer` is a folder, and a path is no secret (`token_file`).
_NAME = re.compile(
    r"(?i)(password|passwd|secret|authorization|credential|cookie|api[-_]?key|private[-_]?key|token(?!s|iz))"
)
_PATH_NAME = re.compile(r"(?i)[-_.](file|path|dir|uri|url)$")
# What services hand out begins like this.
WELL_KNOWN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|nvapi-[\w-]{20,}"
    r"|sk-[A-Za-z0-9_-]{0,20}[A-Za-z0-9]{20,}|AIza[\w-]{35}|xox[abeprs]-[A-Za-z0-9-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{40,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----(?:[^-]{0,9000}-----END)?"
)
# A URL that gives access to anyone who has it.
SIGNED = re.compile(r"(?<=[?&])((?:sig|X-Amz-Signature|X-Goog-Signature|access_token|token)=)[^&\s'\"]{8,}")


def is_secret_name(name: str) -> bool:
    """Would a value under this name be confidential?"""
    return bool(_NAME.search(name)) and not _PATH_NAME.search(name)
