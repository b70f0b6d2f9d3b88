"""Run inside a machine: models that are fetched by units, on a real systemd. Prints what became of it, as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.config.settings import StorageSettings
from reconciler.errors import Retryable
from reconciler.host.staging import state as states
from reconciler.host.staging.fetcher import USER
from reconciler.host.staging.stager import Stager
from reconciler.host.systemd import fetch as fetch_unit
from reconciler.host.systemd.fetch import FetchUnit
from reconciler.host.systemd.systemd_api import Systemd
from reconciler.model import EnvVar, Fetch, Mount
from reconciler.secrets import NO_SECRETS
from reconciler.system import procfs
from reconciler.system.files import replace_file
from tests.host.staging.line import Line
from tests.host.staging.models import Models
from tests.host.staging.test_https import Web
from tests.host.staging.web import serve_files
from tests.source.https_server import make_certificate
from tests.support.world import eventually

TOKEN = "nobody-else-may-see-this"
MIB = 1 << 20
# Runs as the program, in its place: what does it see, and what may it do?
LOOK = """\
#!/usr/bin/python3 -IS
import json, os, sys
order = json.load(sys.stdin)
here = order["folder"]
status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines())
said = {"user": os.getuid(), "environ": open("/proc/self/environ").read()}
said |= {name: status[name] for name in ("NoNewPrivs", "Seccomp", "CapBnd")}
said |= {"argv": sys.argv, "nice": os.nice(0), "order": sorted(order), "mounted": os.listdir(os.path.dirname(here))}
said |= {"secret": os.path.exists("/var/lib/closed/secret"), "proc": [p for p in os.listdir("/proc") if p.isdigit()]}
said["package"] = os.access(os.path.join(os.path.dirname(sys.argv[-1]), "program.py"), os.W_OK)
for path in ("/etc/written", "/srv/written", "/var/lib/written", here + "/written"):
    try:
        open(path, "w").close()
    except OSError as error:
        said.setdefault("refused", []).append([path, error.errno])
print(json.dumps(said))
"""


class UnitModels(Models):
    """Models fetched by units."""

    def open(self) -> Stager:
        fetcher = FetchUnit("box", self.python, Systemd())
        stager = Stager(StorageSettings(), self.folder, fetcher, lambda: NO_SECRETS, self.woken.set)
        stager.subscribe()
        return stager

    def pid(self, mount: Mount) -> int:
        who = FetchUnit("box", self.python, Systemd()).find(self.folder / self.key(mount))
        return who.pid if who else 0

    def wait(self, mount: Mount) -> Any:
        eventually(lambda: self.look(mount).fetch is not Fetch.RUNNING, within=60)
        return self.look(mount)


def look(folder: Path) -> dict[str, Any]:
    """What a program sees that only looks."""
    script = Path("/srv/look")
    script.write_text(LOOK)
    script.chmod(0o755)
    models = UnitModels(folder, script)
    other = folder / "0123456789abcdef"
    other.mkdir(parents=True)
    mount = models.begin("https://127.0.0.1:9/model", {"TOKEN": TOKEN})
    outcome = models.wait(mount)
    said: dict[str, Any] = json.loads(models.log(mount))
    models.close()
    return said | {"reason": outcome.reason.code}


def fetch(web: Web) -> dict[str, Any]:
    """A real download: begun by a daemon of before, adopted by another one, killed, and done in the end."""
    folder, said = Path("/var/lib/closed/fetched"), dict[str, Any]()
    models = UnitModels(folder, Path(sys.argv[1]))
    mount = replace(web.mount("/llama.bin"), env=(*web.mount("").env, EnvVar("PASSED", TOKEN)))
    child = left_by_root(folder / models.key(mount))
    web.line.hold_after(4 * MIB)
    models.begin_mount(mount)
    said["child"] = child.wait(10)
    web.line.wait_until_stopped()
    models.stager.close()
    models.stager = models.open()
    eventually(lambda: models.look(mount).done > 3 * MIB, within=20)
    said["exposure"] = run("systemd-analyze", "security", "--no-pager", unit_of(models, mount)).splitlines()[-1]
    said["spied"] = spy(models.pid(mount), unit_of(models, mount))
    run("systemctl", "kill", "--signal=KILL", unit_of(models, mount))
    eventually(lambda: models.look(mount).fetch is Fetch.FAILED)
    said["cut"] = [models.look(mount).reason.code, models.look(mount).failures]
    web.line.repair()
    before = web.line.sent
    outcome = models.fetch_again(mount)
    said |= {"outcome": [outcome.fetch, outcome.done, outcome.failures], "again": web.line.sent - before}
    found = models.found(mount)
    said["same"] = (found / "llama.bin").read_bytes() == web.server.files["/llama.bin"]
    said["modes"] = [f"{path.owner()} {path.stat().st_mode & 0o777:o}" for path in (found, found / "llama.bin")]
    said["log"] = models.log(mount)
    models.close()
    return said


def left_by_root(folder: Path) -> subprocess.Popen[bytes]:
    """What a daemon of before left: its program was root, and its files are."""
    (folder / "unfinished").mkdir(parents=True)
    replace_file(folder / states.STATE, b'{"fetch": "failed", "failures": 2}')
    return left_running(folder)


def left_running(folder: Path) -> subprocess.Popen[bytes]:
    """A child that holds the lock as that program did."""
    with open(folder / states.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "987654"], pass_fds=[lock.fileno()])
        who = procfs.identify(child.pid)
        assert who is not None
        json.dump([who.pid, who.started, who.boot], lock)
    return child


def unit_of(models: Models, mount: Mount) -> str:
    return f"reconciler-fetch-box.{models.key(mount)}.service"


def spy(pid: int, unit: str) -> list[str]:
    """What others can learn of a program that runs: another one of its user, and whoever asks systemd."""
    user = pwd.getpwnam(USER)
    looks = ["environ", "fd/0", "root/etc/passwd"]
    same = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    words = [f"head -c 1 /proc/{pid}/{look}" for look in looks]
    open_to = [word for word in words if not subprocess.run(word.split(), capture_output=True, **same).returncode]
    shown = [run("systemctl", word, unit) for word in ("show", "cat", "status")] + [run("journalctl", "-o", "json")]
    return open_to + [text for text in shown if TOKEN in text]


def fail(folder: Path) -> list[str]:
    """Why nothing can be fetched."""
    folder.mkdir(mode=0o700)
    closed = folder / "python"
    closed.symlink_to(sys.executable)
    said = []
    for python, user in ((folder / "nothing", USER), (closed, USER), (closed, "nobody-there")):
        fetch_unit.USER = user
        models = UnitModels(folder / "models", python)
        try:
            models.begin("https://127.0.0.1:9/model")
        except Retryable as error:
            said.append(str(error))
        models.close()
    fetch_unit.USER = USER
    return said


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def main() -> None:
    closed = Path("/var/lib/closed")
    closed.mkdir(mode=0o700)
    (closed / "secret").write_text(TOKEN)
    ca, own = make_certificate(Path(tempfile.mkdtemp()))
    said = {"uid": pwd.getpwnam(USER).pw_uid, "seen": look(closed / "models"), "failed": fail(closed / "failed")}
    with serve_files(own) as server:
        server.files["/llama.bin"] = os.urandom(8 * MIB)
        web = Web(server, Line(server.server_address[1]), ca)
        said |= fetch(web)
        web.line.close()
    said["left"] = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "reconciler-fetch-*")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
