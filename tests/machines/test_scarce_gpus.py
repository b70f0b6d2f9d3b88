"""Two GPUs for more services than that, on a real systemd: who gets one, who waits for whom, and what it costs."""

from __future__ import annotations

import itertools

import pytest

from tests.machines.conftest import MakeRig
from tests.machines.gpus import GpuRig

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
TINY = "demo/tiny.yaml"
SEQS = r"--max-num-seqs=\d+"


def on_gpus(text: str, name: str, count: int = 1) -> dict[str, str]:
    """The example service by another name, and with GPUs."""
    text = text.replace("  name: tiny\n", f"  name: {name}\n")
    return {f"demo/{name}.yaml": text.replace("cpu: 10m", f"cpu: 10m\n          nvidia.com/gpu: {count}")}


def blocked(rig: GpuRig, name: str) -> str:
    service = rig.service(name)
    return service["blocked"][0]["message"] if service and service["blocked"] else ""


def leased(rig: GpuRig, name: str) -> tuple[str, ...]:
    return tuple(uuid for record in rig.records(name) for uuid in record.lease.gpus)


def test_scarce_gpus_go_from_one_to_the_next_and_nothing_is_lost(make_rig: MakeRig) -> None:
    rig: GpuRig = make_rig(GpuRig, rollout={"min_ready": "0.2s"})
    first, second = rig.driver.uuids
    plain = rig.read(TINY)
    stranger = rig.take(second, 0.5)
    rig.write(on_gpus(plain, "tiny") | on_gpus(plain, "other"))
    rig.start()
    wait_for_a_stranger(rig, stranger)
    assert {leased(rig, "tiny"), leased(rig, "other")} == {(first,), (second,)}
    for uuid, node in ((first, "/dev/nvidia1"), (second, "/dev/nvidia0")):
        (unit,) = [unit for unit in rig.units() if f".{holder(rig, uuid)}." in unit]
        assert rig.devices(unit) == {node}

    wait_for_a_neighbour(rig, on_gpus(plain, "third"))
    with rig.load("tiny", streams=1, posts=1) as load:
        surge(rig)
        before = load.tally()
        assert (before.lost, before.refused) == (0, 0), str(before)
        stop_first(rig, on_gpus(plain, "tiny", 2))
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused > 0
    handed_over(rig)


def holder(rig: GpuRig, uuid: str) -> str:
    return next(name for name in ("tiny", "other") if leased(rig, name) == (uuid,))


def wait_for_a_stranger(rig: GpuRig, pid: int) -> None:
    """One of two starts; the other has a GPU to itself, but not the memory that a foreign process holds."""
    names = {"tiny", "other"}
    (waiting,) = rig.wait("one to wait", lambda: {name for name in names if "process" in blocked(rig, name)})
    (served,) = names - {waiting}
    rig.wait("the other one to serve", lambda: (rig.service(served) or {}).get("ready"))
    assert f"held by process {pid} (sleep, 12.0 GiB)" in blocked(rig, waiting)
    assert "InsufficientGPUMemory" in {one["code"] for one in rig.service(waiting)["blocked"]}  # type: ignore[index]
    rig.machine.run("systemctl", "stop", "other")
    rig.converge()


def wait_for_a_neighbour(rig: GpuRig, third: dict[str, str]) -> None:
    """It waits for a GPU, and gets it when git takes that from its holder."""
    rig.write(third)
    rig.wait("the third to be blocked", lambda: blocked(rig, "third"))
    assert blocked(rig, "third") == "needs 1 nvidia.com/gpu, 0 of 2 free; held by default/other, default/tiny"
    gpu = leased(rig, "other")
    rig.write({"demo/other.yaml": None})
    rig.converge()
    assert leased(rig, "third") == gpu
    rig.write({"demo/third.yaml": None})


def surge(rig: GpuRig) -> None:
    """With a GPU to spare the successor starts next to its predecessor, on the other one."""
    before = leased(rig, "tiny")
    rig.edit(TINY, SEQS, "--max-num-seqs=12")
    rig.converge()
    rig.wait("its predecessor to be gone", lambda: len(rig.units()) == 1)
    assert set(before).isdisjoint(leased(rig, "tiny"))


def stop_first(rig: GpuRig, both: dict[str, str]) -> None:
    """Both GPUs for one: the plan says that it has to stop first, and how long that will hurt."""
    rig.kill()
    rig.write(both)
    plan = rig.ask("plan", expect=None).stdout
    rig.start()
    rig.converge()
    assert sorted(leased(rig, "tiny")) == sorted(rig.driver.uuids)
    assert (
        "stop-first: drain old, stop it, start new; not enough resources for both (needs 2 nvidia.com/gpu, 1 of 2 free"
        in plan
    )
    assert "nothing serves for at most 30 s while running requests end, then about" in plan


def handed_over(rig: GpuRig) -> None:
    """Nothing started where memory was not back: an engine would have been refused, and each GPU had it back late."""
    log = rig.driver.log()
    assert {word for _, word, _, _ in log} == {"took"}
    late = []
    for uuid in rig.driver.uuids:
        for (_, _, _, before), (taken_at, _, _, _) in itertools.pairwise(one for one in log if one[2] == uuid):
            gone = rig.driver.folder / "used" / uuid / f"{before}.gone"
            if gone.exists():
                late.append(taken_at - gone.stat().st_mtime)
    # From `other` to `third`, from that to the new `tiny`, and from both to the one with two.
    assert len(late) >= 3
    assert min(late) >= rig.grace
