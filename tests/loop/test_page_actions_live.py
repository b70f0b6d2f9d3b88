"""Somebody logs in to the page of a running daemon, over TLS, and acts there: what follows, and what is kept of it."""

from __future__ import annotations

import re
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.controlplane.certificates import Authority
from tests.support.light_rig import LightRig
from tests.web.asking import ADA, COOKIE, TOKENS, Asker

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """Where a page is, as `Asker` asks for it."""

    address: tuple[str, int]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def rig(tmp_path: Path, authority: Authority) -> Iterator[LightRig]:
    rig = LightRig(tmp_path)
    certificate, key = authority.server("page")
    config = yaml.safe_load(rig.config.read_text())
    config["web"] |= {
        "tls": {"certificate_file": str(certificate), "key_file": str(key)},
        "auth": {"tokens": list(TOKENS)},
    }
    rig.config.write_text(yaml.safe_dump(config))
    rig.start()
    rig.settle()
    yield rig
    rig.close()


@pytest.fixture
def ada(rig: LightRig, authority: Authority) -> Asker:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    place = Place(("127.0.0.1", rig.web))
    browser = Asker(place, tls=context)  # type: ignore[arg-type]
    id_ = browser.log_in(ADA).cookie
    return Asker(place, tls=context, headers={"Cookie": f"__Host-{COOKIE}={id_}"})  # type: ignore[arg-type]


def test_action_on_the_page_holds_and_is_kept_with_its_person(rig: LightRig, ada: Asker):
    where = ada.post("/actions/suspend", {"service": "default/tiny", "reason": "a disk is replaced", "until": "2h"})
    assert "Suspended: default/tiny." in ada.get(where.headers["location"]).text
    assert rig.ask("status", expect=None).stdout.count("suspended by ada (web)") >= 1
    rig.edit("demo/tiny.yaml", r"--max-model-len=\d+", "--max-model-len=200")
    ada.post("/actions/sync", {})
    rig.wait("the change to be seen", lambda: is_changed(rig))
    assert is_changed(rig)

    rig.kill(signal.SIGTERM)
    rig.start()
    rig.wait("the page to be there again", lambda: answers(ada) and rig.service("tiny"))
    assert "Resume default/tiny" in ada.get("/actions/resume?service=tiny").text, "the login outlives the daemon"
    assert ada.post("/actions/resume", {"service": "tiny"}).status == 303
    rig.wait("the change to be rolled out", lambda: not is_changed(rig))

    told = {one["event"]: one["message"] for one in rig.history()}
    assert re.fullmatch(r"by ada \(web\) until \S+: a disk is replaced", told["suspended"])
    assert told["sync_requested"] == "requested by ada (web)"
    assert told["resumed"] == "by ada (web)"


def test_certificate_that_is_broken_at_a_reload_costs_nothing(rig: LightRig, ada: Asker):
    key = Path(yaml.safe_load(rig.config.read_text())["web"]["tls"]["key_file"])
    good = key.read_text()
    key.write_text("no key")
    rig.reload()
    assert answers(ada)
    assert '"config_rejected"' in rig.words()
    key.write_text(good)
    rig.reload()
    rig.wait("the page to be there again", lambda: answers(ada))


def is_changed(rig: LightRig) -> bool:
    service = rig.service("tiny")
    return service is not None and service["digest"] != service["liveDigest"]


def answers(browser: Asker) -> bool:
    try:
        return browser.get("/").status == 200
    except OSError:
        return False
