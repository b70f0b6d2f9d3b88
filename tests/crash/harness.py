"""Lives a replica's whole life on a host again and again, each time with a daemon killed one step later.

    harness.py FOLDER FIRST EVERY

A step is anything that changes the world: a write, a rename, a deletion, a spawn, a signal. The first daemon is killed
just before step N, for every N from FIRST in strides of EVERY; a second one goes on with the action that the first was
at. Nothing may be started twice, nothing may be left. Prints the first N that was never reached, or what went wrong
and exits with 1.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.config import settings as config
from reconciler.host.process import scratch
from reconciler.host.process.process_discovery import ProcessDiscovery, Trace, marker_of
from reconciler.host.target import HostTarget
from reconciler.model import (
    Action,
    Drain,
    EffectiveSpec,
    EnvVar,
    Forget,
    Lease,
    MarkReady,
    Mount,
    NoteCrash,
    Observed,
    Promote,
    Promoted,
    Relabel,
    Remove,
    ReplicaId,
    SecretMount,
    Start,
    Stop,
    TakeOwnership,
    Undrain,
)
from reconciler.secrets import SecretStore, StoredSecret
from tests.support.arguments import written
from tests.support.ports import free_port
from tests.support.world import ORIGIN, SERVICE, eventually, is_up, record

DIGEST, OTHER = "a" * 64, "b" * 64
REPLICA = ReplicaId(SERVICE, "aaaaaaaa-0")
SPEC = EffectiveSpec(
    image="standin:1",
    command=written("python", "-m", "vllm.entrypoints.openai.api_server"),
    args=written("--model", "/mnt/models"),
    mounts=(Mount("pvc://models/tiny"),),
)
_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "subprocess.Popen"}


def settings(folder: Path) -> config.HostSettings:
    """A host whose only interpreter is a stand-in. `make_ready` puts down what it names."""
    return config.HostSettings.model_validate(
        {
            "name": "box",
            "paths": ["hosts/box"],
            "engines": [{"image": "standin:*", "python": folder / "python"}],
            "volumes": {"models": folder / "models"},
            "gpus": [],
        }
    )


def make_ready(folder: Path) -> None:
    """The interpreter and the weights."""
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -IS {Path(__file__).parents[1] / "support" / "standin.py"} "$@"\n'
    )
    python.chmod(0o755)


def life(port: int) -> list[Action]:
    """Everything that can be done to one service on one host, once."""
    env = (EnvVar("STANDIN", f"--child plain --shared-memory {shared_name(port)}"),)
    spec = replace(SPEC, env=env, secrets=(SecretMount("hub", "/keys"),))
    promoted = Promoted(DIGEST, spec, 1, ORIGIN, "1" * 40, 1.0)
    return [
        TakeOwnership(SERVICE, ORIGIN, "t"),
        Start(REPLICA, DIGEST, spec, ORIGIN, Lease(port), 5.0, "", "1" * 40, "t"),
        MarkReady(REPLICA, "t"),
        Promote(SERVICE, promoted, "t"),
        Relabel(REPLICA, OTHER, spec, ORIGIN, "t"),
        Drain(REPLICA, "t"),
        Undrain(REPLICA, "t"),
        Drain(REPLICA, "t"),
        Stop(REPLICA, "t"),
        Stop(REPLICA, "t", force=True),
        NoteCrash(REPLICA, "run", 2.0, "t"),
        Remove(REPLICA, "t"),
        Forget(SERVICE, "t"),
    ]


def shared_name(port: int) -> str:
    return f"psm_standin_{os.getuid()}_{port}"


def play(folder: Path, port: int, kill_at: int | None, resume_at: int) -> None:
    """Perform the actions as a daemon would that has just come up."""
    progress = os.open(folder / "progress", os.O_WRONLY | os.O_CREAT)
    if kill_at is not None:
        kill_before(kill_at)
    secret = StoredSecret("default", "hub", ORIGIN, {"token": b"t"})
    secrets = SecretStore({secret.key: secret})
    target = HostTarget(settings(folder), folder / "state", lambda: None, lambda: secrets)
    target.lock()
    for number, action in enumerate(life(port)):
        if number < resume_at:
            continue
        os.pwrite(progress, b"%3d" % number, 0)
        target.perform(action)
        if isinstance(action, Start):
            observed = target.observe(())
            assert isinstance(observed, Observed), observed
            assert [replica.alive for replica in observed.replicas] == [True]
            assert len(mains(folder)) == 1, "started twice"
            eventually(lambda: is_up(folder / "state" / "replicas" / str(REPLICA) / "log"))


def kill_before(kill_at: int) -> None:
    """Count the steps, and die just before the chosen one."""
    count = 0

    def step() -> None:
        nonlocal count
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _STEPS or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            step()

    send = signal.pidfd_send_signal

    def counted(*args: Any) -> None:
        step()
        send(*args)

    signal.pidfd_send_signal = counted
    sys.addaudithook(hook)


def in_a_daemon(folder: Path, port: int, kill_at: int | None, resume_at: int) -> tuple[int, int]:
    """How a forked daemon ended, and the number of the action that it was at."""
    (folder / "progress").write_text(f"{resume_at:3}")
    pid = os.fork()
    if pid == 0:
        try:
            play(folder, port, kill_at, resume_at)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status), int((folder / "progress").read_text())


def mains(folder: Path) -> list[int]:
    """The main processes of the replica, recorded or not."""
    marker = marker_of(folder / "state", REPLICA)
    trace = Trace(replace(record(), id=REPLICA), marker, "no log")
    return [seen.who.pid for seen in ProcessDiscovery().members(trace) if seen.session == seen.who.pid]


def leftovers(folder: Path, port: int) -> list[str]:
    """Whatever is still there though everything was removed."""
    state = folder / "state"
    trace = Trace(
        replace(record(), id=REPLICA), marker_of(state, REPLICA), str(state / "replicas" / str(REPLICA) / "log")
    )
    left = [f"process {seen.who.pid}" for seen in ProcessDiscovery().members(trace)]
    left += [str(path) for name in ("replicas", "services", "tmp") for path in (state / name).rglob("*")]
    places = (
        scratch.folder_of(state, REPLICA),
        scratch.private_of(state, REPLICA),
        Path("/dev/shm") / shared_name(port),
    )
    return left + [str(path) for path in places if path.exists()]


def main() -> int:
    base, first, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for kill_at in itertools.count(first, every):
        folder, port = base / str(kill_at), free_port()
        folder.mkdir()
        make_ready(folder)
        end, at = in_a_daemon(folder, port, kill_at, 0)
        if end not in (0, -signal.SIGKILL):
            print(f"step {kill_at}: the first daemon failed in action {at}")
            return 1
        if end:
            again, at = in_a_daemon(folder, port, None, at)
            if again:
                print(f"step {kill_at}: the second daemon failed in action {at}")
                return 1
        if left := leftovers(folder, port):
            print(f"step {kill_at}: left over: {left}")
            return 1
        if not end:
            print(kill_at)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
