"""One GPU for two services, end to end: leased in parts, passed to the engine, and found again by the next daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.system import procfs
from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

GPU = "GPU-00000000-0000-0000-0000-000000000000"


def phase(rig: Rig, name: str) -> str:
    service = rig.service(name)
    return service["health"]["status"] if service else ""


def leases(rig: Rig) -> list[tuple[str, float]]:
    status = rig.status()
    (device,) = status["targets"][0]["gpus"]["devices"] if status else [{"leases": []}]
    return sorted((lease["replica"].split(".")[1], lease["fraction"]) for lease in device["leases"])


def on_gpu(text: str, name: str, fraction: str = "") -> dict[str, str]:
    """The example service by another name and with a GPU, or a part of one."""
    text = text.replace("  name: tiny\n", f"  name: {name}\n")
    if fraction:
        text = text.replace("  annotations:\n", f'  annotations:\n    reconciler/gpu-memory-fraction: "{fraction}"\n')
    return {f"demo/{name}.yaml": text.replace("cpu: 10m", "cpu: 10m\n          nvidia.com/gpu: 1")}


def test_two_services_share_a_gpu_and_a_third_waits_until_it_is_whole(make_rig: MakeRig):
    rig = make_rig(gpus=(GPU,))
    text = rig.read("demo/tiny.yaml")
    rig.write({"demo/tiny.yaml": None, **on_gpu(text, "chat", "0.4"), **on_gpu(text, "code", "0.5")})
    rig.start()
    rig.wait("both to serve", lambda: {phase(rig, name) for name in ("chat", "code")} == {"Healthy"})
    assert rig.serves("chat")
    assert rig.serves("code")
    assert leases(rig) == [("chat", 0.4), ("code", 0.5)]
    for name, fraction in (("chat", "0.4"), ("code", "0.5")):
        (pid,) = rig.pids(name)
        assert f"--gpu-memory-utilization={fraction}" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert f"CUDA_VISIBLE_DEVICES={GPU}".encode() in procfs.read_environment(pid)

    before = rig.pids("chat") | rig.pids("code")
    rig.kill()
    rig.write({**on_gpu(text, "whole"), **on_gpu(text, "half", "0.5")}, "Ask for more")
    rig.start()
    rig.wait("both to be blocked", lambda: all((rig.service(name) or {}).get("blocked") for name in ("whole", "half")))
    held = "held by default/chat (0.4), default/code (0.5)"
    assert [rig.service(name)["blocked"][0]["message"] for name in ("whole", "half")] == [
        f"needs 1 nvidia.com/gpu, 0 of 1 free; {held}",
        f"needs 0.5 of a nvidia.com/gpu, at most 0.1 of one is free; {held}",
    ]
    assert rig.pids("chat") | rig.pids("code") == before

    rig.write({"demo/chat.yaml": None, "demo/code.yaml": None, "demo/half.yaml": None}, "Make room")
    rig.wait("the whole GPU to be leased", lambda: phase(rig, "whole") == "Healthy")
    assert leases(rig) == [("whole", 1)]
