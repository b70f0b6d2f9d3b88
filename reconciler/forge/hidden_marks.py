"""Our marks in comments, for forges that show HTML comments: there they become definitions of links to nowhere, which
no Markdown shows. What is read back is as it was written, but for the kind of line ends."""

from __future__ import annotations

import re

_MARK = re.compile(r"^<!-- (reconciler: [^()\r\n]*) -->$", re.MULTILINE)
_HIDDEN = re.compile(r"\n?^\[//\]: # \((reconciler: [^()\r\n]*)\)$\n?", re.MULTILINE)


def hide_marks(body: str) -> str:
    """With an empty line around each: a definition does not end a paragraph or a table."""
    return _MARK.sub(r"\n[//]: # (\1)\n", body)


def restore_marks(body: str) -> str:
    return _HIDDEN.sub(r"<!-- \1 -->", body.replace("\r\n", "\n"))
