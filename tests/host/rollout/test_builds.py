"""What the config made of a spec: compared by its keys, and told apart in a plan."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.settings import HostSettings
from reconciler.fault_isolation import Faults
from reconciler.host.rollout.builds import mark, unmark
from reconciler.host.translation import ENV, build_of, changes, differences, hashed, is_current, make_translation
from reconciler.host.translator import KeptValues, Translator
from reconciler.model import (
    NO_ORIGIN,
    Capacity,
    Desired,
    EffectiveSpec,
    FailedAction,
    Lease,
    Mount,
    Observed,
    Origin,
    Outdated,
    Owned,
    Promoted,
    Quarantine,
    Reason,
    ReasonCode,
    Reject,
    Replica,
    ReplicaId,
    ServiceId,
    Start,
    Translation,
)
from reconciler.system import procfs
from tests.support.world import eventually, record

CHAT, HERE = ServiceId("default", "chat"), Origin("a.yaml", 1)
SPEC = EffectiveSpec("vllm:1", (), (), mounts=(Mount("pvc://models/tiny"),))
OLD, NEW = make_translation({"engines[].python": "/a"}), make_translation({"engines[].python": "/b"})
parts = st.dictionaries(st.sampled_from(["engines[].python", "volumes.a", "user", "restart"]), st.sampled_from("xyz"))


@given(parts, parts)
def test_translation_is_current_exactly_when_no_key_differs(old: dict[str, str], new: dict[str, str]):
    before, now = make_translation(old), make_translation(new)
    assert is_current(before, now) == (not before or old == new)
    assert {key for key, *_ in changes(before, now)} == {key for key, _ in old.items() ^ new.items()}


def test_unknown_version_is_no_difference():
    known, unknown = make_translation({"vLLM": "vllm-1"}), make_translation({"vLLM": ""})
    assert is_current(known, unknown)
    assert is_current(unknown, known)


def test_variable_is_named_without_its_value():
    before, now = make_translation({"engines[].env.A": "1"}), make_translation({"engines[].env.B": "2"})
    assert list(differences(before, now)) == ["engines[].env.A removed", "engines[].env.B added"]


def settings(**more: Any) -> HostSettings:
    engine = {"image": "vllm:*", "python": "/bin/true"}
    return HostSettings.model_validate({"name": "a", "paths": ["a"], "engines": [engine]} | more)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"engines": [{"image": "vllm:*", "python": "/bin/false"}]}, "engines[].python: /bin/true → /bin/false"),
        ({"engines": [{"image": "vllm:*", "python": "/bin/true", "env": {"A": "1"}}]}, "engines[].env.A added"),
        ({"volumes": {"models": "/elsewhere"}}, "volumes.models: /models → /elsewhere"),
        ({"volumes": {"models": "/models", "other": "/x"}}, None),
        ({"engines": [{"image": "x", "python": "/x"}, {"image": "vllm:1", "python": "/bin/true"}]}, None),
        ({"storage": {"env": {"A": "1"}, "python": "/x"}, "allocatable": {"cpu": "1"}}, None),
    ],
)
def test_only_what_a_service_is_made_of_makes_it_outdated(changed: dict[str, Any], key: str | None):
    base = {"volumes": {"models": "/models"}}
    before = Translator(settings(**base)).of(SPEC, None)
    found = list(differences(before, Translator(settings(**base | changed)).of(SPEC, None)))
    assert found == ([key] if key else [])


def test_removed_interpreter_or_changed_variable_cannot_be_restored(tmp_path: Path):
    engine = {"image": "vllm:*", "python": "/bin/true", "env": {"A": "1"}}
    before = Translator(settings(engines=[engine])).of(SPEC, None)
    other = Translator(settings(engines=[engine | {"python": "/bin/false"}]))
    found = other.restored(SPEC, before)
    assert found is not None
    assert found.engine.python == Path("/bin/true")
    assert Translator(settings(engines=[engine | {"env": {"A": "2"}}])).restored(SPEC, before) is None
    kept = Translator(settings(engines=[engine | {"env": {"A": "2"}}]), lambda: {hashed("1"): "1"})
    found = kept.restored(SPEC, before)
    assert found is not None
    assert found.engine.env == {"A": "1"}
    plain = Translator(settings()).of(SPEC, None)
    elsewhere = Translator(settings(engines=[{"image": "other:*", "python": "/bin/false"}])).restored(SPEC, plain)
    assert elsewhere is not None
    assert elsewhere.engine.python == Path("/bin/true")
    gone = tuple((key, str(tmp_path / "gone") if key == "engines[].python" else value) for key, value in before)
    assert other.restored(SPEC, gone) is None


def test_values_are_known_from_what_runs_and_stay_known() -> None:
    translation = make_translation({f"{ENV}A": hashed("old")})
    with subprocess.Popen(["sleep", "60"], env={"A": "old", "B": "other"}, executable="/bin/sleep") as process:
        identity = procfs.identify(process.pid)
        kept = KeptValues(lambda: [replace(record(), translation=translation, process=identity)])
        eventually(lambda: kept.read() == {hashed("old"): "old"})
        process.kill()
    assert kept.read() == {hashed("old"): "old"}


def observed(outdated: Outdated | None, **promoted: Any) -> Observed:
    replica = Replica(ReplicaId(CHAT, "d-0"), "d", SPEC, HERE, Lease(1), 1.0, ready_at=1.0, translation=OLD)
    last = Promoted("d", SPEC, 1, HERE, "r", 1.0, translation=OLD)
    return Observed(
        target="a",
        at=100.0,
        replicas=(replica,),
        capacity=Capacity(1, 1),
        owned={CHAT: Owned(CHAT, HERE, replace(last, **promoted))},
        outdated={(CHAT, "d"): outdated} if outdated else {},
    )


def test_nothing_is_told_apart_while_the_config_stays():
    seen = observed(None)
    marked = mark(seen, {}, ())
    assert marked.observed is seen
    assert not marked.why


def test_older_replica_and_promoted_spec_get_a_digest_of_their_own():
    marked = mark(observed(Outdated(NEW, restorable=True)), {}, ())
    older = build_of("d", OLD)
    assert [replica.digest for replica in marked.observed.replicas] == [older]
    last = marked.observed.owned[CHAT].promoted
    assert last is not None
    assert last.digest == older
    assert marked.why == {CHAT: ("engines[].python: /a → /b",)}


def quarantined(digest: str, at: float = 90.0) -> dict[tuple[ServiceId, str], Quarantine]:
    return {(CHAT, digest): Quarantine(CHAT, digest, Reason(ReasonCode.CRASHED, "it died", NO_ORIGIN), "r", at)}


@pytest.mark.parametrize(
    ("digest", "translation", "stands"),
    [("d", NEW, True), (build_of("d", NEW), NEW, True), (build_of("d", NEW), (("restart", "x"),), False)],
)
def test_quarantine_of_a_build_stands_only_for_that_build(digest: str, translation: Translation, stands: bool):
    marked = mark(observed(Outdated(translation, restorable=True)), quarantined(digest), ())
    assert ((CHAT, "d") in marked.quarantines) == stands


def test_start_that_failed_as_the_config_was_before_holds_up_nothing_now():
    before = FailedAction("start", build_of("d", (("restart", "x"),)), (CHAT,), "no", 1.0)
    now = replace(before, subject=build_of("d", NEW))
    marked = mark(observed(Outdated(NEW, restorable=True)), {}, (before, now))
    assert [one.subject for one in marked.failures] == [before.subject, "d"]
    assert not list(mark(observed(None), {}, (before,)).failures)


def test_failure_of_promoted_digest_blames_only_what_config_makes_of_it():
    seen = observed(Outdated(NEW, restorable=True))
    reject = Reject(next(iter(quarantined("d").values())), "it died")
    found = unmark(reject, mark(seen, {}, ()), seen)
    assert isinstance(found, Reject)
    assert found.quarantine.digest == build_of("d", NEW)
    seen = observed(Outdated(NEW, restorable=True), digest="other")
    assert unmark(reject, mark(seen, {}, ()), seen) == reject


def test_start_of_an_older_build_carries_what_it_was_made_of():
    seen = observed(Outdated(NEW, restorable=True))
    marked = mark(seen, {}, ())
    start = Start(ReplicaId(CHAT, "d-1"), build_of("d", OLD), SPEC, HERE, Lease(2), 1.0, "", "r", "again")
    assert unmark(start, marked, seen) == replace(start, digest="d", translation=OLD)
    new = unmark(replace(start, digest="d"), marked, seen)
    assert new == replace(start, digest="d", translation=NEW, reason="engines[].python: /a → /b")


def test_nothing_to_go_back_to_is_tried_again_after_a_minute():
    gone = replace(observed(Outdated(NEW, restorable=False)), replicas=())
    failed = quarantined(build_of("d", NEW), at=50.0)
    assert (CHAT, "d") in mark(gone, failed, ()).quarantines
    later = replace(gone, at=111.0)
    assert (CHAT, "d") not in mark(later, failed, ()).quarantines
    assert mark(gone, {}, ()).observed.owned[CHAT].promoted is None


def test_translation_of_a_wish_follows_a_restart():
    wish = Desired(CHAT, HERE, SPEC, "d", 1)
    made, known = Translator(settings()), Owned(CHAT, HERE, Promoted("d", SPEC, 1, HERE, "r", 1.0))
    before = made.of(SPEC, known)
    known = replace(known, promoted=replace(known.promoted, translation=before))  # type: ignore[type-var]
    assert made.outdated([wish], (), {CHAT: known}, Faults("")) == {}
    found = made.outdated([wish], (), {CHAT: replace(known, restart="asked for by root")}, Faults(""))
    assert found[CHAT, "d"].restorable
