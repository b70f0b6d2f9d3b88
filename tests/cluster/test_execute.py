"""What a failed step of a plan on a cluster holds up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from reconciler.cluster.execute import execute
from reconciler.errors import Terminal
from reconciler.model import (
    Action,
    ApplyObject,
    DeleteObject,
    KeepLastGood,
    ObjectId,
    Outcome,
    Plan,
    Rendered,
    ServiceId,
    TargetAction,
    WriteInventory,
)
from tests.cluster.seen import git_object

WAVE = "argocd.argoproj.io/sync-wave"
DEPENDS_ON = "config.kubernetes.io/depends-on"


def test_object_that_fails_holds_up_its_own_namespace_alone() -> None:
    broken = _config("broken", "a")
    found = _run(broken, _apply("same", "a", wave=1), _apply("other", "b", wave=1))
    assert found == {"broken": Outcome.FAILED, "same": Outcome.SKIPPED, "other": Outcome.DONE}


def test_cluster_wide_object_that_fails_holds_up_all_later_waves() -> None:
    broken = _apply("broken", "", kind="ClusterStorageContainer")
    assert _run(broken, _apply("later", "b", wave=1)) == {"broken": Outcome.FAILED, "later": Outcome.SKIPPED}


def test_object_that_fails_holds_up_no_cluster_wide_object() -> None:
    later = _apply("later", "", wave=1, kind="ClusterServingRuntime")
    assert _run(_config("broken", "a"), later) == {"broken": Outcome.FAILED, "later": Outcome.DONE}


def test_sync_wave_of_git_waits_for_all_of_the_waves_before() -> None:
    later = _apply("later", "b", wave=1, annotations={WAVE: "1"})
    assert _run(_config("broken", "a"), later)["later"] is Outcome.SKIPPED


def test_object_waits_for_what_it_depends_on_in_another_namespace() -> None:
    later = _apply("later", "b", wave=1, annotations={DEPENDS_ON: "/namespaces/a/ConfigMap/broken"})
    last = _apply(
        "last", "c", wave=2, annotations={DEPENDS_ON: "serving.kserve.io/namespaces/b/InferenceService/later"}
    )
    found = _run(_config("broken", "a"), later, last)
    assert (found["later"], found["last"]) == (Outcome.SKIPPED, Outcome.SKIPPED)


def test_object_that_fails_holds_up_deletions_of_its_namespace() -> None:
    near, far = (DeleteObject(ObjectId("", "ConfigMap", each, f"gone-{each}"), "u", "no reason") for each in "ab")
    found = _run(_config("broken", "a"), near, far)
    assert (found["gone-a"], found["gone-b"]) == (Outcome.SKIPPED, Outcome.DONE)


def test_object_that_moves_stays_until_it_is_in_its_new_namespace() -> None:
    old = DeleteObject(ObjectId("", "ConfigMap", "b", "broken"), "uid", "deleted in git")
    with ThreadPoolExecutor(1) as pool:
        plan = Plan("main", "abc", 0.0, (_config("broken", "a"), old))
        found = execute(plan, _refuse, pool, ())
    assert [each.outcome for each in found] == [Outcome.FAILED, Outcome.SKIPPED]


def test_inventory_that_cannot_be_written_holds_up_everything() -> None:
    broken = WriteInventory({"metadata": {"name": "broken"}}, "more")
    assert _run(broken, _apply("later", "b"))["later"] is Outcome.SKIPPED


def test_service_goes_on_while_a_runtime_that_it_does_not_use_fails() -> None:
    broken = _apply("broken", "", kind="ClusterServingRuntime")
    uses = _apply("uses", "a", wave=1, runtime=broken.object)
    other = _apply("other", "a", wave=1, runtime=ObjectId("serving.kserve.io", "ServingRuntime", "a", "vllm"))
    assert _run(broken, uses, other) == {
        "broken": Outcome.FAILED,
        "uses": Outcome.SKIPPED,
        "other": Outcome.DONE,
    }


def test_service_whose_runtime_is_not_known_waits_for_any() -> None:
    broken = _apply("broken", "", kind="ClusterServingRuntime")
    assert _run(broken, _apply("later", "a", wave=1))["later"] is Outcome.SKIPPED


def test_role_that_we_may_not_write_stops_no_service() -> None:
    broken = _apply("broken", "", kind="ClusterRole", group="rbac.authorization.k8s.io")
    assert _run(broken, _apply("later", "a", wave=1))["later"] is Outcome.DONE


def test_last_good_spec_is_kept_while_another_object_fails() -> None:
    body = git_object("Secret", "record", "reconciler").body
    record = KeepLastGood(ServiceId("a", "llama"), "sha256:1", body, "it proved itself")
    assert _run(_config("broken", "a"), record)["llama"] is Outcome.DONE


def _config(name: str, namespace: str) -> ApplyObject:
    return ApplyObject(git_object("ConfigMap", name, namespace), "new")


def _apply(
    name: str,
    namespace: str,
    wave: int = 0,
    kind: str = "InferenceService",
    group: str = "serving.kserve.io",
    annotations: dict[str, str] | None = None,
    runtime: ObjectId | None = None,
) -> ApplyObject:
    wanted = git_object(kind, name, namespace, group, metadata={"annotations": annotations})
    rendered = Rendered({}, "Standard", runtime) if runtime else None
    return ApplyObject(replace(wanted, rendered=rendered), "new", wave=wave)


def _run(*actions: Action) -> dict[str, Outcome]:
    """What becomes of each, by the name of its object; the one called `broken` fails."""
    with ThreadPoolExecutor(1) as pool:
        found = execute(Plan("main", "abc", 0.0, actions), _refuse, pool, ())
    return {_name(each.action): each.outcome for each in found}


def _refuse(action: TargetAction) -> None:
    if _name(action) == "broken":
        raise Terminal("refused")


def _name(action: Action) -> str:
    match action:
        case ApplyObject() | DeleteObject():
            return action.object.name
        case WriteInventory():
            return str(action.body["metadata"]["name"])
        case KeepLastGood():
            return action.service.name
    raise TypeError(type(action))
