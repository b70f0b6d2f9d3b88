"""The difference between git and what runs, without noise and without secrets."""

from __future__ import annotations

import json
from dataclasses import replace

from reconciler.model import (
    EffectiveSpec,
    EnvVar,
    Mount,
    Origin,
    Reason,
    ReasonCode,
    Resources,
    ServiceId,
    Unreachable,
    texts,
)
from reconciler.report.diff import ServiceDiff, running_spec, service_diff, state_diff
from tests.support.arguments import written
from tests.support.report_world import NEW, SPEC, TINY, desired, observed, owned, replica, state

RICH = EffectiveSpec(
    image="vllm:1",
    command=written("python", "-m", "vllm"),
    args=written("--port=8080", "--max-model-len", "128", "--api-key", "hunter2", "--served-model-name", "a", "b"),
    env=(EnvVar("HF_TOKEN", "hunter2"), EnvVar("HF_HOME", "/tmp/hf"), EnvVar("KEY", source="secret s key k")),
    mounts=(Mount("hf://org/model"),),
    resources=Resources(gpus=1, cpu_millis=1000, memory_bytes=8 << 30),
)


def diff_of(wanted: EffectiveSpec, running: EffectiveSpec | None) -> ServiceDiff:
    return service_diff(desired(spec=wanted, digest=NEW), running)


def changed(diff: ServiceDiff) -> dict[str, tuple[object, object]]:
    return {".".join(one.path): (one.before, one.after) for one in diff.changes}


def test_equal_specs_have_no_difference() -> None:
    assert diff_of(RICH, replace(RICH)).is_empty


def test_only_what_changed_is_named() -> None:
    wanted = replace(RICH, args=written(*RICH.args, "--enable-prefix-caching"), image="vllm:2")
    wanted = replace(wanted, args=written(*("256" if one == "128" else one for one in texts(wanted.args))))
    assert changed(diff_of(wanted, RICH)) == {
        "args.--enable-prefix-caching": (None, True),
        "args.--max-model-len": ("128", "256"),
        "image": ("vllm:1", "vllm:2"),
    }


def test_insertion_at_the_head_is_one_change() -> None:
    wanted = replace(RICH, env=(EnvVar("A", "1"), *RICH.env), args=written("--seed=1", *RICH.args))
    assert set(changed(diff_of(wanted, RICH))) == {"env.A", "args.--seed"}


def test_flag_with_several_values_is_one_value_to_its_reader() -> None:
    wanted = replace(RICH, args=written(*RICH.args[:-1], "c"))
    assert changed(diff_of(wanted, RICH)) == {"args.--served-model-name": (["a", "b"], ["a", "c"])}


def test_another_spelling_of_the_same_arguments_restarts_nothing() -> None:
    wanted = replace(RICH, args=written("--port", "8080", "--max_model_len=128", *RICH.args[3:]))
    diff = diff_of(wanted, RICH)
    assert (diff.changes, diff.text) == ((), "")
    assert "nothing restarts" in diff.note


def test_long_value_is_shown_by_its_beginning_and_a_hash() -> None:
    long = "x" * 500_000
    wanted = replace(RICH, env=(EnvVar("A", long + "1"), EnvVar("B", long)), args=written(*RICH.args, f"--c={long}1"))
    diff = diff_of(wanted, replace(wanted, env=(EnvVar("A", long + "2"), EnvVar("B", long)), args=RICH.args))
    assert set(changed(diff)) == {"env.A", "args.--c"}
    before, after = changed(diff)["env.A"]
    assert before != after
    assert str(after).startswith("xxx")
    assert "… (500,001 characters, sha256 " in str(after)
    assert len(diff.text) < 20_000


def test_long_value_is_scrubbed_before_it_is_cut() -> None:
    token = "hf_" + "aBc9" * 10
    value = "x" * 1_980 + f" {token} " + "y" * 1_000
    shown = json.dumps(diff_of(replace(RICH, env=(EnvVar("A", value),)), None).document())
    assert token[:12] not in shown


def test_changed_secret_is_told_but_not_shown() -> None:
    env = (EnvVar("HF_TOKEN", "hunter3"), *RICH.env[1:])
    wanted = replace(RICH, env=env, args=written(*("hunter3" if one == "hunter2" else one for one in texts(RICH.args))))
    diff = diff_of(wanted, RICH)
    assert changed(diff) == {"args.--api-key": ("***", "***"), "env.HF_TOKEN": ("***", "***")}
    assert "HF_TOKEN: '*** (changed)'" in diff.text
    assert "hunter" not in diff.text + json.dumps(diff.document())


def test_no_secret_shows_when_everything_differs() -> None:
    for one, other in ((RICH, None), (RICH, SPEC), (SPEC, RICH)):
        diff = diff_of(one, other)
        assert diff.changes
        assert "hunter" not in diff.text + json.dumps(diff.document())


def test_service_that_does_not_run_is_all_new() -> None:
    diff = diff_of(RICH, None)
    assert all(line.startswith(("+", "---", "@@")) for line in diff.text.splitlines())
    assert changed(diff)["args.--port"] == (None, "8080")


def test_service_asked_for_with_no_replica_differs_in_nothing() -> None:
    assert service_diff(desired(replicas=0), None).is_empty


def test_unusable_document_says_where_it_is_wrong() -> None:
    broken = desired(spec=None, problems=(Reason(ReasonCode.INVALID_DOCUMENT, "no such runtime", Origin("f.yaml", 9)),))
    assert service_diff(broken, SPEC).note == "the documents in git cannot be used: f.yaml:9: no such runtime"


def test_what_runs_is_the_newest_replica_that_stays() -> None:
    new = replace(SPEC, image="new")
    starting = replica(number=2, spec=new, created_at=120.0, ready_at=None)
    assert running_spec(observed(replica(), starting), TINY) == new
    assert running_spec(observed(replica(), replace(starting, draining_at=130.0)), TINY) == SPEC
    assert running_spec(observed(replace(starting, draining_at=130.0)), TINY) == new
    assert running_spec(observed(replace(starting, alive=False)), TINY) is None


def test_service_gone_from_git_is_a_difference() -> None:
    gone = ServiceId("demo", "gone")
    diffs = state_diff(state(desired()), observed(replica(), replica(gone), owned={gone: owned(gone)}))
    assert [(one.service, one.note) for one in diffs] == [(gone, "runs, but is no longer in git")]


def test_of_an_unreachable_target_nothing_is_known() -> None:
    (diff,) = state_diff(state(desired()), Unreachable("a", 1.0, "no route"))
    assert diff.note == "unknown: no route"


def test_number_of_replicas_that_differs_is_a_difference() -> None:
    wanted = state(desired(replicas=3))
    (diff,) = state_diff(wanted, observed(replica(), replica(number=2), replica(number=3, draining_at=1.0)))
    assert changed(diff) == {"replicas": (2, 3)}
    assert "-replicas: 2\n+replicas: 3\n" in diff.text
    assert state_diff(wanted, observed(*(replica(number=number) for number in (1, 2, 3)))) == ()
    (gone,) = state_diff(state(desired(replicas=0)), observed(replica()))
    assert changed(gone) == {"replicas": (1, 0)}
