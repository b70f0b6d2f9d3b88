"""A long value in a manifest costs no more than reading it: a pass must not hang on what was pushed."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.settings import EngineSettings
from reconciler.desired import origins
from reconciler.engines.arguments import LONGEST_EXPANSION, expand, names_in
from reconciler.engines.launch import question
from reconciler.engines.limits import too_large
from reconciler.model import EnvVar, texts
from reconciler.model.model_sources import ModelSource, source_of
from tests.desired.test_desired import SERVICE, build, one, with_predictor
from tests.host.checks.test_preflights import SPEC
from tests.support.arguments import written

pytestmark = pytest.mark.slow

_LOOKS = """
import sys
from reconciler.config.settings import EngineSettings
from reconciler.engines.fit_files import read_figures
from reconciler.engines.environment import find_engine
from reconciler.engines.arguments import expand, names_in
from reconciler.kserve.storage import StorageError, check_uri
from reconciler.model.model_sources import source_of

word = sys.argv[1] * 300_000
for end in ("", "blob.core.windows.net"):
    try:
        check_uri(word + end, ())
    except StorageError:
        pass
source_of(f"https://{word}")
expand(word, {})
names_in(word)
find_engine(word, [EngineSettings(image=f"*{sys.argv[1]}" * 3 + "*x", python="/x")])
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


def variables(count: int, value: str) -> list[EnvVar]:
    return [EnvVar("A0", "x" * 1000), *(EnvVar(f"A{i}", value.format(i - 1)) for i in range(1, count))]


@pytest.mark.parametrize(
    ("env", "args"),
    [
        (variables(60, "$(A{0})$(A{0})"), ()),
        (variables(20_000, "$(A{0})y"), ()),
        ([*variables(1, ""), EnvVar("B", "$(A0)" * 1000)], ("$(B)" * 1000,) * 1000),
    ],
)
def test_variables_that_name_each_other_cannot_fill_the_memory(env: list[EnvVar], args: tuple[str, ...]) -> None:
    spec = replace(SPEC, env=tuple(env), args=written(*SPEC.args, *args))
    engine = EngineSettings(image="vllm/*", python=Path("/usr/bin/python3"))
    asked = question(spec, engine, {}, "/nowhere")
    sizes = [sum(map(len, asked.env.values())), sum(map(len, texts(asked.argv)))]
    assert LONGEST_EXPANSION < max(sizes) < 3 * LONGEST_EXPANSION, "it is too large for any process, and no larger"
    assert too_large(texts(asked.argv), asked.env, 6 << 20)


def test_many_doubles_are_named_once_each_and_not_with_all_others() -> None:
    (service,) = build({"hosts/box/chat.yaml": f"{SERVICE}---\n" * 400}).services
    first = service.problems[0]
    assert str(first).endswith("and hosts/box/chat.yaml:43 and 396 more places; keep one")
    assert sum(len(str(each)) for each in service.problems) < 400 * 300


def test_thousands_of_variables_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: Counter[str] = Counter()
    monkeypatch.setattr(origins, "_items", lambda value: looked.update(["env"]) or value if value else [])
    lines = [f"- {{name: A{i}, valueFrom: {{secretKeyRef: {{name: s, key: k}}}}}}" for i in range(300)]
    found = one(with_predictor("  env:", *(f"  {line}" for line in lines)))
    assert found.variable_origins[299][1].line - found.variable_origins[0][1].line == 299
    assert looked["env"] < 100


def test_source_is_told_by_the_first_address_in_it() -> None:
    assert source_of("https://git.example.com/a.git") is ModelSource.GIT
    assert source_of("http://git.example.com/a.git") is ModelSource.HTTP
    assert source_of("https://.git") is ModelSource.HTTP
    assert source_of("https://example.com/blob.core.windows.net/x") is ModelSource.HTTP
    assert source_of("https://account.blob.core.windows.net/c/x") is ModelSource.LIBRARY
