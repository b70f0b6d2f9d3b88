"""Two real daemons whose Overviews show each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from reconciler.config.settings import HostSettings, Settings, SourceSettings
from reconciler.config.web import PeerSettings, Web
from reconciler.loop.daemon import Daemon
from reconciler.report.status import Document
from reconciler.web import peers
from tests.support.git_repository import Repository
from tests.support.ports import free_port
from tests.support.world import eventually

pytestmark = pytest.mark.slow

NAMES = ("paris", "rome")


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Settings]:
    """Of two daemons, each a peer of the other."""
    monkeypatch.setattr(peers, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(peers, "_LONGEST_PAUSE", 0.05)
    repository = Repository(tmp_path / "origin")
    repository.write("hosts/a/x.yaml", "# nothing\n")
    repository.commit()
    ports = dict(zip(NAMES, (free_port(), free_port()), strict=True))
    return {
        name: Settings(
            source=SourceSettings(url=str(repository.path)),
            targets=(HostSettings(name=name, paths=("hosts/a",), kind="process"),),
            state_dir=tmp_path / name,
            web=Web(
                listen=f"127.0.0.1:{ports[name]}",
                peers=tuple(
                    PeerSettings(name=other, url=f"http://127.0.0.1:{ports[other]}") for other in NAMES if other != name
                ),
            ),
        )
        for name in NAMES
    }


@pytest.fixture
def daemons(configs: dict[str, Settings]) -> Iterator[dict[str, Daemon]]:
    running = {name: Daemon(config) for name, config in configs.items()}
    for daemon in running.values():
        daemon.start()
    yield running
    for daemon in running.values():
        daemon.stop()


def row(config: Settings) -> Document:
    """The only peer on an Overview."""
    request = Request(f"http://{config.web.listen}/", headers={"Accept": "application/json"})
    (found,) = json.load(urlopen(request, timeout=10))["peers"]["rows"]
    return found


def test_daemons_show_each_other_and_remember_one_that_went_away(
    configs: dict[str, Settings], daemons: dict[str, Daemon]
) -> None:
    paris, rome = (configs[name] for name in NAMES)
    for config, other in ((paris, "rome"), (rome, "paris")):
        eventually(lambda config=config: row(config)["reachable"])
        eventually(lambda config=config: row(config)["summary"]["revision"]["desired"])
        assert row(config)["summary"]["targets"]["names"] == [other]
    daemons["rome"].stop()
    eventually(lambda: not row(paris)["reachable"])
    away = row(paris)
    assert away["since"]
    assert away["reason"] == "no connection: Connection refused"
    assert away["summary"]["targets"]["names"] == ["rome"]
    daemons["rome"] = Daemon(rome)
    daemons["rome"].start()
    eventually(lambda: row(paris)["reachable"])
