"""A fleet: three hosts on networks of their own that share nothing but git."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.demo.repository import Repository
from tests.e2e.rig import LAYOUT
from tests.engine.fixtures import Place, find_place
from tests.machines.conftest import refuse
from tests.machines.installed import InstalledRig
from tests.machines.machine import NoMachine
from tests.machines.network import Switch
from tests.source.https_server import GitServer, make_certificate, serve

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
PASSWORD = "a-token-of-the-fleet"
TEAMS = {"one": "chat", "two": "chat", "three": "code"}
SHARED = {"chat": "shared/chat.yaml", "code": "shared/code.yaml"}
OWN = "hosts/two/extra.yaml"
SEQS = r"--max-num-seqs=\d+"


@dataclass
class Fleet:
    """One repository behind one server, and its hosts by name."""

    repository: Repository
    clone: Path
    server: GitServer
    switch: Switch
    hosts: dict[str, InstalledRig]

    def push(self, change: dict[str, int]) -> str:
        """One commit that gives these files' services room for so many sequences."""
        for path, seqs in change.items():
            self.repository.edit(path, SEQS, f"--max-num-seqs={seqs}")
        return self.repository.push(f"Change {', '.join(change)}")


def write_layout(clone: Path) -> None:
    """Shared services that choose their hosts by label, and one that lies in a host's own folder."""
    tiny = (LAYOUT / "demo/tiny.yaml").read_text().replace("cpu: '1'", "cpu: 10m")
    for team, path in SHARED.items():
        chosen = tiny.replace("  predictor:\n", f"  predictor:\n    nodeSelector: {{team: {team}}}\n")
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).write_text(chosen.replace("name: tiny\n", f"name: {team}\n"))
    for name in TEAMS:
        (clone / "hosts" / name).mkdir()
        host = (LAYOUT / "demo/host.yaml").read_text()
        (clone / "hosts" / name / "host.yaml").write_text(host.replace("name: demo", f"name: {name}"))
    (clone / OWN).write_text(tiny.replace("name: tiny\n", "name: extra\n"))


def make_host(folder: Path, name: str, fleet: Fleet, place: Place) -> InstalledRig:
    folder.mkdir()
    (folder / "token").write_text(PASSWORD)
    (folder / "token").chmod(0o600)
    shutil.copy(fleet.clone.parent / "ca.pem", folder)
    port = fleet.server.server_port
    source = {"url": f"https://{fleet.switch.network.address}:{port}/models.git", "interval": "1s"}
    source |= {"token_file": str(folder / "token"), "ca_file": str(folder / "ca.pem")}
    return InstalledRig(
        folder,
        python=place.python,
        model=place.model,
        place=place,
        network=fleet.switch.plug(),
        git=fleet.clone.parent,
        source=source,
        target={"name": name, "paths": ["runtimes", "shared", f"hosts/{name}"], "labels": {"team": TEAMS[name]}},
    )


@contextlib.contextmanager
def make_fleet(folder: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.close)
        git = folder / "git"
        git.mkdir(parents=True)
        repository = Repository(git / "models.git", git / "clone")
        repository.create(LAYOUT)
        write_layout(git / "clone")
        repository.push("Share services between hosts")
        _, certificate = make_certificate(git, switch.network.address)
        with switch.network.entered():
            server = stack.enter_context(serve(git, PASSWORD, certificate, switch.network.address))
        fleet = Fleet(repository, git / "clone", server, switch, {})
        for name in TEAMS:
            fleet.hosts[name] = host = make_host(folder / name, name, fleet, find_place())
            stack.callback(host.close)
        yield fleet


@pytest.fixture
def fleet(engine_python: Path, tiny_model: Path) -> Iterator[Fleet]:
    """Three hosts that already serve what is theirs."""
    # Not below /tmp: units have one of their own.
    folder = Path("/run") / f"reconciler-fleet-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            made = stack.enter_context(make_fleet(folder))
        except NoMachine as error:
            refuse(str(error))
            raise
        for host in made.hosts.values():
            host.start()
        for host in made.hosts.values():
            host.converge()
        yield made


def events(host: InstalledRig) -> list[tuple[str, str]]:
    """What happened there so far: the event, and the revision it happened for."""
    rows = [re.split(r" {2,}", line) for line in host.ask("history").stdout.splitlines()[1:]]
    return [(row[3], row[4]) for row in rows]


def health(host: InstalledRig, name: str) -> tuple[str, str]:
    said: dict[str, Any] = host.service(name) or {}
    return said["health"]["status"], said["health"]["reason"]


def test_each_host_acts_on_its_part_and_one_that_was_cut_off_catches_up(fleet: Fleet) -> None:
    one, two, three = fleet.hosts.values()
    served = {"one": ["chat"], "two": ["chat", "extra"], "three": ["code"]}
    assert health(one, "code") == health(two, "code") == health(three, "chat") == ("Suspended", "NotForThisHost")
    assert all(host.serves(name) for host in fleet.hosts.values() for name in served[host.name])

    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(host.load(*served[host.name], streams=1, posts=1, pause=0.2))
            for host in (one, two, three)
        ]
        before, happened = three.invocations(), events(three)
        commit = fleet.push({SHARED["chat"]: 12, OWN: 12})
        for host in (one, two, three):
            host.converge()
        for host, service in ((one, "chat"), (two, "chat"), (two, "extra")):
            host.wait("the old replica to be gone", lambda h=host, s=service: len(h.records(s)) == 1)  # type: ignore[misc]
            (record,) = host.records(service)
            assert "--max-num-seqs=12" in record.spec.args
        assert three.invocations() == before
        assert events(three)[len(happened) :] == [("revision", commit[:8]), ("applied", commit[:8])]

        before = two.invocations()
        fleet.switch.cut(two.network)
        two.wait("it to miss git", lambda: (two.status() or {})["revision"]["error"])
        skipped = fleet.push({SHARED["chat"]: 13, OWN: 13})
        newest = fleet.push({SHARED["chat"]: 12, OWN: 14})
        one.converge()
        three.converge()
        said = two.ask("status", expect=1).stdout
        assert "source: cannot ask https://10.77.0.254" in said
        assert re.search(r"git was last read \d+ s ago", said)
        tally = loads[1].tally()
        two.wait("it to go on serving", lambda: loads[1].tally().requests > tally.requests + 20)
        assert two.invocations() == before

        fleet.switch.mend(two.network)
        two.converge()
        two.wait("the old replica to be gone", lambda: len(two.records("extra")) == 1)
        caught_up = {revision for _, revision in events(two)}
        assert (newest[:8] in caught_up, skipped[:8] in caught_up) == (True, False)
        tallies = [load.stop() for load in loads]
    assert [(tally.lost, tally.refused) for tally in tallies] == [(0, 0)] * 3, "\n".join(map(str, tallies))
    assert all(host.serves(name) for host in fleet.hosts.values() for name in served[host.name])
