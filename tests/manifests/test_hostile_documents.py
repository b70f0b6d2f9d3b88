"""A hostile document spoils itself or its own service, and neither the others nor a pass."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import manifests
from reconciler.config.settings import EngineSettings
from reconciler.desired import build, build_desired
from reconciler.engines.environment import find_engine
from reconciler.evaluation.evaluator import Evaluator
from reconciler.formats import json_values
from reconciler.formats.strict_yaml import MAX_EXPANDED, find, line_at, load
from reconciler.manifests import documents, read_manifests
from reconciler.manifests.documents import read_file
from reconciler.model import DesiredState, File, Snapshot
from reconciler.secrets import sources
from reconciler.web.json_responses import JSONResponse
from tests.bench.bench_manifests import TARGET, tree
from tests.support.examples import examples

SMALL = tree(3)
# A thousand values in a text of a hundred bytes.
BOMB = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b]\n"
ONE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"


def desired(snapshot: Snapshot) -> DesiredState:
    return build_desired(read_manifests(snapshot), TARGET, snapshot)


def with_file(path: str, text: str, snapshot: Snapshot = SMALL) -> Snapshot:
    files = (*(each for each in snapshot.files if each.path != path), File(path, text, text.encode()))
    return replace(snapshot, revision="f" * 40, files=files)


# ---------------------------------------------------------------- what we fail on


def test_service_that_raises_is_one_service_with_a_bug_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = desired(SMALL).services
    bad, real, secret = known[1].id, build.describe, "hf_" + "x" * 9

    def describe(service, context):
        if service.name == bad.name:
            raise OverflowError(secret)
        return real(service, context)

    monkeypatch.setattr(build, "describe", describe)
    evaluator = Evaluator(TARGET)
    found = {each.id: each for each in evaluator.evaluate(SMALL).services}
    assert found[bad].spec is None
    (problem,) = found[bad].problems
    assert problem.code == "InternalError"
    assert problem.origin == known[1].origin
    assert "OverflowError" in problem.message
    assert [found[each.id] for each in known if each.id != bad] == [each for each in known if each.id != bad]
    told = capsys.readouterr().err
    assert bad.name in told
    assert "in describe" in told
    assert secret not in told + problem.message
    evaluator.evaluate(with_file("hosts/box/other.yaml", "{}\n"))
    assert capsys.readouterr().err == ""


def test_document_that_raises_is_one_unreadable_document(monkeypatch: pytest.MonkeyPatch) -> None:
    real = documents.load

    def load(chunk, line, budget):
        if b"broken" in chunk:
            raise RecursionError
        return real(chunk, line, budget)

    monkeypatch.setattr(documents, "load", load)
    found = read_file("a.yaml", f"{ONE}---\nbroken: 1\n---\n{ONE}".encode())
    assert len(found.documents) == 2
    (error,) = found.errors
    assert str(error.origin) == "a.yaml:4"
    assert found.unreadable[0].may_hide_services


def test_document_that_raises_is_told_once_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_" + "x" * 9

    def load(chunk, line, budget):
        if b"broken" in chunk:
            raise OverflowError(secret)
        return real(chunk, line, budget)

    real = documents.load
    monkeypatch.setattr(documents, "load", load)
    evaluator = Evaluator(TARGET)
    tree = with_file("hosts/box/bad.yaml", f"{ONE}---\nbroken: 1\n")
    (problem,) = evaluator.evaluate(tree).unreadable
    assert (problem.code, str(problem.origin)) == ("InternalError", "hosts/box/bad.yaml:4")
    assert "what runs is kept" in problem.message
    told = capsys.readouterr().err
    assert "hosts/box/bad.yaml:4: reading this document: OverflowError" in told
    assert "in _read_safely" in told
    assert secret not in told + problem.message
    evaluator.evaluate(with_file("hosts/box/other.yaml", "{}\n", tree))
    assert capsys.readouterr().err == ""


def test_secret_that_raises_is_one_secret_with_a_bug_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = "hf_" + "x" * 9

    def decode(manifest, document, namespace):
        if manifest.name == "bad":
            raise OverflowError(value)
        return real(manifest, document, namespace)

    real = sources.decode
    monkeypatch.setattr(sources, "decode", decode)
    target = TARGET.model_copy(update={"secrets": TARGET.secrets.model_copy(update={"allow_plaintext": True})})
    evaluator = Evaluator(target)
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData: {a: b}\n"
    found = evaluator.look(with_file("hosts/box/secrets.yaml", f"{secret % 'bad'}---\n{secret % 'good'}"))
    assert found.secrets.data("default", "good") == {"a": b"b"}
    (reason,) = (each for each in found.desired.refused if each.code == "InternalError")
    assert str(reason.origin) == "hosts/box/secrets.yaml:1"
    told = capsys.readouterr().err
    assert "hosts/box/secrets.yaml:1: reading Secret default/bad: OverflowError" in told
    assert value not in told + reason.message
    assert all(each.spec for each in found.desired.services)


def test_many_encrypted_secrets_are_not_compared_with_each_other() -> None:
    files: list[str] = []

    class Counting(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            files.append(str(other))
            return str.__eq__(self, other)  # type: ignore[no-any-return]

        __hash__ = str.__hash__

    secret = "apiVersion: v1\nkind: Secret\nmetadata: {{name: s{}}}\nsops: {{mac: x}}\n"
    texts = [(Counting(f"hosts/box/{n}.yaml"), secret.format(n)) for n in range(100)]
    snapshot = Snapshot("r", tuple(File(path, text, text.encode()) for path, text in texts))
    store = sources.SecretSources(TARGET).load(read_manifests(snapshot))
    assert len(store.refused) == 100
    assert len(files) < 2_000


# ---------------------------------------------------------------- budgets


def test_aliases_of_one_file_share_a_budget() -> None:
    assert not read_file("a.yaml", f"{ONE}data:\n  x: &x [1, 2]\n  y: *x\n".encode()).errors
    text = f"---\n{ONE}x:\n  " + BOMB.replace("\n", "\n  ")
    found = read_file("a.yaml", ((text + "\n") * 1000).encode())
    assert len(found.documents) < 500
    assert {error.code for error in found.errors} == {"TooManyValues", "TooManyDocuments"}
    assert all(error.origin and error.origin.line > 1 for error in found.errors)


@pytest.mark.slow
def test_aliases_of_all_files_share_a_budget() -> None:
    text = f"---\n{ONE}x:\n  " + BOMB.replace("\n", "\n  ")
    bombs = tuple(File(f"{n:03}.yaml", str(n), ((text + "\n") * 150).encode()) for n in range(40))
    cache = manifests.ManifestCache()
    found = read_manifests(Snapshot("f" * 40, files=bombs), cache)
    assert found.expanded <= manifests.MAX_EXPANDED + MAX_EXPANDED
    assert {error.code for error in found.errors} == {"TooManyValues"}
    assert all(each.may_hide_services for each in found.unreadable)
    assert read_manifests(Snapshot("e" * 40, files=bombs), cache) == found
    assert not read_manifests(Snapshot("d" * 40, files=bombs[-1:]), cache).errors


@pytest.mark.slow
def test_text_without_aliases_is_never_over_the_budget() -> None:
    found = read_file("a.yaml", f"---\n{ONE}data: [{'0,' * 200}]\n".encode() * 2000)
    assert len(found.documents) == 2000
    assert found.expanded == 0


@pytest.mark.parametrize("count", [3, 31, 32, 1_000])
def test_line_in_a_large_mapping_is_found_without_counting(count: int) -> None:
    counted = 0

    class Counting(dict[str, object]):
        def __iter__(self):
            nonlocal counted
            counted += len(self)
            return super().__iter__()

    tree = load("".join(f"k{number}: {{x: 1}}\n" for number in range(count)).encode())
    assert tree is not None
    value = Counting(tree.value)
    assert [line_at(find(value, tree.lines, (f"k{n}", "x"))[1]) for n in range(count)] == list(range(1, count + 1))
    assert counted <= 32 * 32


# ---------------------------------------------------------------- texts that cannot be encoded


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\udc00\\ud800"])
def test_half_a_character_in_json_becomes_what_go_makes_of_it(half: str) -> None:
    found = json_values.loads(f'{{"a{half}": "{half}b"}}')
    assert found == {"a" + "\ufffd" * half.count("\\u"): "\ufffd" * half.count("\\u") + "b"}


@pytest.mark.slow
@given(value=st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner)))
def test_whole_characters_in_json_stay_as_they_are(value: object) -> None:
    assert json_values.loads(json.dumps(value)) == value


def test_half_a_character_in_an_answer_leaves_the_rest_of_it() -> None:
    body = JSONResponse({"services": ["good", "half \ud800"]}).body
    assert json.loads(bytes(body))["services"] == ["good", "half ?"]


def test_half_a_character_in_a_config_map_reaches_no_desired_state() -> None:
    settings = '{"image": "x\\ud800", "cpuRequest": "\\ud800"}'
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: inferenceservice-config, namespace: kserve}\n"
        f"data:\n  storageInitializer: '{settings}'\n  credentials: '{settings}'\n  deploy: '{settings}'\n"
    )
    repr(desired(with_file("runtimes/config.yaml", text))).encode()


# ---------------------------------------------------------------- patterns of images


@settings(max_examples=examples(200))
@given(pattern=st.text("ab*", min_size=1, max_size=8), image=st.text("ab", max_size=8))
def test_pattern_of_an_image_means_what_its_stars_say(pattern: str, image: str) -> None:
    expected = re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), image)
    found = find_engine(image, [EngineSettings(image=pattern, python="/x")])
    assert bool(found) == bool(expected)
