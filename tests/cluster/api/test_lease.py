"""Leader election on a real API server: at most one acts, whatever happens to whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.cluster.api.client import Client
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.lease import Election, LeaseSettings
from tests.controlplane.api import Api, wait_for
from tests.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
# Prints, until it is ended, whether it leads: a line each 10 ms, with the clock that both processes share.
VOTER = """
import sys, time
from pathlib import Path
from reconciler.cluster.api.connection import ClusterConnection
from reconciler.cluster.api.lease import Election, LeaseSettings
election = Election(ClusterConnection(Path(sys.argv[1])), LeaseSettings(sys.argv[2], "l", sys.argv[3]), lambda: None)
while True:
    print(time.monotonic(), int(election.leadership().is_ours), flush=True)
    time.sleep(0.01)
"""


def quick(namespace: str, identity: str) -> LeaseSettings:
    return LeaseSettings(namespace, "l", identity, good_for=2, act_within=1.2, renew_every=0.3)


@contextmanager
def elections(connection: ClusterConnection, namespace: str, *names: str) -> Iterator[list[Election]]:
    """Several at once, and a look at every moment that no two lead."""
    made = [Election(connection, quick(namespace, name), lambda: None) for name in names]
    both: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            if sum(election.leadership().is_ours for election in made) > 1:
                both.append("two lead")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield made
    finally:
        over.set()
        looking.join()
        for election in made:
            election.close()
    assert not both


def leading(made: list[Election]) -> Election | None:
    return next((election for election in made if election.leadership().is_ours), None)


def test_one_leads_and_the_others_know_who(connection: ClusterConnection, namespace: str) -> None:
    with elections(connection, namespace, "a", "b", "c") as made:
        leader = wait_for(lambda: leading(made))
        holder = leader.leadership().holder
        wait_for(lambda: {each.leadership().holder for each in made} == {holder})
        assert holder[:2] in ("a_", "b_", "c_")


def test_lease_that_is_given_back_is_taken_at_once(connection: ClusterConnection, namespace: str) -> None:
    with elections(connection, namespace, "a", "b") as made:
        leader = wait_for(lambda: leading(made))
        (other,) = set(made) - {leader}
        leader.close()
        assert not leader.leadership().is_ours
        wait_for(lambda: other.leadership().is_ours)


def test_leader_that_cannot_renew_stops_acting_and_says_why(
    control_plane: ControlPlane, connection: ClusterConnection, namespace: str
) -> None:
    with elections(connection, namespace, "a", "b") as made:
        leader = wait_for(lambda: leading(made))
        control_plane.stop_api_server()
        try:
            wait_for(lambda: leading(made) is None)
            wait_for(lambda: "see the server in" in leader.leadership().why)
        finally:
            control_plane.start_api_server()
            control_plane.wait_until_ready()
        wait_for(lambda: leading(made))


@pytest.mark.parametrize("renewed", ["2001-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"])
def test_clock_of_another_machine_does_not_matter(
    connection: ClusterConnection, api: Api, namespace: str, renewed: str
) -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 1, "renewTime": renewed}
    metadata = {"name": "l", "namespace": namespace}
    lease = api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
    with elections(connection, namespace, "a") as made:
        # As long as its holder changes it, it is its holder's.
        for turn in range(15):
            api.patch(lease, {"metadata": {"annotations": {"turn": str(turn)}}})
            assert leading(made) is None
            time.sleep(0.2)
        wait_for(lambda: leading(made))
    assert api.get(lease)["spec"]["leaseTransitions"] == 1


@pytest.mark.slow
def test_leader_that_freezes_is_replaced_and_never_acts_again(
    control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    processes = {}
    for name in "ab":
        argv = [sys.executable, "-c", VOTER, control_plane.kubeconfig, namespace, name]
        with (tmp_path / name).open("wb") as output:
            processes[name] = subprocess.Popen(argv, stdout=output, cwd=ROOT, env={**os.environ})
    try:
        first = wait_for(lambda: next((name for name in "ab" if last(tmp_path / name)[1]), None))
        (second,) = set("ab") - {first}
        processes[first].send_signal(signal.SIGSTOP)
        frozen_at = time.monotonic()
        wait_for(lambda: last(tmp_path / second)[1])
        taken_at = last(tmp_path / second)[0]
        processes[first].send_signal(signal.SIGCONT)
        wait_for(lambda: last(tmp_path / first)[0] > taken_at + 1)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert taken_at - frozen_at < 15
    led = [time for time, leads in lines(tmp_path / first) if leads]
    took = [time for time, leads in lines(tmp_path / second) if leads]
    assert max(led) < min(took)


def lines(file: Path) -> list[tuple[float, int]]:
    whole = file.read_text().rpartition("\n")[0].splitlines()
    return [(float(line.split()[0]), int(line.split()[1])) for line in whole]


def last(file: Path) -> tuple[float, int]:
    return (lines(file) or [(0.0, 0)])[-1]
