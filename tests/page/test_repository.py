"""The tree that is read: files, what is in them, and what was found, as documents."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.forge.remote import Remote
from reconciler.model import (
    NO_ORIGIN,
    Argument,
    DesiredObject,
    File,
    ObjectId,
    Origin,
    Reason,
    ReasonCode,
    Snapshot,
)
from reconciler.page.links import ForgeLinks
from reconciler.page.repository import (
    KINDS,
    PAGE_SIZE,
    FileFinding,
    ListedDocument,
    TargetTree,
    TreeFilter,
    repository_document,
    target_tree,
)
from reconciler.report.status import Document
from tests.page.test_change import shown
from tests.support.report_world import (
    REVISION,
    SPEC,
    TINY,
    desired,
    planned,
    rejection,
    report,
    state,
    status_of,
    verdict,
)

LINKS = ForgeLinks(Remote("github", "https://api.github.com", "github.com", "a/b"))
EMPTY = TargetTree("a", "host", REVISION, ("runtimes", "hosts/a/"), ())
FILES = st.sampled_from(tuple(f"hosts/a/{name}.yaml" for name in "abcdefgh"))
FINDINGS = st.builds(
    FileFinding, st.sampled_from(KINDS), st.just("Code"), st.text(max_size=9), st.none() | FILES, st.none() | st.just(3)
)
TREES = st.builds(
    TargetTree,
    st.sampled_from(("a", "b")),
    st.just("host"),
    st.just(REVISION),
    st.just(("hosts/a",)),
    st.lists(FILES, unique=True).map(tuple),
    st.dictionaries(FILES, st.just([ListedDocument("InferenceService", "demo/tiny", 1)])),
    st.dictionaries(FILES, st.just(["demo/tiny"])),
    st.lists(FINDINGS, max_size=8),
)


def snapshot(*paths: str, **more: object) -> Snapshot:
    return replace(Snapshot(REVISION, tuple(File(path, "0" * 40, b"") for path in paths)), **more)


def document(*trees: TargetTree, **chosen: object) -> Document:
    return repository_document(trees, replace(TreeFilter(), **chosen), LINKS, status_of(report()))  # type: ignore[arg-type]


def why(message: str, file: str = "hosts/a/x.yaml", line: int = 1) -> Reason:
    return Reason(ReasonCode.INVALID_DOCUMENT, message, Origin(file, line))


def test_files_are_those_below_the_folders_of_the_target() -> None:
    read = snapshot("runtimes/r.yaml", "hosts/a/x.yaml", "hosts/b/y.yaml", "hosts/ab.yaml")
    assert target_tree(EMPTY, read, None, None).files == ("hosts/a/x.yaml", "runtimes/r.yaml")
    everything = replace(EMPTY, paths=(".",))
    assert len(target_tree(everything, read, None, None).files) == 4


def test_runtime_names_the_services_that_have_values_from_it() -> None:
    spec = replace(SPEC, args=(Argument("--port=1", Origin("runtimes/r.yaml", 9)), Argument("--x", NO_ORIGIN)))
    tree = target_tree(EMPTY, snapshot(), state(desired(spec=spec)), None)
    assert tree.used_by == {"runtimes/r.yaml": ["demo/tiny"]}
    assert tree.contents == {"hosts/a/tiny.yaml": [ListedDocument("InferenceService", "demo/tiny", 7)]}


def test_objects_of_a_cluster_are_what_is_in_its_files() -> None:
    objects = tuple(
        DesiredObject(ObjectId("", kind, namespace, "x"), Origin("a.yaml", line), {}, "")
        for kind, namespace, line in (("ConfigMap", "team", 9), ("Namespace", "", 1))
    )
    tree = target_tree(EMPTY, snapshot(), state(desired(), objects=objects), None)
    assert tree.contents == {"a.yaml": [ListedDocument("Namespace", "x", 1), ListedDocument("ConfigMap", "team/x", 9)]}


def test_everything_that_was_found_is_there_once_with_its_kind() -> None:
    blocked = why("blocked", line=5)
    service = desired(
        problems=(why("problem"),), warnings=(why("warning"),), blocked=(blocked,), not_here=(why("other"),)
    )
    wanted = state(
        service,
        unreadable=(why("unreadable"),),
        refused=(why("refused"),),
        notes=(why("unreadable"), why("note")),
        skipped={"hosts/a/.x.yaml": Reason(ReasonCode.FILE_IGNORED, "hidden", NO_ORIGIN)},
    )
    read = snapshot(refused=(why("too large"), why("of others", "hosts/b/x.yaml")))
    plan = planned(verdict(blocked=(blocked,), rejected=rejection()))
    tree = target_tree(EMPTY, read, wanted, plan)
    assert sorted((one.kind, one.message, one.subject) for one in tree.findings) == [
        ("error", "blocked", str(TINY)),
        ("error", "problem", str(TINY)),
        ("error", "too large", ""),
        ("error", "unreadable", ""),
        ("error", "unrecognized argument --max-modle-len", str(TINY)),
        ("note", "hidden", ""),
        ("note", "note", ""),
        ("note", "other", str(TINY)),
        ("refused", "refused", ""),
        ("warning", "warning", str(TINY)),
    ]
    (hidden,) = [one for one in tree.findings if one.message == "hidden"]
    assert hidden.file == "hosts/a/.x.yaml"


def test_many_files_come_by_page_and_the_last_page_is_the_end() -> None:
    tree = replace(EMPTY, files=tuple(f"hosts/a/{number:05}.yaml" for number in range(2 * PAGE_SIZE + 1)))
    assert len(document(tree)["files"]) == PAGE_SIZE
    last = document(tree, page=99)
    assert [one["file"] for one in last["files"]] == ["hosts/a/00400.yaml"]
    assert (last["pages"], last["filter"]["page"], last["matching"]) == (3, 3, 401)
    page = shown(document(tree, page=2, text="hosts"), "repository")
    assert 'href="/repository?target=&amp;only=&amp;q=hosts&amp;page=3"' in page


def test_text_finds_paths_names_and_findings() -> None:
    finding = FileFinding("warning", "NoEffect", "the field does nothing", "hosts/a/c.yaml", 1)
    contents = {"hosts/a/b.yaml": [ListedDocument("InferenceService", "team/chat", 1)]}
    tree = replace(EMPTY, files=tuple(f"hosts/a/{one}.yaml" for one in "abc"), contents=contents, findings=(finding,))
    for text, file in (("A/A.", "a"), ("team/CHAT", "b"), ("does nothing", "c"), ("noeffect", "c")):
        assert [one["file"] for one in document(tree, text=text)["files"]] == [f"hosts/a/{file}.yaml"]
    assert document(tree, text="nowhere")["files"] == []


@settings(max_examples=40)
@given(
    st.lists(TREES, max_size=2),
    st.builds(TreeFilter, st.sampled_from(("", "a")), st.booleans(), st.sampled_from(("", "a"))),
)
def test_files_with_worse_findings_come_first_and_none_is_lost(trees: list[TargetTree], chosen: TreeFilter) -> None:
    found = repository_document(trees, chosen, LINKS, status_of(report()))
    ranks = [KINDS.index(one["findings"][0]["kind"]) if one["findings"] else len(KINDS) for one in found["files"]]
    assert ranks == sorted(ranks)
    if chosen == TreeFilter():
        there = [(tree.name, file) for tree in trees for file in tree.files]
        assert set(there) <= {(one["target"], one["file"]) for one in found["files"]}
        told = sum(len(one["findings"]) for one in (*found["files"], *found["targets"]))
        assert told == sum(len(tree.findings) for tree in trees)
    if chosen.only_findings:
        assert len(KINDS) not in ranks
    assert json.loads(json.dumps(found)) == found
    assert "</html>" in shown(found, "repository")
