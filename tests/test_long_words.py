"""A long word in a manifest costs no more than reading it: a pass must not hang on what somebody pushed."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from reconciler.engines.launch import expand, names_in
from reconciler.storage.sources import is_git, is_read_by_us

_LOOKS = """
import sys
from reconciler.engines.fit_log import read_figures
from reconciler.engines.launch import expand, names_in
from reconciler.kserve.storage import StorageError, check_uri
from reconciler.storage.sources import is_read_by_us

word = sys.argv[1] * 300_000
for end in ("", "blob.core.windows.net"):
    try:
        check_uri(word + end, ())
    except StorageError:
        pass
is_read_by_us(f"https://{word}")
expand(word, {})
names_in(word)
read_figures([word, "KV cache size: 1 tokens", "Maximum concurrency for 1 tokens per request: 1x"])
"""


def _few_seconds() -> None:
    """What looks at each part again and again takes minutes of a processor, whatever else runs on the machine."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


@pytest.mark.parametrize("part", ["K", "$(", "https://", "1", "1."])
def test_long_word_costs_no_more_than_reading_it(part: str) -> None:
    done = subprocess.run([sys.executable, "-c", _LOOKS, part], preexec_fn=_few_seconds, check=False)
    assert done.returncode == 0


def test_reference_is_expanded_before_and_behind_what_is_never_closed() -> None:
    env = {"A": "1", "B": "2"}
    assert expand("$(A)$$(B)$(C)$(B) $(A $$ $(", env) == "1$(B)$(C)2 $(A $ $("
    assert names_in("$(A)$$(B) $(C) $(D") == {"A", "C"}


def test_source_is_told_by_the_first_address_in_it() -> None:
    assert is_git("https://git.example.com/a.git")
    assert not is_git("http://git.example.com/a.git")
    assert not is_git("https://.git")
    assert is_read_by_us("https://example.com/blob.core.windows.net/x")
    assert not is_read_by_us("https://account.blob.core.windows.net/c/x")
