"""Run inside a machine: engines that are asked in a sandbox, on a real systemd. Prints what became of it, as JSON."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import Begin, PreflightRunner, key_of
from reconciler.errors import Retryable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.systemd.preflight import PreflightSandbox, command, tell, variables_of
from reconciler.model import NO_ORIGIN, Argument
from tests.support.world import eventually

FOLDER = Path("/srv/asking")
MODEL = FOLDER / "closed" / 'a "model" with 100% $HOME'
ODD = "$HOME ${HOME} %n ; \\ \" ' é\nend"
LOOK = """\
#!/usr/bin/python3 -IS
import json, os, sys
said = {"odd": os.environ["ODD"], "names": sorted(os.environ), "request": json.load(sys.stdin), "script": sys.argv[1]}
said |= {"user": os.getuid(), "model": os.listdir("/mnt/models"), "oom": open("/proc/self/oom_score_adj").read()}
said |= {"nice": os.nice(0), "closed": any(os.scandir("/srv/asking/closed"))}
said |= {"status": open("/proc/self/status").read()}
print(json.dumps({"parsed": json.dumps(said), "gpus": 1, "errors": [], "warnings": []}))
"""
HANG = "#!/bin/sh\nsleep 987654 & exec sleep 987654\n"


def engine(name: str, text: str) -> Path:
    path = FOLDER / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def ask(asked: PreflightQuestion, begin: Begin, timeout: float = 60.0) -> str:
    """What the engine parsed, or why it cannot be asked."""
    woken = threading.Event()
    runner = PreflightRunner(FOLDER / "cache", woken.set, timeout, begin)
    try:
        runner.ask(asked)
        assert woken.wait(90)
        runner.ask(asked)
        verdict = runner.result(key_of(asked))
        return verdict.parsed if verdict else "no verdict"
    except Retryable as error:
        return str(error)
    finally:
        runner.close()


def units() -> str:
    listed = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "reconciler-preflight-*"]
    return subprocess.run(listed, check=True, capture_output=True, text=True).stdout


def main() -> None:
    MODEL.mkdir(parents=True)
    (MODEL / "config.json").write_text("{}")
    MODEL.parent.chmod(0o700)
    sandbox = PreflightSandbox("box", "daemon", Gpus(()))
    env = {"HOME": "/var/cache/reconciler/asking", "ODD": ODD, "HF_TOKEN": "hunter2", "strange-name": "x"}
    look = PreflightQuestion(
        engine("look", LOOK), (Argument("--x", NO_ORIGIN),), env, {"/mnt/models": str(MODEL)}, mounted=True
    )
    said = {"seen": ask(look, sandbox.begin)}
    eventually(lambda: not units(), 10)
    hangs = replace(look, python=engine("hangs", HANG))
    said["slow"] = ask(hangs, sandbox.begin, 1.5)
    eventually(lambda: not units(), 10)
    said["missing"] = ask(replace(look, python=FOLDER / "nothing"), sandbox.begin)
    said["stranger"] = ask(replace(look, python=FOLDER / "other"), replace(sandbox, user="nobody-there").begin)
    # Nobody is left to end it.
    left = "reconciler-preflight-left.service"
    tell(hangs, variables_of(left), "daemon")
    argv = command(hangs, left, "daemon", (), 2)
    assert ODD not in " ".join(argv)
    waits = subprocess.Popen(argv)
    eventually(lambda: "running" in units(), 10)
    waits.kill()
    waits.wait()
    eventually(lambda: not units(), 20)
    said["left"] = subprocess.run(["pgrep", "-f", "987654"], capture_output=True, text=True, check=False).stdout
    said["files"] = " ".join(str(path) for path in Path("/run").glob("*.environment"))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
