"""Strategies for what forges are told."""

from __future__ import annotations

from hypothesis import strategies as st

from reconciler.forge.messages import MOST_DESCRIPTION, CommitState, CommitStatus, Deployment

REVISIONS = [digit * 40 for digit in "abc"]
_TEXT = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])
_NAMES = st.text("abcdefghij-0", min_size=1, max_size=63)
contexts = st.sampled_from(["reconciler/gpu-1", f"reconciler/{'long-' * 60}"]) | st.builds(
    "/".join, st.lists(_NAMES, min_size=1, max_size=6).map(lambda parts: ["reconciler", *parts])
)
urls = st.just("") | st.builds("https://gpu-1.example.com/{}".format, st.text("abc/-_?=&%20", max_size=600))
statuses = st.builds(
    CommitStatus,
    revision=st.sampled_from(REVISIONS),
    context=contexts,
    state=st.sampled_from(CommitState),
    description=st.text(_TEXT, max_size=MOST_DESCRIPTION),
    url=urls,
)
deployments = st.builds(
    Deployment,
    revision=st.sampled_from(REVISIONS),
    environment=st.sampled_from(["gpu-1", "gpu-2"]),
    state=st.sampled_from(CommitState),
    description=st.text(_TEXT, max_size=MOST_DESCRIPTION),
    url=urls,
)
