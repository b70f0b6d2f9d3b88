"""The GPUs of a host: nvidia-ml-py as it is, on a library that stands in for NVIDIA's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.launch import Launch
from reconciler.errors import Retryable
from reconciler.fault_isolation import Faults
from reconciler.host.gpus import usage
from reconciler.host.gpus.devices import GpuMemory, Gpus, Holder
from reconciler.host.inventory import Inventory, ReplicaRecord
from reconciler.host.process import scratch
from reconciler.host.process.supervisor import ProcessSupervisor
from reconciler.host.supervisor import ProcessState
from reconciler.model import Desired, ForeignProcess, Gpu, GpuUse, Resources
from reconciler.model.crash_signs import is_crowded_out
from reconciler.system import procfs
from tests.support.nvml.driver import GIB, Driver, make
from tests.support.world import eventually, record


@pytest.fixture
def engine(driver: Driver) -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes half of the first GPU, and whose memory stays for a long time after its end."""
    env = {**driver.env(), "CUDA_VISIBLE_DEVICES": driver.uuids[0]}
    process = subprocess.Popen([*driver.user(0.5, grace=600), "sleep", "600"], env=env | {"PATH": os.environ["PATH"]})
    eventually(driver.log)
    yield process
    process.kill()
    process.wait()


# ---------------------------------------------------------------- the list


@pytest.mark.parametrize("count", [2, 4, 8])
def test_gpus_come_from_the_driver_in_its_order(tmp_path: Path, count: int) -> None:
    with make(tmp_path / "gpus", count) as driver, driver.loaded():
        assert Gpus("auto").list() == tuple(Gpu(uuid, "NVIDIA Stand-in 24GB", 24 * GIB) for uuid in driver.uuids)


def test_gpu_has_the_node_that_the_driver_says_not_the_one_of_its_place(driver: Driver) -> None:
    gpus = Gpus((*driver.uuids, "GPU-9"))
    assert gpus.nodes(gpu.uuid for gpu in gpus.list()) == ("/dev/nvidia1", "/dev/nvidia0")


def test_config_chooses_gpus_and_may_name_some_that_the_driver_does_not(driver: Driver) -> None:
    first, second = Gpus((driver.uuids[1], "GPU-9")).list()
    assert (first.uuid, first.memory_bytes) == (driver.uuids[1], 24 * GIB)
    assert second == Gpu("GPU-9")


@pytest.mark.parametrize(("code", "says"), [(18, "version mismatch"), (999, "Unknown Error")])
def test_failing_driver_is_not_a_host_without_gpus(driver: Driver, code: int, says: str) -> None:
    gpus = Gpus("auto")
    driver.fail(code)
    with pytest.raises(Retryable, match=says):
        gpus.list()
    driver.fail(None)
    assert len(gpus.list()) == 2


def test_gpu_that_fell_off_its_bus_does_not_hold_up_the_others(driver: Driver) -> None:
    gpus = Gpus("auto")
    assert len(gpus.list()) == 2
    driver.lose(driver.uuids[1])
    lost = gpus.memory(driver.uuids[1])
    assert lost is not None
    assert lost.fault.startswith("GPU is lost")
    assert gpus.held_by(driver.uuids[1]) == ()
    assert not gpus.is_releasing(driver.uuids, None, 0.0)
    assert gpus.memory(driver.uuids[0]) == GpuMemory(24 * GIB, 24 * GIB)
    # A daemon that starts now cannot even learn its name.
    assert [gpu.uuid for gpu in Gpus("auto").list()] == [driver.uuids[0]]


@pytest.mark.parametrize("code", [9, 12])
def test_host_without_a_driver_or_its_library_has_no_gpus(driver: Driver, code: int) -> None:
    driver.fail(code)
    assert Gpus("auto").list() == ()
    assert Gpus(("GPU-7",)).list() == (Gpu("GPU-7"),)
    assert Gpus(("GPU-7",)).held_by("GPU-7") == ()


# ---------------------------------------------------------------- who holds what


def test_process_holds_its_memory_while_it_lives(driver: Driver, engine: subprocess.Popen[bytes]) -> None:
    gpus = Gpus("auto")
    assert gpus.held_by(driver.uuids[0]) == (Holder(engine.pid, 12 * GIB),)
    assert gpus.held_by(driver.uuids[1]) == ()
    assert gpus.held_by("GPU-9") == ()
    who = procfs.identify(engine.pid)
    assert who is not None
    assert gpus.holds(driver.uuids, {who}) == 1
    assert gpus.holds(driver.uuids, set()) == 0
    engine.kill()
    engine.wait()
    assert gpus.held_by(driver.uuids[0]) == ()


def test_memory_of_the_dead_that_the_driver_still_names_is_still_theirs(driver: Driver) -> None:
    process = subprocess.Popen(["sleep", "600"])
    who = procfs.identify(process.pid)
    assert who is not None
    driver.hold(driver.uuids[0], process.pid, GIB, grace=600, listed=True)
    process.kill()
    process.wait()
    assert Gpus("auto").holds(driver.uuids, {who}) == 1


def test_gpu_memory_without_an_owner_is_waited_for_but_not_for_ever(
    driver: Driver, engine: subprocess.Popen[bytes]
) -> None:
    gpus = Gpus("auto")
    assert not gpus.is_releasing(driver.uuids, 1000.0, 1001.0)
    engine.kill()
    engine.wait()
    assert gpus.is_releasing(driver.uuids, 1000.0, 1001.0)
    assert gpus.is_releasing(driver.uuids, None, 1001.0)
    assert not gpus.is_releasing(driver.uuids[1:], 1000.0, 1001.0)
    assert not gpus.is_releasing(driver.uuids, 1000.0, 1100.0)


def test_what_the_driver_keeps_for_itself_is_not_in_use(tmp_path: Path) -> None:
    with make(tmp_path / "gpus", 2, reserved=GIB) as driver, driver.loaded():
        gpus = Gpus("auto")
        assert gpus.memory(driver.uuids[0]) == GpuMemory(23 * GIB, 23 * GIB)
        driver.hold(driver.uuids[0], os.getpid(), GIB)
        assert gpus.memory(driver.uuids[0]) == GpuMemory(23 * GIB, 22 * GIB, (Holder(os.getpid(), GIB),))


def test_memory_does_not_fit_twice(driver: Driver, engine: subprocess.Popen[bytes]) -> None:
    env = {**driver.env(), "CUDA_VISIBLE_DEVICES": ",".join(reversed(driver.uuids))}
    done = subprocess.run([*driver.user(0.6), "true"], env=env, capture_output=True, text=True, check=False)
    assert "Free memory on device cuda:0 (12.00/24.00 GiB) on startup is less than desired" in done.stdout
    assert is_crowded_out(done.stdout.splitlines())
    assert [(word, gpu) for _, word, gpu, _ in driver.log()[1:]] == [
        ("took", driver.uuids[1]),
        ("refused", driver.uuids[0]),
    ]


def test_parts_of_a_gpu_are_devices_of_their_own(driver: Driver) -> None:
    import pynvml

    parts = driver.partition(driver.uuids[1], "1g.6gb", "2g.12gb")
    pynvml.nvmlInit()
    whole, split = (pynvml.nvmlDeviceGetHandleByUUID(each) for each in driver.uuids)
    assert [pynvml.nvmlDeviceGetMigMode(each)[0] for each in (whole, split)] == [0, 1]
    handles = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(split, n) for n in range(2)]
    assert tuple(map(pynvml.nvmlDeviceGetUUID, handles)) == parts
    assert [pynvml.nvmlDeviceGetMemoryInfo(each).total // GIB for each in handles] == [6, 12]
    assert [pynvml.nvmlDeviceGetAttributes(each).gpuInstanceSliceCount for each in handles] == [1, 2]
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(split, 2)
    driver.hold(parts[1], os.getpid(), GIB)
    (held,) = pynvml.nvmlDeviceGetComputeRunningProcesses(split)
    assert (held.pid, held.usedGpuMemory, held.gpuInstanceId) == (os.getpid(), GIB, 2)
    assert pynvml.nvmlDeviceGetMemoryInfo(handles[0]).used == 0


# ---------------------------------------------------------------- MIG


def test_gpu_in_mig_mode_is_leased_by_its_parts_alone(driver: Driver) -> None:
    whole, split = driver.uuids
    small, large = driver.partition(split, "1g.6gb", "2g.12gb")
    names = ("NVIDIA Stand-in 24GB MIG 1g.6gb", "NVIDIA Stand-in 24GB MIG 2g.12gb")
    parts = (Gpu(small, names[0], 6 * GIB, "1g.6gb", split), Gpu(large, names[1], 12 * GIB, "2g.12gb", split))
    gpu = Gpu(whole, "NVIDIA Stand-in 24GB", 24 * GIB)
    assert Gpus("auto").list() == (gpu, *parts)
    assert [each.kind for each in Gpus((large, whole)).list()] == ["nvidia.com/mig-2g.12gb", "nvidia.com/gpu"]
    # Listing the GPU itself means its parts, also where there are none.
    assert Gpus((split,)).list() == parts
    driver.partition(split)
    assert Gpus((split,)).list() == ()


def test_part_of_a_gpu_is_opened_by_the_nodes_that_the_kernel_names(driver: Driver, tmp_path: Path) -> None:
    part, other = driver.partition(driver.uuids[1], "1g.6gb", "1g.6gb")
    instance = tmp_path / "gpu0/mig/gi1"
    for folder, minor in ((instance, 12), (instance / "ci0", 13)):
        folder.mkdir(parents=True)
        (folder / "access").write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    gpus = Gpus("auto", tmp_path)
    nodes = ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13")
    assert gpus.nodes([part]) == nodes
    assert gpus.nodes([part, driver.uuids[0], part]) == (*nodes, "/dev/nvidia1")
    with pytest.raises(Retryable, match="gi2/access: cannot be read: No such file or directory; was the MIG device"):
        gpus.nodes([other])


def test_who_holds_memory_of_a_part_is_known_by_the_part(driver: Driver) -> None:
    small, large = driver.partition(driver.uuids[1], "1g.6gb", "2g.12gb")
    driver.hold(large, os.getpid(), GIB)
    gpus = Gpus("auto")
    assert (gpus.held_by(small), gpus.held_by(large)) == ((), (Holder(os.getpid(), GIB),))


# ---------------------------------------------------------------- which processes are replicas'


def test_stopped_replica_keeps_its_lease_until_the_memory_is_back(driver: Driver, tmp_path: Path) -> None:
    gpu, inventory, gpus = driver.uuids[0], Inventory(tmp_path / "state"), Gpus("auto")
    supervisor = ProcessSupervisor(inventory, gpus)
    env = {**driver.env(), "CUDA_VISIBLE_DEVICES": gpu, "PATH": os.environ["PATH"]}
    cwd = scratch.folder_of(inventory.folder, record().id)
    argv = (*driver.user(0.5, grace=600), "sleep", "600")
    supervisor.start(record(gpus=(gpu,)), Launch(argv, env, str(cwd)))
    eventually(driver.log)
    ((_, _, _, pid),) = driver.log()
    assert (supervisor.is_ours(pid), supervisor.is_ours(os.getpid())) == (True, False)
    other = driver.hold(gpu, os.getpid(), GIB)
    stranger = ForeignProcess(os.getpid(), procfs.name_of(os.getpid()), GIB)
    assert usage.look(gpus, supervisor.is_ours, Faults(""))[gpu] == GpuUse(24 * GIB, 11 * GIB, (stranger,))

    (known,) = inventory.replicas()
    known = inventory.change(known.id, stopping_at=time.time())
    supervisor.stop(known, force=True)
    eventually(lambda: state_of(supervisor, known) == ProcessState(False, exit_code=-9, releasing=True))
    (driver.folder / "used" / gpu / str(pid)).unlink()
    # What others have is not waited for.
    assert other.exists()
    assert not state_of(supervisor, known).releasing
    supervisor.remove(known)
    supervisor.close()


def state_of(supervisor: ProcessSupervisor, known: ReplicaRecord) -> ProcessState:
    (record,) = Inventory.replicas(supervisor._inventory)
    return supervisor.list([record])[known.id]


def test_driver_that_begins_to_fail_keeps_only_gpus_from_use(driver: Driver) -> None:
    gpus = Gpus("auto")
    gpus.list()
    driver.fail(999)
    uses = usage.look(gpus, lambda _: True, Faults(""))
    assert set(uses) == set(driver.uuids)
    assert all("the NVIDIA driver is not responding: Unknown Error" in use.fault for use in uses.values())


def test_driver_that_begins_to_fail_keeps_no_host_from_being_observed(
    driver: Driver, engine: subprocess.Popen[bytes]
) -> None:
    """What ended on one sick GPU is waited for, and not forever; who serves on the others is looked after."""
    gpus, who = Gpus("auto"), procfs.identify(engine.pid)
    gpus.list()
    engine.kill()
    engine.wait()
    driver.fail(999)
    assert who is not None
    assert gpus.holds(driver.uuids, {who}) == 0
    assert gpus.is_releasing(driver.uuids, 1000.0, 1001.0)
    assert not gpus.is_releasing(driver.uuids, 1000.0, 1100.0)


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2), st.integers(0, 1))
def test_driver_is_asked_only_while_replicas_with_gpus_lack(
    alive: bool, ready: bool, leaving: bool, gpus: int, spare: int
) -> None:
    known = replace(record(port=1), ready_at=1.0 if ready else None, draining_at=2.0 if leaving else None)
    spec = replace(known.spec, resources=Resources(gpus=gpus))
    wanted = Desired(known.id.service, known.origin, spec, known.digest, replicas=1 + spare)
    asked = usage.is_asked_for([wanted], [known], {known.id: ProcessState(alive)}, Faults(""))
    assert asked == (gpus > 0 and (spare > 0 or not alive or not ready or leaving))
