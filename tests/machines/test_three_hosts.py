"""A fleet: three hosts on networks of their own that share nothing but git."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.demo.repository import Repository
from reconciler.model import texts
from tests.e2e.rig import LAYOUT
from tests.machines.conftest import MakeRig
from tests.machines.installed import InstalledRig
from tests.machines.network import Switch
from tests.machines.remote import serve_git

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
TEAMS = {"one": "chat", "two": "chat", "three": "code"}
SERVED = {"one": ["chat"], "two": ["chat", "extra"], "three": ["code"]}
CHAT, CODE, EXTRA = "shared/chat.yaml", "shared/code.yaml", "hosts/two/extra.yaml"


@dataclass
class Fleet:
    """One repository behind one server, and its hosts."""

    repository: Repository
    hosts: list[InstalledRig]

    def push(self, change: dict[str, int]) -> str:
        """One commit that gives these files' services room for so many sequences. Returns it, shortened."""
        for path, seqs in change.items():
            self.repository.edit(path, r"--max-num-seqs=\d+", f"--max-num-seqs={seqs}")
        return self.repository.push(f"Change {', '.join(change)}")[:8]


def write_layout(clone: Path) -> None:
    """Shared services that choose their hosts by label, and one that lies in a host's own folder."""
    tiny = (LAYOUT / "demo/tiny.yaml").read_text().replace("cpu: '1'", "cpu: 10m")
    for team, path in (("chat", CHAT), ("code", CODE)):
        chosen = tiny.replace("  predictor:\n", f"  predictor:\n    nodeSelector: {{team: {team}}}\n")
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).write_text(chosen.replace("name: tiny\n", f"name: {team}\n"))
    for name in TEAMS:
        (clone / "hosts" / name).mkdir()
        host = (LAYOUT / "demo/host.yaml").read_text()
        (clone / "hosts" / name / "host.yaml").write_text(host.replace("name: demo", f"name: {name}"))
    (clone / EXTRA).write_text(tiny.replace("name: tiny\n", "name: extra\n"))


@pytest.fixture
def fleet(make_rig: MakeRig, switch: Switch, tmp_path: Path) -> Iterator[Fleet]:
    """Three hosts that serve what is theirs."""
    repository = Repository(tmp_path / "models.git", tmp_path / "clone")
    repository.create(LAYOUT)
    write_layout(tmp_path / "clone")
    repository.push("Share services between hosts")
    with serve_git(tmp_path, switch) as remote:
        hosts = []
        for name, team in TEAMS.items():
            target = {"name": name, "paths": ["runtimes", "shared", f"hosts/{name}"], "labels": {"team": team}}
            hosts.append(make_rig(InstalledRig, network=switch.plug(), git=tmp_path, target=target))
            hosts[-1].source = remote.source(hosts[-1].folder)
            hosts[-1].write_config()
            hosts[-1].start()
        for host in hosts:
            host.converge()
        yield Fleet(repository, hosts)


def events(host: InstalledRig) -> list[tuple[str, str]]:
    """What happened there so far: the event, and the revision it happened for."""
    return [(entry["event"], entry["revision"][:8]) for entry in host.history()]


def health(host: InstalledRig, name: str) -> tuple[str, str]:
    said: dict[str, Any] = host.service(name) or {}
    return said["health"]["status"], said["health"]["reason"]


def await_one(host: InstalledRig, name: str, seqs: int) -> None:
    """Until nothing but the successor is left."""
    host.wait("the old replica to be gone", lambda: len(host.records(name)) == 1)
    (record,) = host.records(name)
    assert texts(record.spec.args).count(f"--max-num-seqs={seqs}") == 1


def test_each_host_acts_on_its_part_and_one_that_was_cut_off_catches_up(fleet: Fleet, switch: Switch) -> None:
    one, two, three = fleet.hosts
    assert health(one, "code") == health(two, "code") == health(three, "chat") == ("Suspended", "NotForThisHost")
    assert all(host.serves(name) for host in fleet.hosts for name in SERVED[host.name])

    with contextlib.ExitStack() as stack:
        loads = [host.load(*SERVED[host.name], streams=1, posts=1, pause=0.2) for host in fleet.hosts]
        for load in loads:
            stack.enter_context(load)
        before, happened = three.invocations(), events(three)
        commit = fleet.push({CHAT: 12, EXTRA: 12})
        for host in fleet.hosts:
            host.converge()
        for host, name in ((one, "chat"), (two, "chat"), (two, "extra")):
            await_one(host, name, 12)
        assert three.invocations() == before
        assert events(three)[len(happened) :] == [("revision_fetched", commit), ("applied", commit)]

        before = two.invocations()
        assert two.network
        switch.cut(two.network)
        two.wait("it to miss git", lambda: (two.status() or {})["revision"]["error"])
        skipped = fleet.push({EXTRA: 13})
        newest = fleet.push({EXTRA: 14})
        one.converge()
        three.converge()
        said = two.ask("status", expect=1).stdout
        assert "source: cannot ask https://10.77.0.254" in said
        assert re.search(r"git was last read \d+ (s|min) ago", said)
        asked = loads[1].tally().requests
        two.wait("it to go on serving", lambda: loads[1].tally().requests > asked + 20)
        assert two.invocations() == before

        switch.repair(two.network)
        two.converge()
        await_one(two, "extra", 14)
        caught_up = {revision for _, revision in events(two)}
        assert (newest in caught_up, skipped in caught_up) == (True, False)
        tallies = [load.stop() for load in loads]
    assert [(tally.lost, tally.refused) for tally in tallies] == [(0, 0)] * 3, "\n".join(map(str, tallies))
    assert all(host.serves(name) for host in fleet.hosts for name in SERVED[host.name])
