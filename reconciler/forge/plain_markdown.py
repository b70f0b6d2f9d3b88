"""Comments for forges that show HTML as text. What is read back is as it was written, but for the kind of line ends.

Our marks become definitions of links to nowhere, which no Markdown shows; a line break in a table becomes a sign.
"""

from __future__ import annotations

import re

_BREAK = "↵"
_MARK = re.compile(r"^<!-- (reconciler: [^()\r\n]*) -->$", re.MULTILINE)
_PLAIN_MARK = re.compile(r"\n?^\[//\]: # \((reconciler: [^()\r\n]*)\)$\n?", re.MULTILINE)
_PLAIN_BREAK = re.compile(f"{_BREAK}{_BREAK}| {_BREAK} ")


def without_html(body: str) -> str:
    """With an empty line around each mark: a definition does not end a paragraph or a table."""
    body = body.replace(_BREAK, _BREAK * 2).replace("<br>", f" {_BREAK} ")
    return _MARK.sub(r"\n[//]: # (\1)\n", body)


def with_html(body: str) -> str:
    body = _PLAIN_MARK.sub(r"<!-- \1 -->", body.replace("\r\n", "\n"))
    return _PLAIN_BREAK.sub(lambda found: "<br>" if found[0][0] == " " else _BREAK, body)
