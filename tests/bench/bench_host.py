"""The daemon on a host whose services are units of a real systemd. Prints JSON.

How soon are manual changes noticed and repaired, what does a pass cost that changes nothing, and what does
the daemon cost while nothing happens? Engines are in name only. Root only.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.machines.light import LightRig
from tests.machines.machine import NoMachine, check

SIZES = (0, 8, 64)
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 15.0
TRIES = 4
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def main() -> dict[str, float]:
    rig = LightRig(Path("/run") / f"reconciler-bench-{os.getpid()}")
    figures: dict[str, float] = {}
    try:
        # As users have it: ours polls git every few seconds.
        rig.write_config(interval="60s")
        for size in SIZES:
            rig.fill(size)
            if size == SIZES[0]:
                rig.start()
            rig.converge(600)
            figures |= {f"idle_{size}_units_{name}": value for name, value in idle(rig).items()}
            if size == 8:
                figures |= repairs(rig)
        rig.kill()
        figures |= {f"noop_pass_{SIZES[-1]}_units_{name}": value for name, value in passes(rig).items()}
        rig.start()
        figures |= {f"idle_{SIZES[-1]}_units_restarted_{name}": value for name, value in idle(rig).items()}
    finally:
        rig.close()
    return figures


# ---------------------------------------------------------------- while nothing happens


def idle(rig: LightRig) -> dict[str, float]:
    """Percent of a core, wake-ups per minute and memory, once things are settled."""
    time.sleep(SETTLE_SECONDS)
    pid = rig.daemon()
    before, began = spent(pid), time.monotonic()
    time.sleep(IDLE_SECONDS)
    after, seconds = spent(pid), time.monotonic() - began
    own, children, wakes = (late - early for late, early in zip(after, before, strict=True))
    return {
        "cpu_percent": round(own / seconds / 10, 3),
        "cpu_of_children_percent": round(children / seconds / 10, 3),
        "wakes_per_minute": round(wakes * 60 / seconds, 1),
        "rss_mb": round(int(field(f"/proc/{pid}/status", "VmRSS")) * 1024 / 1e6, 1),
        "peak_rss_mb": round(int(field(f"/proc/{pid}/status", "VmHWM")) * 1024 / 1e6, 1),
    }


def spent(pid: int) -> tuple[float, float, float]:
    """Milliseconds of a process so far, of its children that ended, and how often its threads woke up."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, user_below, system_below = (int(word) * _TICK_MS for word in words[11:15])
    wakes = sum(int(field(str(path), "voluntary_ctxt_switches")) for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return user + system, user_below + system_below, wakes


def field(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


# ---------------------------------------------------------------- passes


def passes(rig: LightRig) -> dict[str, float]:
    """What a whole pass costs that changes nothing, after one that reads everything again."""
    found = rig.passes(30)
    return {name: found[name] for name in ("ms", "cpu_ms", "first_ms", "trips")}


# ---------------------------------------------------------------- what is done by hand


def repairs(rig: LightRig) -> dict[str, float]:
    """Milliseconds from a manual change to the first log entry about it, and to systemd's start of the successor."""
    said: dict[str, list[float]] = {}
    for one_pass in range(TRIES):
        for n, (name, harm) in enumerate(HARMS.items()):
            # Another service each time: one that ends twice is restarted more slowly.
            service = f"s{(one_pass + 2 * n) % 8}"
            rig.wait("quiet", lambda: rig.is_settled(), 120)
            for what, value in harm(rig, service).items():
                said.setdefault(f"{name}_{what}", []).append(value)
    return {f"{name}_{p}": round(pick(all_), 1) for name, all_ in said.items() for p, pick in PICKS.items()}


PICKS: dict[str, Callable[[list[float]], float]] = {"ms_p50": statistics.median, "ms_max": max}


def killed(rig: LightRig, service: str) -> dict[str, float]:
    unit = rig.unit_of(service)
    return after(rig, service, lambda: rig.machine.run("systemctl", "kill", "--signal=KILL", unit))


def stopped(rig: LightRig, service: str) -> dict[str, float]:
    unit = rig.unit_of(service)
    return after(rig, service, lambda: rig.machine.run("systemctl", "stop", unit))


def edited(rig: LightRig, service: str) -> dict[str, float]:
    path = rig.machine.root / "etc/systemd/system" / rig.unit_of(service)

    def edit() -> None:
        path.write_text(path.read_text() + "\n[Service]\nRestart=no\n")
        rig.machine.run("systemctl", "daemon-reload")

    return {"to_repair": put_back(rig, path, edit)}


def deleted(rig: LightRig, service: str) -> dict[str, float]:
    path = rig.machine.root / "etc/systemd/system" / rig.unit_of(service)

    def delete() -> None:
        path.unlink()
        rig.machine.run("systemctl", "daemon-reload")

    return {"to_repair": put_back(rig, path, delete)}


HARMS: dict[str, Callable[[LightRig, str], dict[str, float]]] = {
    "kill_9": killed,
    "stop": stopped,
    "edit": edited,
    "delete": deleted,
}


def after(rig: LightRig, service: str, harm: Callable[[], object]) -> dict[str, float]:
    began = time.time()
    harm()
    started = rig.wait("its successor", lambda: rig.started_after(service, began), 120)
    # The entry comes when the pass is over.
    noticed = rig.wait("a word about it", lambda: first_word(rig, service, began), 120)
    return {"to_notice": 1000 * (noticed - began), "to_start": 1000 * (started - began)}


def first_word(rig: LightRig, service: str, since: float) -> float | None:
    return min((at for at, about in rig.told() if about == f"default/{service}" and at > since), default=None)


def put_back(rig: LightRig, path: Path, harm: Callable[[], object]) -> float:
    written, began = path.read_bytes(), time.time()
    harm()
    rig.wait("the unit as it was", lambda: path.exists() and path.read_bytes() == written, 120)
    return 1000 * (path.stat().st_mtime - began)


if __name__ == "__main__":
    try:
        check()
    except NoMachine as error:
        print(json.dumps({"skipped": str(error)}))
    else:
        print(json.dumps(main()))
