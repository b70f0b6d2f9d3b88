"""Reading YAML: kubectl's meaning, lines for every field, and one clear error for everything malformed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.formats.strict_yaml import (
    MAX_ALIASES,
    MAX_DEPTH,
    Tree,
    YamlProblem,
    check_text,
    load,
    read_plain,
    split_documents,
)
from reconciler.manifests import ManifestCache, Manifests, find_duplicates, read_manifests, read_paths
from reconciler.manifests.documents import MAX_DOCUMENTS, MAX_FILE_BYTES, MAX_NOTES, MAX_PROBLEMS, read_file
from reconciler.manifests.paths import MAX_BYTES
from reconciler.model import File, Origin, Reason, ReasonCode, Snapshot

PAIR = Path(__file__).parents[1] / "data" / "example_pair.yaml"

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: %s}
spec:
  predictor:
    model:
      args:
      - --a
      - "--b"
"""


def read(text: str | bytes, path: str = "a.yaml") -> Manifests:
    return read_file(path, text.encode() if isinstance(text, str) else text)


def only_error(text: str | bytes) -> Reason:
    manifests = read(text)
    assert not manifests.documents
    (error,) = manifests.errors
    return error


def file(path: str, text: str) -> File:
    return File(path, hashlib.sha1(text.encode()).hexdigest(), text.encode())


# What kubectl 1.32 answered to the same words.
KUBECTL = {
    "no": False,
    "y": True,
    "on": True,
    "012": 10,
    "0o14": 12,
    "1e3": 1000,
    "0x1F": 31,
    "1_000": 1000,
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "~": None,
    "null": None,
    "-1": -1,
    "0.90": 0.9,
    ".5": 0.5,
    "1.0": 1,
    "08": 8,
    "nope": "nope",
    "1.2.3": "1.2.3",
    "-": "-",
    "18446744073709551616": 18446744073709551616.0,
}


@pytest.mark.parametrize("word", KUBECTL)
def test_plain_words_mean_what_kubectl_says(word: str) -> None:
    value = read_plain(word)
    assert (type(value), value) == (type(KUBECTL[word]), KUBECTL[word])


def test_quoted_words_are_text() -> None:
    tree = load(b"a: 'no'\nb: \"012\"\nc: |\n  on\nd: !!str 1")
    assert tree
    assert tree.value == {"a": "no", "b": "012", "c": "on\n", "d": "1"}
    assert tree.surprises == ()


def test_words_that_surprise_people_are_warned_about_with_their_line() -> None:
    text = SERVICE % "a" + "    minReplicas: 012\n    on: yes\n    fine: 12\n"
    (manifest,) = read(text).documents
    assert [(w.code, w.origin and w.origin.line, w.message.split()[0]) for w in manifest.warnings] == [
        ("AmbiguousScalar", 10, "012"),
        ("AmbiguousScalar", 11, "on"),
        ("AmbiguousScalar", 11, "yes"),
    ]


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(trees)
def test_json_is_read_as_json(value: Any) -> None:
    # JSON is YAML: what was quoted stays text, whatever it looks like.
    text = json.dumps(value, ensure_ascii=True)
    if "\\ud" in text:
        return  # half a character, which YAML cannot say
    tree = load(text.encode())
    assert (tree.value if tree else None) == value


@given(trees)
def test_every_field_knows_its_line(value: Any) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": value}, indent=1)
    if "\\ud" in text:
        return
    (manifest,) = read(text).documents
    lines = text.split("\n")
    for path, leaf in leaves(manifest.data):
        assert json.dumps(leaf) in lines[manifest.line_of(path) - 1] or not isinstance(leaf, str)
        if path and isinstance(path[-1], str):
            assert json.dumps(path[-1]) in lines[manifest.line_of(path) - 1]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value)] + [found for key, child in items for found in leaves(child, (*path, key))]


def test_lines_of_arguments_and_of_fields_that_are_not_there() -> None:
    (manifest,) = read("# one\n---\n" + SERVICE % "a").documents
    assert manifest.origin == Origin("a.yaml", 3)
    args = ("spec", "predictor", "model", "args")
    assert [manifest.line_of((*args, index)) for index in (0, 1)] == [10, 11]
    assert manifest.line_of((*args, 7)) == 9
    assert manifest.line_of(("spec", "predictor", "minReplicas")) == 7


def test_documented_pair_is_read_as_it_stands() -> None:
    manifests = read_paths([PAIR])
    assert manifests.errors == manifests.notes == manifests.warnings == ()
    assert [(m.kind, m.namespace, m.name, m.origin.line) for m in manifests.documents] == [
        ("ServingRuntime", None, "vllm-runtime", 4),
        ("InferenceService", None, "granite", 39),
    ]
    assert manifests.documents[1].line_of(("spec", "predictor", "model", "storage", "path")) == 70


def test_merge_keys_and_aliases_work_and_are_not_shared() -> None:
    tree = load(b"base: &b {x: [1], z: 2}\nused:\n  <<: *b\n  z: 3\nagain: *b")
    assert tree
    assert tree.value == {"base": {"x": [1], "z": 2}, "used": {"z": 3, "x": [1]}, "again": {"x": [1], "z": 2}}
    assert tree.value["used"]["x"] is not tree.value["base"]["x"]


@pytest.mark.parametrize(
    ("text", "line", "code", "said"),
    [
        ("a: 1\nb:\n\t- c\n", 3, "InvalidYaml", "tab"),
        ("a: 1\n b: 2\n", 2, "InvalidYaml", "mapping values"),
        ("a: [1, 2\n", 1, "InvalidYaml", "expected ',' or ']'"),
        ("a: 'x\n\n", 1, "InvalidYaml", "quoted scalar"),
        ("a: *nobody", 1, "InvalidYaml", "undefined alias"),
        ("a: 1\nb: 2\na: 3\n", 3, "DuplicateKey", 'key "a" is written twice; the first is in line 1'),
        ("a: {b: 1, b: 2}", 1, "DuplicateKey", '"b"'),
        ("on: 1\ntrue: 2", 2, "DuplicateKey", '"true"'),
        ("a: !!python/object/apply:os.system [id]", 1, "UnknownTag", "!!python/object/apply:os.system"),
        ("a: !secret x", 1, "UnknownTag", "!secret"),
        ("? [a, b]\n: 1", 1, "InvalidYaml", "cannot be a key"),
        ("a: .inf", 1, "InvalidYaml", "number"),
        ("<<: 1", 1, "InvalidYaml", "mapping"),
        ("a: &x [*x]", 1, "TooDeep", "deeper than 100"),
        ("x: 1\ny: " + "[" * 10_000, 2, "TooDeep", "deeper than 100"),
        ("- " * 10_000, 1, "TooDeep", "deeper than 100"),
        ("? " * 10_000, 1, "TooDeep", "deeper than 100"),
        ("{a: " * 100_000, 1, "TooDeep", "deeper than 100"),
        ("a: &x 1\nb: [" + "*x, " * (MAX_ALIASES + 1) + "]", 2, "TooManyAliases", "more than 50"),
        ("a: 1\nb: \x07", 2, "NotText", "control characters"),
        ("a: \0", 1, "NotText", "zero byte"),
        (b"a: 1\nb: \xff\xfe", 2, "NotText", "UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, "NotText", "zero byte"),
        ("apiVersion serving.kserve.io/v1beta1", 1, "IncompleteManifest", "expected a mapping, got text"),
        ("- {apiVersion: serving.kserve.io/v1beta1}", 1, "IncompleteManifest", "got a list"),
        ("apiVersion: serving.kserve.io/v1beta1", 1, "IncompleteManifest", "kind is missing"),
        ("apiversion: serving.kserve.io/v1beta1", 1, "IncompleteManifest", "kind is missing"),
        ("Kind: InferenceService\nname: a", 1, "IncompleteManifest", "kind is missing"),
        ("kind: InferenceServce\nname: a", 1, "IncompleteManifest", "apiVersion is missing"),
        ("apiVersion: v1\nkind: ENC[AES256_GCM,data:x]\nmetadata: {name: a}", 2, "UnknownKind", "SOPS"),
        ("kind: Secret", 1, "IncompleteManifest", "apiVersion is missing"),
        ("kind: Secret\napiVersion: v1\nmetadata: {}", 3, "IncompleteManifest", "metadata.name is missing"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: 12}", 3, "IncompleteManifest", "must be text, got a number"),
        ("kind: Secret\napiVersion: v1\nmetadata:\n  name: ../x", 4, "IncompleteManifest", "invalid name"),
        (
            "kind: Secret\napiVersion: v1\nmetadata: {name: a,\n namespace: A/b}",
            4,
            "IncompleteManifest",
            "invalid namespace",
        ),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: a,\n namespace: [1]}", 4, "IncompleteManifest", "got a list"),
        ("apiVersion: v1\nkind: List\nitems: 3", 3, "IncompleteManifest", "items: expected a list"),
        (
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceServce\nmetadata: {name: a}",
            2,
            "UnknownKind",
            "did you mean InferenceService?",
        ),
        (
            "apiVersion: serving.kserve.io/v1alpha2\nkind: InferenceService\nmetadata: {name: a}",
            2,
            "UnknownKind",
            "expected serving.kserve.io/v1beta1",
        ),
    ],
)
def test_everything_malformed_gets_one_error_with_its_line(text: str | bytes, line: int, code: str, said: str) -> None:
    error = only_error(text)
    assert (error.code, error.origin) == (code, Origin("a.yaml", line))
    assert said in error.message


@pytest.mark.parametrize("depth", [101, 999, 1_000, 1_001, 10_000])
@pytest.mark.parametrize("level", ["[", "{", "[{", "{a: ", "- ", "? ", "- - ", "? [\n"])
def test_nesting_beyond_our_limit_is_too_deep_whoever_refuses(level: str, depth: int) -> None:
    # libyaml 0.2.6 refuses 1,000 levels itself, and by its look-ahead before ours are counted.
    assert only_error(f"é: 1\nb:\n  {level * depth}").code == "TooDeep"


def test_alias_bomb_is_refused_before_it_grows() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 7)}]" for i in range(1, 7)]
    error = only_error("\n".join(["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]", *levels]))
    assert error.code == "TooManyValues"


def test_deepest_allowed_nesting_is_read() -> None:
    assert isinstance(load(b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1)), Tree)
    with pytest.raises(YamlProblem):
        load(b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1))


def test_values_do_not_appear_in_errors() -> None:
    # A broken Secret must not end up in a log or on a commit.
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  p: hunter2\n  p: hunter3\n"
    for broken in (text, text.replace("p: hunter3", "q: 'hunter3"), text + "\thunter4"):
        assert "hunter" not in str(only_error(broken))


def test_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    text = b"\xef\xbb\xbf" + (SERVICE % "a").replace("\n", "\r\n").encode() + b"---\r\n" + (SERVICE % "b").encode()
    assert [(m.name, m.origin.line) for m in read(text).documents] == [("a", 1), ("b", 11)]


def test_empty_files_and_documents_are_skipped() -> None:
    for text in ("", "# nothing\n", "---\n---\n# x\n", "\n\n---\nnull\n...\n"):
        found = read(text)
        assert [note.code for note in found.notes] == ["EmptyFile"]
        assert found == Manifests(notes=found.notes)


def test_broken_document_spoils_only_itself() -> None:
    text = "---\n".join([SERVICE % "a", "kind: Secret\nb: [\n", SERVICE % "c", "a: 1\na: 2\n", SERVICE % "e"])
    manifests = read(text)
    assert [m.name for m in manifests.documents] == ["a", "c", "e"]
    assert [m.origin.line for m in manifests.documents] == [1, 14, 27]
    assert [(u.reason.code, u.kind) for u in manifests.unreadable] == [("InvalidYaml", "Secret"), ("DuplicateKey", "")]


def test_documents_are_cut_where_yaml_cuts_them() -> None:
    text = b"%YAML 1.1\n# why\n---\na: |\n  ---\n  x\n--- # two\nb: 1\n...\n---\n--- {c: 1}\n---d: 1\n"
    assert [line for line, chunk in split_documents(text) if chunk.strip() not in (b"", b"---")] == [1, 7, 11]
    assert [tree.value for line, chunk in split_documents(text[:-8]) if (tree := load(chunk, line)) and tree.value] == [
        {"a": "---\nx\n"},
        {"b": 1},
        {"c": 1},
    ]


@given(st.lists(st.sampled_from(["---\n", "...\n", "a: 1\n", "%YAML 1.1\n", "# x\n", "--- b\n", "\n", "  ---\n"])))
def test_cutting_loses_no_line(lines: list[str]) -> None:
    data = "".join(lines).encode()
    for line, chunk in split_documents(data):
        begun = data.split(b"\n")[line - 1]
        assert chunk.split(b"\n")[0] in (begun, b"")


def test_lists_are_expanded_with_their_lines() -> None:
    item = "- {apiVersion: v1, kind: Secret, metadata: {name: %s}}\n"
    manifests = read("apiVersion: v1\nkind: List\nitems:\n" + item % "a" + item % "b" + "- 1\n")
    assert [(m.name, m.origin.line) for m in manifests.documents] == [("a", 4), ("b", 5)]
    assert [(e.code, e.origin and e.origin.line) for e in manifests.errors] == [("IncompleteManifest", 6)]


def test_foreign_kinds_are_noted_and_not_refused() -> None:
    text = "apiVersion: %s\nkind: %s\nmetadata: {name: a}\n---\n"
    kinds = [
        ("apps/v1", "Deployment"),
        ("serving.kserve.io/v1alpha1", "InferenceGraph"),
        ("serving.kserve.io/v1alpha1", "LLMInferenceServiceConfig"),
        ("cluster.x-k8s.io/v1", "Cluster"),
    ]
    manifests = read("".join(text % kind for kind in kinds))
    assert manifests.errors == manifests.documents == ()
    assert [note.code for note in manifests.notes] == [
        "UnknownKind",
        "UnsupportedKind",
        "UnsupportedKind",
        "UnknownKind",
    ]


def test_huge_files_and_endless_errors_stop_early() -> None:
    assert only_error(b"a" * (MAX_FILE_BYTES + 1)).code == "FileTooLarge"
    assert len(read("---\nkind: Secret\n" * 10_000).errors) == MAX_PROBLEMS + 1
    notes = read("---\na\n" * 1000).notes
    assert len(notes) == MAX_NOTES
    assert notes[-1].message == "this and 995 more documents of unsupported kinds; ignored"
    many = read("---\n{apiVersion: v1, kind: Secret, metadata: {name: a}}\n" * (MAX_DOCUMENTS + 10))
    assert [error.code for error in many.errors] == ["TooManyDocuments"]


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_it_raise(data: bytes) -> None:
    manifests = read(data)
    assert all(error.origin and error.message for error in manifests.errors)


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@ \n\t#?,<~.0"), max_size=60))
def test_no_text_at_all_makes_it_raise(text: str) -> None:
    data = text.encode()
    for error in read(data).errors:
        assert error.origin
        assert 1 <= error.origin.line <= data.count(b"\n") + 1


def test_unchanged_files_give_the_same_manifests() -> None:
    cache = ManifestCache()
    first = read_manifests(Snapshot("1", (file("a.yaml", SERVICE % "a"), file("b.yaml", SERVICE % "b"))), cache)
    second = read_manifests(Snapshot("2", (file("a.yaml", SERVICE % "a"), file("b.yaml", SERVICE % "c"))), cache)
    assert first.documents[0] is second.documents[0]
    assert [m.name for m in second.documents] == ["a", "c"]
    moved = read_manifests(Snapshot("3", (file("z.yaml", SERVICE % "a"),)), cache)
    assert moved.documents[0].origin == Origin("z.yaml", 1)


def test_refused_files_stay_known() -> None:
    refused = Reason(ReasonCode.SYMLINK, "not read: it is a symbolic link", Origin("hosts/x/a.yaml", 1))
    assert read_manifests(Snapshot("1", (), refused=(refused,))).errors == (refused,)


def test_duplicates_count_the_default_namespace() -> None:
    text = SERVICE % "a" + "---\n" + (SERVICE % "a").replace("{name: a}", "{name: a, namespace: home}")
    documents = read(text).documents
    assert find_duplicates(documents, "home") == [documents]
    assert find_duplicates(documents, "other") == []


def test_folders_are_read_in_order_and_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/two.yml", "a.yaml", "b/one.yaml", ".git/x.yaml", "b/.hidden.yaml", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SERVICE % "x")
    found = [m.origin.file for m in read_paths([tmp_path]).documents]
    assert found == [str(tmp_path / name) for name in ("a.yaml", "b/one.yaml", "b/two.yml")]


def test_what_is_no_plain_file_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    (folder / "real").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text("top: secret")
    (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "up").symlink_to(tmp_path)
    (folder / "dir.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (folder / os.fsdecode(b"\xff.yaml")).write_text("kind: Secret")
    manifests = read_paths([folder, tmp_path / "missing.yaml", tmp_path / "repo" / "real", Path("a\0b")])
    codes = {Path(e.origin.file).name: e.code for e in manifests.errors if e.origin}
    assert codes == {
        "up": "Symlink",
        "big.yaml": "FileTooLarge",
        "link.yaml": "Symlink",
        "pipe.yaml": "NotARegularFile",
        "\ufffd.yaml": "IncompleteManifest",
        "missing.yaml": "Unreadable",
        "real": "NoFiles",
        "a\0b": "Unreadable",
    }


def test_link_that_is_given_by_name_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(SERVICE % "a")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real.yaml")
    assert [m.name for m in read_paths([tmp_path / "link.yaml"]).documents] == ["a"]


def test_text_is_checked_before_it_is_parsed() -> None:
    assert check_text(b"\xef\xbb\xbfa") == b"a"
    with pytest.raises(YamlProblem) as caught:
        check_text(b"a\nb\0")
    assert caught.value.line == 2
