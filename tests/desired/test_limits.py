"""What one revision may ask for: one service too large is refused alone, a revision too large as a whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from reconciler.desired import DesiredCache, build_desired, limits
from reconciler.errors import NotUnderstood
from reconciler.evaluation.sandbox import EvaluationLimits, Sandbox
from reconciler.manifests import documents, read_manifests
from reconciler.manifests.documents import read_file
from reconciler.model import NO_ORIGIN, Desired, DesiredState, File, Reason, ReasonCode, Snapshot
from tests.bench.bench_manifests import TARGET, tree

FOLDER = "hosts/box"
HEAD = "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}}}\n"


def config_map(name: str, data: dict[str, str]) -> str:
    return HEAD.format(api="v1", kind="ConfigMap", name=name) + f"data: {json.dumps(data)}\n"


def service(name: str, **fields: object) -> str:
    model = {"runtime": "vllm-runtime", "modelFormat": {"name": "vLLM"}, "storageUri": "hf://a/b", **fields}
    head = HEAD.format(api="serving.kserve.io/v1beta1", kind="InferenceService", name=name)
    return head + f"spec: {json.dumps({'predictor': {'model': model}})}\n"


def with_files(texts: dict[str, str], snapshot: Snapshot | None = None) -> Snapshot:
    files = tuple(File(f"{FOLDER}/{name}", text, text.encode()) for name, text in texts.items())
    base = snapshot or tree(1)
    return replace(base, files=(*base.files, *files))


def desired(snapshot: Snapshot, cache: DesiredCache | None = None) -> DesiredState:
    return build_desired(read_manifests(snapshot), TARGET, snapshot, cache)


def by_name(state: DesiredState) -> dict[str, Desired]:
    return {each.id.name: each for each in state.services}


# ---------------------------------------------------------------- one service

MANY = {f"V{number}": "x" for number in range(limits.MAX_VALUES)}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (
            {"envFrom": [{"configMapRef": {"name": "many"}}]},
            r"gets 5,0\d\d arguments, variables and files, more than 5,000",
        ),
        ({"env": [{"name": name, "value": "x"} for name in MANY]}, r"gets 5,0\d\d arguments, variables and files"),
        ({"args": ["--x"] * 6_000}, r"gets 6,0\d\d arguments, variables and files, more than 5,000"),
        (
            {"envFrom": [{"configMapRef": {"name": "long"}}]},
            r"more than 1,048,576; variable LONG has 1,048,580 of them",
        ),
        ({"args": ["x" * (1 << 20)]}, r"more than 1,048,576; argument \d+ has 1,048,576 of them"),
    ],
    ids=["config map", "variables", "arguments", "long value", "long argument"],
)
def test_service_with_too_many_values_is_refused_alone(fields: dict[str, object], what: str) -> None:
    maps = config_map("many", MANY) + config_map("long", {"LONG": "x" * (1 << 20)})
    large = service("large", **fields)
    found = by_name(desired(with_files({"maps.yaml": maps, "large.yaml": large, "other.yaml": service("other")})))
    assert found["large"].spec is None
    (problem,) = found["large"].problems
    assert problem.code == "SpecTooLarge"
    assert str(problem.origin) == f"{FOLDER}/large.yaml:2"
    assert found["other"].spec is not None
    assert re.search(what, problem.message), problem.message


def templates(name: str, count: int) -> str:
    text = service(name, args=["{{.Annotations.big}}"] * count)
    return text.replace(f"name: {name}", f"name: {name}, annotations: {{big: {'y' * 60_000}}}")


def test_service_whose_templates_grow_too_much_is_refused_alone() -> None:
    found = by_name(desired(with_files({"large.yaml": templates("large", 20), "other.yaml": service("other")})))
    assert [each.message.rpartition(": ")[2] for each in found["large"].problems] == ["its text gets too long"]
    assert found["other"].spec is not None


def test_templates_of_all_services_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_BYTES", 2 << 20)
    said = refusal(with_files({f"s{number}.yaml": templates(f"s{number}", 10) for number in range(5)}))
    assert re.match(r"5 services of box have 2,4\d\d,\d{3} bytes of arguments and variables already", said), said


ODD = {f"reconciler/x{number}": "y" for number in range(1_000)}


def test_service_has_only_the_first_of_endless_findings() -> None:
    text = service("odd").replace("name: odd", "name: odd, annotations: " + json.dumps(ODD))
    warnings = by_name(desired(with_files({"odd.yaml": text})))["odd"].warnings
    assert len(warnings) == limits.MAX_FINDINGS
    assert warnings[-1].code == "FindingsOmitted"
    assert re.match(r"95\d more findings are left out", warnings[-1].message)


def test_finding_of_endless_length_is_cut() -> None:
    short, long = Reason(ReasonCode.INVALID_FIELD, "x", NO_ORIGIN), Reason(ReasonCode.BLOCKED, "y" * 5_000, NO_ORIGIN)
    assert limits.first((short,), 1) == (short,)
    kept = limits.first((short, long), 2)
    assert kept[0] is short
    assert (len(kept[1].message), kept[1].message[-1]) == (2_000, "…")


def test_what_cannot_be_read_is_said_in_a_bounded_text() -> None:
    key = "k" * 100_000
    (unreadable,) = desired(with_files({"bad.yaml": f"? {key}\n: 1\n? {key}\n: 2\n"})).unreadable
    assert unreadable.code == "DuplicateKey"
    assert len(unreadable.message) <= 2_000


# ---------------------------------------------------------------- the whole revision


def refusal(snapshot: Snapshot) -> str:
    with pytest.raises(NotUnderstood) as refused:
        desired(snapshot)
    return str(refused.value)


def test_too_many_documents_refuse_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DOCUMENTS", 10)
    fits = with_files({"s.yaml": "".join(service(f"s{number}") for number in range(7))})
    assert len(desired(fits).services) == 8
    broken = "---\nkind: InferenceService\n"
    said = refusal(with_files({"more.yaml": broken * 3}, fits))
    assert said.startswith("it has 13 documents for box, more than 10; hosts/box/s.yaml alone has 7. Remove what")


def test_too_many_hidden_files_refuse_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SKIPPED", 2)
    hidden = {f"{FOLDER}/.{number}.yaml": Reason(ReasonCode.HIDDEN, "hidden", NO_ORIGIN) for number in range(3)}
    said = refusal(replace(tree(1), skipped=hidden))
    assert "3 hidden or ignored files in the folders of box, more than 2" in said


@pytest.mark.parametrize(
    ("limit", "most", "what"),
    [
        ("MAX_ALL_VALUES", 200, r"\d services of box have 2\d\d arguments and variables already, more than 200"),
        ("MAX_ALL_BYTES", 5_000, r"\d services of box have 5,\d\d\d bytes of arguments and variables already"),
    ],
)
def test_services_too_large_together_refuse_the_revision(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, what: str
) -> None:
    monkeypatch.setattr(limits, limit, most)
    env = [{"name": f"V{number}", "value": "x" * 10} for number in range(40)]
    texts = {f"s{number}.yaml": service(f"s{number}", env=env) for number in range(3)}
    assert desired(with_files({"s0.yaml": texts["s0.yaml"]}))
    texts |= {f"t{number}.yaml": service(f"t{number}", env=env) for number in range(5)}
    said = refusal(with_files(texts))
    assert re.match(what, said), said
    assert re.search(r"the largest is default/s0 \(hosts/box/s0\.yaml:2\) with \d\d of \d{3} bytes\. Make that", said)


def test_services_that_did_not_change_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_VALUES", 100)
    cache, env = DesiredCache(), [{"name": f"V{number}"} for number in range(40)]
    first = with_files({"a.yaml": service("a", env=env)})
    desired(first, cache)
    with pytest.raises(NotUnderstood):
        desired(with_files({"b.yaml": service("b", env=env)}, first), cache)


@pytest.mark.slow
def test_sandbox_tells_what_of_a_revision_is_too_much() -> None:
    maps = "".join(config_map(f"m{number}", {}) for number in range(5_000))
    large = with_files({f"m{number}.yaml": maps for number in range(5)})
    made = Sandbox((TARGET,), EvaluationLimits())
    try:
        good = made.evaluate(tree(2))
        with pytest.raises(NotUnderstood, match=r"revision r cannot be read: it has 25,003 documents for box"):
            made.evaluate(large)
        assert made.evaluate(tree(2))["box"].desired.services == good["box"].desired.services
        assert len(made.evaluate(tree(3))["box"].desired.services) == 3
    finally:
        made.close()


# ---------------------------------------------------------------- notes


def test_notes_beyond_a_limit_are_counted_and_the_important_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FINDINGS", 5)
    monkeypatch.setattr("reconciler.desired.build.MAX_NOTES", 5)
    foreign = HEAD.format(api="v1", kind="Pod", name="p")
    snapshot = with_files({f"{number}.yaml": foreign for number in range(9)})
    snapshot = replace(snapshot, files=tuple(each for each in snapshot.files if "host.yaml" not in each.path))
    notes = desired(snapshot).notes
    assert len(notes) == 5
    assert notes[0].code == "NotPrunable"
    assert notes[-1].message == "6 more findings are left out; correct these first"


def test_document_with_endless_odd_words_names_the_first() -> None:
    found = read_file("a.yaml", (config_map("a", {}) + "x:\n" + "- no\n" * 1_000).encode())
    assert len(found.warnings) == documents.MAX_WARNINGS + 1
    assert found.warnings[-1].message == "and 980 more unquoted values that are not read as text"
