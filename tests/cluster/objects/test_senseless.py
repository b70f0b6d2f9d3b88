"""Whatever git says of an object, it is compared: the API server is the one to refuse it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.cluster.objects.compare import compare
from reconciler.cluster.objects.ignore import IgnoreRule, Rules, applied_body
from reconciler.cluster.objects.options import options_of
from reconciler.cluster.objects.paths import parse_path
from tests.cluster.objects.parts import desired, entry, live, ours

KEYS = st.sampled_from(["name", "labels", "annotations", "a", "value", "env", "stringData", "data", "limits", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
PARTS = st.dictionaries(st.sampled_from(["spec", "data", "stringData", "metadata", "status"]), TREES, max_size=3)
RULES = Rules(
    tuple(IgnoreRule((parse_path(path),)) for path in ("spec", "spec.a", "spec.env[*].value", "data.a[name=a].value")),
    "applyset-x-v1",
)


def body_of(kind: str, parts: dict[str, Any]) -> dict[str, Any]:
    metadata = parts.get("metadata")
    return {
        **parts,
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {**(metadata if isinstance(metadata, dict) else {}), "name": "x"},
    }


@given(st.sampled_from(["Secret", "ConfigMap"]), PARTS, PARTS)
def test_compare_of_anything_in_git_never_raises(kind: str, git: dict[str, Any], before: dict[str, Any]) -> None:
    # The API server has taken the live one: its labels are labels.
    want, old = desired(body_of(kind, git)), body_of(kind, {**before, "metadata": {}})
    options_of(want)
    for there in (live(old, ours(old)), live(old, entry("kubectl-edit", ours(old)["fieldsV1"])), live(old)):
        compare(want, there, None, RULES)
        applied_body(want, there, RULES)
