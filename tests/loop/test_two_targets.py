"""Two targets of one config read one snapshot, and each takes only what lies under its own paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.settings import Settings
from reconciler.errors import Retryable, SettingsError
from reconciler.loop.wiring import make_history, make_place, refuse_shared_gpus
from reconciler.manifests import narrow
from reconciler.model import File, Origin, Reason, ReasonCode, Snapshot
from reconciler.web.metrics import Metrics
from tests.config.test_config import load
from tests.desired.test_desired import HOST, RUNTIME, SERVICE
from tests.support.nvml.driver import Driver


def settings(folder: Path, *gpus: object) -> Settings:
    lists = gpus or ([], [])
    targets = [
        {"name": name, "paths": ["runtimes", f"hosts/{name}"], "gpus": mine}
        for name, mine in zip(("a", "ab"), lists, strict=True)
    ]
    return Settings.model_validate({"source": {"url": "/m"}, "targets": targets, "state_dir": str(folder)})


def snapshot(**more: tuple[Reason, ...] | tuple[str, ...]) -> Snapshot:
    texts = {"runtimes/vllm.yaml": RUNTIME}
    for name in ("a", "ab"):
        texts[f"hosts/{name}/host.yaml"] = HOST.replace("box", name)
        texts[f"hosts/{name}/chat.yaml"] = SERVICE.replace("name: chat", f"name: on-{name}")
    return Snapshot("r1", tuple(File(path, path, text.encode()) for path, text in texts.items()), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [0, 1])
def test_target_wants_only_the_services_of_its_own_folder(tmp_path: Path, index: int):
    known = settings(tmp_path)
    history = make_history(known)
    place = make_place(known.targets[index], known, history, Metrics())
    try:
        state = place.reconciler.desired(snapshot())
    finally:
        place.reconciler.close()
        history.close()
    assert [service.id.name for service in state.services] == [f"on-{known.targets[index].name}"]
    assert [note.code for note in state.notes] == []


def test_what_another_target_misses_is_not_missing_here(tmp_path: Path):
    target = settings(tmp_path).targets[0]
    assert narrow(snapshot(missing=("hosts/ab", "runtimes")), target.paths).missing == ("runtimes",)


@pytest.mark.parametrize("file", ["hosts/a/link", "hosts/a", "hosts", "runtimes/x.yaml"])
def test_what_is_refused_in_or_above_its_folders_is_known_to_a_target(tmp_path: Path, file: str):
    refused = (Reason(ReasonCode.SYMLINK, "not read: it is a link", Origin(file, 1)),)
    assert narrow(snapshot(refused=refused), settings(tmp_path).targets[0].paths).refused == refused


def test_what_is_refused_elsewhere_is_nothing_to_a_target(tmp_path: Path):
    refused = (Reason(ReasonCode.SYMLINK, "not read: it is a link", Origin("hosts/ab/link", 1)),)
    assert narrow(snapshot(refused=refused), settings(tmp_path).targets[0].paths).refused == ()


def test_target_of_the_whole_tree_takes_all(tmp_path: Path):
    target = settings(tmp_path).targets[0].model_copy(update={"paths": ("",)})
    assert narrow(snapshot(missing=("",)), target.paths) == snapshot(missing=("",))


# ---------------------------------------------------------------- GPUs: each target leases without knowing of the other


def test_gpu_that_two_targets_list_is_refused_in_the_config(tmp_path: Path):
    targets = [{"name": name, "paths": [name], "gpus": ["GPU-1", f"GPU-{name}"]} for name in ("a", "b")]
    with pytest.raises(SettingsError, match="targets a and b both list GPU-1"):
        load(tmp_path, targets=targets)


def test_targets_that_would_find_the_same_gpus_are_not_begun(tmp_path: Path, driver: Driver):
    first, second = driver.uuids
    refuse_shared_gpus(settings(tmp_path, [first], [second]))
    refuse_shared_gpus(settings(tmp_path, "auto", []))
    refuse_shared_gpus(settings(tmp_path, ["GPU-9"], "auto"))
    for both in (("auto", "auto"), ("auto", [second]), ([first], "auto")):
        with pytest.raises(SettingsError, match=f"a and ab would both lease ({first}|{second})"):
            refuse_shared_gpus(settings(tmp_path, *both))
    driver.fail(18)
    with pytest.raises(Retryable, match="driver"):
        refuse_shared_gpus(settings(tmp_path, "auto", "auto"))
    # No driver at all, no GPUs.
    driver.fail(9)
    refuse_shared_gpus(settings(tmp_path, "auto", "auto"))


def test_gpu_and_a_part_of_it_are_not_for_two_targets(tmp_path: Path, driver: Driver):
    whole = driver.uuids[0]
    part, other = driver.partition(whole, "1g.6gb", "1g.6gb")
    refuse_shared_gpus(settings(tmp_path, [part], [other]))
    with pytest.raises(SettingsError, match=f"would both lease {part}"):
        refuse_shared_gpus(settings(tmp_path, [whole], [part]))
