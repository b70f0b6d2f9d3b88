"""Services in containers: real podman as units of a real systemd, with an image that is pulled from a registry."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_secrets import CHAT, SECRET, TOKEN
from tests.machines.conftest import refuse
from tests.machines.containers import NAME, ContainerRig, check_podman
from tests.machines.machine import NoMachine
from tests.machines.rig import USER
from tests.machines.test_life_of_a_host import SEQS, TINY
from tests.support.engine.fixtures import find_place

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
TEMPLATE = "{{ messages[0].content }}"
CPU = "runtimes/vllm-cpu.yaml"
GPUS = ("GPU-1", "GPU-2")
STAGING: dict[str, list[dict[str, str]]] = {"staging": []}
MORE = """\
      env:
        - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}
      volumeMounts:
        - {name: chat, mountPath: /chat}
    volumes:
      - {name: chat, configMap: {name: chat}}
"""
REFUSED = [f"touch: cannot touch '{path}': Read-only file system" for path in ("/etc/written", "/mnt/models/written")]
# Two lines of heading, and the loopback device.
NO_NETWORK = ["3"]


@pytest.fixture
def rig(engine_python: Path, tiny_model: Path) -> Iterator[ContainerRig]:
    """A machine without the image that `tiny` names. Nothing is started."""
    folder = Path("/run") / f"reconciler-tests-{os.getpid()}-containers"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        check_podman()
        secrets = {"secrets": {"directory": str(folder / "secrets")}}
        place = find_place()
        rig = ContainerRig(folder, python=engine_python, model=tiny_model, place=place, gpus=GPUS, target=secrets)
    except NoMachine as error:
        shutil.rmtree(folder, ignore_errors=True)
        refuse(str(error))
        raise
    yield rig
    rig.close()


def test_image_is_pulled_and_its_containers_live_as_units_do(rig: ContainerRig) -> None:
    (rig.folder / "secrets").mkdir(mode=0o700)
    (rig.folder / "secrets" / "hub.yaml").write_text(SECRET)
    (rig.folder / "secrets" / "hub.yaml").chmod(0o600)
    tiny = rig.read(TINY).replace("cpu: 10m", "cpu: 10m\n          nvidia.com/gpu: 1")
    tiny = tiny.replace("      args:\n", "      args:\n        - --chat-template=/chat/t.jinja\n")
    rig.write({TINY: tiny + MORE, "demo/chat.yaml": CHAT.format(text=TEMPLATE)})
    rig.registry.open.clear()
    rig.start()
    rig.wait(
        "the pull to begin", lambda: [one["state"] for one in (rig.service() or STAGING)["staging"]] == ["Running"]
    )
    rig.kill()
    rig.registry.open.set()
    rig.wait("it to go on without the daemon", lambda: rig.podman("images", "--quiet"))
    pulled = len(rig.registry.pulled)
    rig.start()
    rig.converge()
    assert rig.serves()
    assert len(rig.registry.pulled) == pulled, "it is not pulled again"
    (replica,) = rig.service()["replicas"]
    assert rig.environment().items() >= {"GAVE": replica["gpus"][0], "HF_TOKEN": TOKEN}.items()
    (unit,) = rig.units("active")
    path = "/run/reconciler-secrets/0/t.jinja"
    assert rig.podman("exec", unit.removesuffix(".service"), "cat", path) == TEMPLATE
    shown = [rig.machine.run("systemctl", word, unit) for word in ("show", "cat")]
    shown += [rig.machine.run("ps", "axww"), rig.podman("inspect", unit.removesuffix(".service"))]
    assert [text for text in shown if TOKEN in text] == []
    assert rig.podman("images", "--no-trunc", "--quiet").strip() == f"sha256:{replica['image']}"
    assert rig.told_of_preflight().splitlines() == [rig.machine.run("id", "-u", USER).strip(), *REFUSED, *NO_NETWORK]
    assert rig.ask("logs", "tiny").stdout.strip(), "its words are in the journal"

    with rig.load(streams=1, posts=1) as load:
        rig.edit(TINY, SEQS, "--max-num-seqs=12")
        rig.converge()
        rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1)
        # The registry has no such image: models keep serving, and says why it is not replaced.
        rig.edit(CPU, "image: .*", f"image: {NAME}@sha256:{'0' * 64}")
        blocked = rig.wait("the missing image to be told", lambda: (rig.service() or {}).get("blocked"))
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert (blocked[0]["code"], "manifest unknown" in blocked[0]["message"]) == ("ImagePullFailed", True)
    assert rig.serves()

    # The same by its digest is there already, so nothing is pulled.
    pulled = len(rig.registry.pulled)
    rig.edit(CPU, "image: .*", f"image: {NAME}@{rig.digest}")
    rig.converge()
    rig.wait("the old unit to be gone", lambda: len(rig.units()) == 1)
    assert rig.service()["replicas"][0]["image"] == replica["image"]
    assert len(rig.registry.pulled) == pulled

    before, (unit,) = rig.pids(), rig.units("active")
    rig.podman("kill", "--signal=KILL", unit.removesuffix(".service"))
    rig.wait("another one to serve", lambda: rig.pids() and not rig.pids() & before and rig.is_applied(), 40)
    rig.wait("the rest to be gone", lambda: len(rig.units()) == 1 and rig.containers() == 1, 40)
    rig.wait("it to serve", rig.serves)

    rig.kill()
    rig.registry.close()
    rig.machine.reboot()
    rig.wait("the unit to serve again, with nobody to ask for it", rig.serves)
    rig.start()
    rig.wait("the daemon to know it", lambda: (rig.service() or {}).get("ready") == "1/1")
    rig.write({TINY: None})
    rig.converge()
    rig.wait("its unit and its container to be gone", lambda: not rig.units() and not rig.containers())
