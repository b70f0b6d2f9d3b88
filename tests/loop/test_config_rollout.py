"""A change of the config, or a restart that was asked for, rolls out like a change in git."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.host.inventory import Inventory, ReplicaRecord
from tests.support.light_rig import LightRig, install, make_engine

pytestmark = pytest.mark.slow


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    yield rig
    rig.close()


def begin(rig: LightRig, **target: Any) -> ReplicaRecord:
    """Serve with these settings."""
    rig.configure(**target)
    rig.start()
    rig.settle()
    (record,) = rig.records()
    return record


def engines(python: Path, **env: str) -> list[dict[str, Any]]:
    return [{"image": "vllm/vllm-openai-cpu:*", "python": str(python), "env": env}]


def breaking(folder: Path, *, asked: bool) -> Path:
    """An interpreter that refuses when it is asked about arguments, or one that dies when it is started."""
    python = make_engine(folder)
    refusal = json.dumps(
        {"parsed": "", "gpus": 0, "errors": [{"message": "no such flag", "index": None}], "warnings": []}
    )
    script = f"case \"$*\" in *preflight*) echo '{refusal}'; exit 0;; esac" if asked else ""
    script = script or 'case "$*" in *preflight*) ;; *) echo "ValueError: no kernel"; exit 3;; esac'
    python.write_text(python.read_text().replace("exec ", f"{script}\nexec ", 1))
    return python


def asked_of(folder: Path) -> tuple[Path, Callable[[], int]]:
    """An interpreter that counts how often it is asked about arguments."""
    python, log = make_engine(folder), folder / "asked"
    note = f'case "$*" in *preflight*) echo >> {log};; esac'
    python.write_text(python.read_text().replace("exec ", f"{note}\nexec ", 1))
    return python, lambda: len(log.read_text().splitlines()) if log.exists() else 0


def is_replaced(rig: LightRig, before: ReplicaRecord) -> bool:
    records = rig.records()
    return bool(records) and before.created_at not in [r.created_at for r in records] and rig.is_settled()


def only_record(rig: LightRig) -> ReplicaRecord:
    """The one replica, once what failed is cleared away."""
    rig.wait("one replica to be left", lambda: len(rig.records()) == 1)
    return rig.records()[0]


# ---------------------------------------------------------------- changes of the config


def test_changed_interpreter_and_volume_roll_out_without_losing_a_request(rig: LightRig, tmp_path: Path):
    before = begin(rig)
    other = make_engine(tmp_path / "other")
    models = tmp_path / "models2"
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    rig.configure(engines=engines(other), volumes={"models": str(models)})
    planned = rig.ask("plan").stdout
    assert f"engines[].python: {rig.python} → {other}" in planned
    assert f"volumes.models: {rig.models} → {models}" in planned
    differs = json.loads(rig.ask("diff", "-o", "json", expect=1).stdout)["services"][0]["changes"]
    assert ["config", "volumes.models"] in [change["path"] for change in differs]
    with rig.requests() as codes:
        rig.reload()
        rig.wait("the replica to be replaced", lambda: is_replaced(rig, before))
    assert {*codes} == {200}
    (after,) = rig.records()
    assert after.digest == before.digest
    assert after.argv[0] == str(other)
    assert f"--model={models}/tiny" in after.argv
    said = [entry["message"] for entry in rig.history()]
    assert any("engines[].python" in message for message in said)
    rig.ask("diff")


def test_replica_that_dies_before_it_is_replaced_comes_back_as_it_was(rig: LightRig, tmp_path: Path):
    before = begin(rig)
    rig.configure(engines=engines(breaking(tmp_path / "other", asked=True)))
    rig.reload()
    rig.wait("the config to be rejected", lambda: (rig.service() or {}).get("rejected"))
    assert before.process is not None
    os.kill(before.process.pid, signal.SIGKILL)
    rig.wait("it to serve again", lambda: rig.pids() and before.process.pid not in rig.pids() and rig.serves_now())
    (after,) = rig.records()
    assert after.argv[0] == before.argv[0]


@pytest.mark.parametrize("memory", [64, 0.02])
def test_interpreter_that_dies_at_start_is_rolled_back_to_the_one_before(rig: LightRig, tmp_path: Path, memory: float):
    before = begin(rig, allocatable={"memory": f"{memory}Gi"})
    bad = breaking(tmp_path / "bad", asked=False)
    rig.configure(engines=engines(bad))
    rig.reload()
    rig.wait("the config to be rejected", lambda: (rig.service() or {}).get("rejected"))
    rig.wait("what was promoted to serve", rig.serves_now)
    after = only_record(rig)
    assert (after.argv[0], after.digest) == (before.argv[0], before.digest)
    service = rig.service()
    assert service is not None
    assert service["sync"] == "OutOfSync"
    assert "engines[].python" in service["outdated"][0]
    # Put right, it is tried at once, though the digest is the same.
    good = make_engine(tmp_path / "good")
    rig.configure(engines=engines(good))
    rig.reload()
    rig.wait("the replica to be replaced", lambda: is_replaced(rig, after))
    assert rig.records()[0].argv[0] == str(good)


@pytest.mark.parametrize("memory", [64, 0.02])
def test_variable_that_breaks_the_engine_is_taken_back_with_its_value(rig: LightRig, memory: float):
    crash = 'case "$MODE $*" in *preflight*) ;; "bad "*) exit 3;; esac'
    rig.python.write_text(rig.python.read_text().replace("exec ", f"{crash}\nexec ", 1))
    before = begin(rig, allocatable={"memory": f"{memory}Gi"}, engines=engines(rig.python, MODE="good"))
    rig.configure(engines=engines(rig.python, MODE="bad"))
    rig.reload()
    rig.wait("the config to be rejected", lambda: (rig.service() or {}).get("rejected"))
    rig.wait("what was promoted to serve", rig.serves_now)
    record = only_record(rig)
    assert record.translation == before.translation
    assert record.process is not None
    os.kill(record.process.pid, signal.SIGKILL)
    rig.wait("it to serve again", lambda: rig.pids() and record.process.pid not in rig.pids() and rig.serves_now())
    assert only_record(rig).translation == before.translation


def test_engine_removed_from_the_config_leaves_what_serves_alone(rig: LightRig):
    before = begin(rig)
    rig.configure(engines=[{"image": "other:*", "python": str(rig.python)}])
    assert "nothing on this host runs the image" in rig.ask("plan", expect=1).stdout
    rig.reload()
    rig.wait("it to be blocked", lambda: (rig.service() or {}).get("blocked"))
    said = rig.ask("status", expect=1).stdout
    assert "nothing on this host runs the image" in said
    assert f"engines[].python: {rig.python} → unset" in said
    assert before.process is not None
    assert rig.pids() == {before.process.pid}
    os.kill(before.process.pid, signal.SIGKILL)
    rig.wait("it to serve again", lambda: rig.pids() and before.process.pid not in rig.pids() and rig.serves_now())
    assert only_record(rig).argv[0] == before.argv[0]


def test_commit_stays_in_quarantine_when_the_config_changes(rig: LightRig, tmp_path: Path):
    begin(rig)
    crash = 'case "$*" in *max-num-seqs=99*) case "$*" in *preflight*) ;; *) exit 3;; esac;; esac'
    rig.python.write_text(rig.python.read_text().replace("exec ", f"{crash}\nexec ", 1))
    good = rig.read("demo/tiny.yaml")
    rig.write({"demo/tiny.yaml": good.replace("resources:", "env: [{name: A, value: b}]\n      resources:")})
    rig.settle()
    bad = rig.read("demo/tiny.yaml").replace("value: b", "value: c").replace("--max-num-seqs=8", "--max-num-seqs=99")
    assert bad.count("99") == 1, bad
    rig.write({"demo/tiny.yaml": bad})
    rig.wait("the commit to be rejected", lambda: (rig.service() or {}).get("rejected"))
    before = only_record(rig)
    rig.configure(engines=engines(rig.python, B="x"))
    rig.reload()
    rig.wait("the config to be seen", lambda: rig.service() and rig.status()["daemon"]["passes"] > 2)  # type: ignore[index]
    service = rig.service()
    assert service is not None
    assert service["rejected"]
    assert only_record(rig) == before


def test_upgrade_in_place_is_noticed_and_rolled_out(rig: LightRig, tmp_path: Path):
    folder = tmp_path / "env"
    before = begin(rig, engines=engines(make_engine(folder, "0.32.0")))
    install(folder, "0.33.0")
    with rig.requests() as codes:
        rig.wait("the replica to be replaced", lambda: is_replaced(rig, before))
    assert {*codes} == {200}
    said = [entry["message"] for entry in rig.history()]
    assert any("vLLM of engines[].python: vllm-0.32.0 → vllm-0.33.0" in message for message in said)


def test_upgrade_in_place_that_is_refused_keeps_what_serves(rig: LightRig, tmp_path: Path):
    folder = tmp_path / "env"
    before = begin(rig, engines=engines(make_engine(folder, "0.32.0")))
    breaking(folder, asked=True)
    install(folder, "0.33.0")
    rig.wait("the upgrade to be rejected", lambda: (rig.service() or {}).get("rejected"))
    assert rig.serves_now()
    assert [record.id for record in rig.records()] == [before.id]


def test_variable_of_the_config_rolls_out_and_its_value_is_told_to_nobody(rig: LightRig):
    before = begin(rig)
    rig.configure(engines=engines(rig.python, HF_TOKEN="hf_secret"))
    assert "engines[].env.HF_TOKEN added" in rig.ask("plan").stdout
    assert "hf_secret" not in rig.ask("diff", expect=1).stdout
    rig.reload()
    rig.wait("the replica to be replaced", lambda: is_replaced(rig, before))
    (after,) = rig.records()
    assert "HF_TOKEN" in after.env_names
    kept = [path.read_text(errors="replace") for path in rig.state_dir.rglob("*.json")]
    assert not [text for text in kept if "hf_secret" in text]


def test_records_of_an_older_daemon_restart_nothing(rig: LightRig):
    before = begin(rig)
    rig.kill(15)
    inventory = Inventory(rig.state)
    for record in inventory.replicas():
        inventory.write(replace(record, translation=()))
    for owned in inventory.services().values():
        assert owned.promoted is not None
        inventory.remember_service(replace(owned, promoted=replace(owned.promoted, translation=())))
    rig.start()
    rig.settle()
    (after,) = rig.records()
    assert (after.id, after.process) == (before.id, before.process)
    assert after.translation == before.translation


# ---------------------------------------------------------------- restart


@pytest.mark.parametrize("memory", [64, 0.02])
def test_restart_replaces_the_replica_and_asks_the_engine_anew(rig: LightRig, tmp_path: Path, memory: float):
    python, count = asked_of(tmp_path / "asked")
    before = begin(rig, engines=engines(python), allocatable={"memory": f"{memory}Gi"})
    asked = count()
    with rig.requests() as codes:
        answer = json.loads(rig.ask("restart", "tiny", "--wait", "-o", "json").stdout)
    assert (answer["service"], answer["targets"], answer["done"]) == ("default/tiny", ["demo"], True)
    assert {*codes} <= ({200} if memory == 64 else {200, 503})
    (after,) = rig.records()
    assert (after.digest, after.created_at > before.created_at) == (before.digest, True)
    assert count() == asked + 1
    (entry,) = [entry for entry in rig.history() if entry["event"] == "restart_requested"]
    assert entry["service"] == "default/tiny"
    assert entry["message"] == "requested by root" or os.geteuid()


def test_restart_that_is_cut_short_is_finished_once(rig: LightRig):
    before = begin(rig)
    rig.ask("restart", "default/tiny", "--target", "demo")
    rig.kill()
    rig.start()
    rig.wait("the replica to be replaced", lambda: is_replaced(rig, before))
    (after,) = rig.records()
    rig.kill(15)
    rig.start()
    rig.settle()
    assert [record.id for record in rig.records()] == [after.id]
    starts = [entry for entry in rig.history() if entry["event"] == "replica_started"]
    # A start that the daemon did not live to write into the history may lack.
    assert len(starts) <= 2


def test_restart_whose_successor_dies_keeps_what_serves(rig: LightRig):
    before = begin(rig)
    breaking(rig.python.parents[1], asked=False)
    assert "no kernel" in rig.ask("restart", "tiny", "--wait", expect=1).stderr
    assert [record.id for record in rig.records()] == [before.id]
    make_engine(rig.python.parents[1])
    rig.ask("restart", "tiny", "--wait")
    assert before.id not in [record.id for record in rig.records()]


def test_restart_of_what_is_unknown_is_refused(rig: LightRig):
    begin(rig)
    assert "did you mean default/tiny" in rig.ask("restart", "tinny", expect=2).stderr
    assert "no such target" in rig.ask("restart", "tiny", "--target", "x", expect=1).stderr
