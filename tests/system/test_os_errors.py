"""What the operating system refused, as text with a next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from reconciler.system.files import cannot


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_text_of_an_error_has_the_advice_of_its_place() -> None:
    assert cannot(_error(errno.EACCES), Path("/a"), "read") == "/a: cannot be read: Permission denied"
    text = cannot(_error(errno.EACCES), "/a", "written", "run the reconciler as root")
    assert text == "/a: cannot be written: Permission denied; run the reconciler as root"


def test_text_of_a_lack_of_resources_advises_to_raise_the_limit() -> None:
    text = cannot(_error(errno.EMFILE), "/a", "written", "run the reconciler as root")
    assert text.startswith("/a: cannot be written: Too many open files; this process has too many open files")
    assert "root" not in text


def test_text_of_an_error_without_a_number_is_its_own() -> None:
    assert cannot(OSError("odd"), "/a", "made") == "/a: cannot be made: odd"
