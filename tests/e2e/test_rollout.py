"""Push, serve, change under load: every stream and every keep-alive request is verified by its content."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from reconciler.engines.probe import Probe
from reconciler.host.inventory import ReplicaRecord
from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

SEQS = r"--max-num-seqs=\d+"


def roll(rig: Rig, seqs: int) -> None:
    """One change of an argument, until it is applied and nothing else runs."""
    before = rig.pids()
    rig.edit("demo/tiny.yaml", SEQS, f"--max-num-seqs={seqs}")
    rig.converge()
    rig.wait("the old replica to be gone", lambda: len(rig.records()) == 1)
    assert rig.pids()
    assert not rig.pids() & before


def test_push_becomes_a_model_that_answers_on_all_three_ways_in(rig: Rig):
    assert rig.serves()
    service = rig.service()
    assert (service["sync"], service["health"]["status"], service["ready"]) == ("Synced", "Healthy", "1/1")
    assert "tiny" in rig.ask("status").stdout
    assert rig.ask("plan").stdout


def test_twenty_changes_with_room_for_two_lose_nothing(rig: Rig):
    with rig.load(streams=2, posts=2) as load:
        for turn in range(20):
            roll(rig, 9 + turn)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused == 0, str(tally)
    assert tally.requests > 100


def test_canary_comes_and_goes_without_a_lost_request(rig: Rig):
    before = rig.read("demo/tiny.yaml")
    service = yaml.safe_load(before)
    other = copy.deepcopy(service["spec"]["predictor"])
    other["model"]["args"].append("--max-num-batched-tokens=1024")
    service["spec"]["canary"] = [{"trafficPercent": 50, "predictor": {"name": "next", "model": other["model"]}}]
    (first,) = rig.pids()
    with rig.load(streams=2, posts=2) as load:
        rig.write({"demo/tiny.yaml": yaml.safe_dump(service)})
        rig.converge()
        rig.wait("both to serve", lambda: rig.service()["ready"] == "2/2")
        second = rig.pids() - {first}
        rig.wait("its share", lambda: all(has_answered(record) for record in rig.records()))
        rig.write({"demo/tiny.yaml": before})
        rig.converge()
        rig.wait("the first to be alone", lambda: rig.pids() == {first})
        tally = load.stop()
    assert len(second) == 1
    assert tally.lost == 0, str(tally)
    assert tally.refused == 0, str(tally)


def has_answered(record: ReplicaRecord) -> bool:
    """More than the probe's own request: vLLM counts what it finished."""
    return completions(record) > 3


def test_change_without_room_stops_first_and_refuses_but_loses_nothing(make_rig: MakeRig):
    rig = make_rig(memory=3)
    rig.start()
    rig.converge()
    with rig.load(streams=2, posts=2) as load:
        for turn in range(3):
            roll(rig, 9 + turn)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused > 0, "without room there must have been a time when nothing could answer"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("memory", "refuses"), [(64, False), (3, True)], ids=["surge", "stop-first"])
def test_change_on_the_stock_entry_point_loses_nothing(
    memory: int, refuses: bool, make_rig: MakeRig, stock_python: Path
):
    rig = make_rig(python=stock_python, memory=memory, rollout={"ready_timeout": "300s"})
    rig.start()
    rig.converge(300)
    with rig.load(streams=1, posts=1, stream_tokens=200, pause=0.3) as load:
        rig.edit("demo/tiny.yaml", SEQS, "--max-num-seqs=12")
        rig.converge(300)
        tally = load.stop()
    assert (tally.lost, tally.refused > 0) == (0, refuses), str(tally)


def test_writing_an_argument_differently_restarts_nothing(rig: Rig):
    before = rig.pids()
    rig.edit("demo/tiny.yaml", "- --max-model-len=256", "- --max_model_len=0256".replace("0256", "256"))
    rig.converge()
    assert rig.pids() == before


def test_equal_value_that_only_the_engine_recognises_restarts_nothing(rig: Rig):
    before = rig.pids()
    rig.edit("demo/tiny.yaml", "- --max-model-len=256", "- --max-model-len=0.256k")
    rig.converge()
    assert rig.pids() == before
    assert "relabel" in rig.ask("history").stdout


def test_edit_of_one_service_leaves_the_other_alone(rig: Rig):
    text = rig.read("demo/tiny.yaml").replace("name: tiny\n", "name: other\n", 1)
    rig.write({"demo/other.yaml": text})
    rig.converge()
    other = rig.pids("other")
    assert other
    roll(rig, 20)
    assert rig.pids("other") == other
    assert rig.serves("other")


def test_runtime_edit_rolls_two_services_of_two_replicas_without_loss(make_rig: MakeRig):
    rig = make_rig(memory=10)  # room for one more replica than the four
    text = rig.read("demo/tiny.yaml").replace("Replicas: 1", "Replicas: 2")
    rig.write({"demo/tiny.yaml": text, "demo/other.yaml": text.replace("name: tiny\n", "name: other\n", 1)})
    rig.start()
    rig.converge(180)
    before = rig.pids() | rig.pids("other")
    assert len(before) == 4
    with rig.load("tiny", "other", streams=3, posts=3) as load:
        rig.edit("runtimes/vllm-cpu.yaml", r"- --enforce-eager", "- --enforce-eager\n        - --seed=7")
        rig.converge(240)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused == 0, str(tally)
    assert not (rig.pids() | rig.pids("other")) & before
    events = [line for line in rig.ask("history", "-o", "json").stdout.splitlines() if line]
    assert events


def test_deleted_service_leaves_nothing_behind(rig: Rig):
    folder = rig.folder / "state" / "demo"
    sockets = [Path(record.socket) for record in rig.records()]
    assert sockets
    assert all(path.is_socket() for path in sockets)
    rig.write({"demo/tiny.yaml": None})
    rig.converge()
    rig.wait("the service to be forgotten", lambda: rig.service() is None)
    assert not list((folder / "replicas").iterdir())
    assert not list((folder / "services").iterdir())
    assert not rig.serves()
    assert not any(path.parent.exists() for path in sockets)


def test_canary_gets_its_share_and_its_promotion_loses_nothing(rig: Rig):
    before = rig.pids()
    text = rig.read("demo/tiny.yaml").replace("--max-num-seqs=8", "--max-num-seqs=20")
    with rig.load(streams=1, posts=2) as load:
        rig.write({"demo/tiny.yaml": text.replace("  predictor:\n", "  predictor:\n    canaryTrafficPercent: 30\n")})
        rig.converge()
        assert before < rig.pids(), "the stable replica stays beside the canary"
        counts = {record.digest: completions(record) for record in rig.records()}
        rig.wait("both to be asked", lambda: grown(rig, counts))
        rig.write({"demo/tiny.yaml": text})
        rig.converge()
        rig.wait("the old one to be gone", lambda: len(rig.records()) == 1)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert not rig.pids() & before


def grown(rig: Rig, counts: dict[str, float]) -> bool:
    now = {record.digest: completions(record) for record in rig.records()}
    return all(now[digest] >= count + 5 for digest, count in counts.items())


def completions(record: ReplicaRecord) -> float:
    """How many requests an engine has finished."""
    answer = Probe().scrape(record.address, "/metrics")
    assert answer is not None
    lines = answer.body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:request_success_total{"))
