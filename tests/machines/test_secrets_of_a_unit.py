"""A service whose Secret is a credential of the daemon's own unit, on a real systemd."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.test_secrets import CHAT, KEY, SECRET, TOKEN, ask
from tests.machines.conftest import MakeRig
from tests.machines.rig import ROOT, USER, MachineRig

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

TINY = "demo/tiny.yaml"
TEMPLATE = "{{ messages[0].content }}"
MORE = """\
      env:
        - {name: VLLM_API_KEY, valueFrom: {secretKeyRef: {name: hub, key: key}}}
      volumeMounts:
        - {name: keys, mountPath: /keys, readOnly: true}
        - {name: chat, mountPath: /chat}
    volumes:
      - {name: chat, configMap: {name: chat}}
      - {name: keys, secret: {secretName: hub, items: [{key: token, path: token}]}}
"""


def test_credential_of_daemon_reaches_unit_and_nobody_who_may_ask_about_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    tiny = rig.read(TINY).replace("      args:\n", "      args:\n        - --chat-template=/chat/t.jinja\n")
    rig.write({TINY: tiny + MORE, "demo/chat.yaml": CHAT.format(text=TEMPLATE)})
    start_as_unit(rig)
    rig.converge()
    (unit,) = rig.units("active")
    pid = rig.machine.run("systemctl", "show", "-P", "MainPID", unit).strip()
    assert f"VLLM_API_KEY={KEY}" in rig.machine.run("cat", f"/proc/{pid}/environ").split("\0")
    path = "/run/reconciler-secrets/0/token"
    inside = rig.machine.run("nsenter", "-t", pid, "-m", "sh", "-c", f"stat -c '%a %U' {path}; cat {path}")
    assert inside == f"400 {USER}\n{TOKEN}"
    path = "/run/reconciler-secrets/1/t.jinja"
    inside = rig.machine.run("nsenter", "-t", pid, "-m", "sh", "-c", f"stat -c '%a %U' {path}; cat {path}")
    assert inside == f"400 {USER}\n{TEMPLATE}"
    assert (ask(rig, KEY), ask(rig, "wrong")) == (200, 401)

    shown = [rig.machine.run("systemctl", *words) for words in (["show", unit], ["cat", unit], ["status", unit])]
    shown += [rig.machine.run("journalctl", "--no-pager", "-o", "json"), rig.words(10_000), rig.ask("status").stdout]
    shown += [path.read_text() for path in (rig.folder / "state").rglob("record.json")]
    assert [text for text in shown if KEY in text or TOKEN in text] == []
    kept = [path for path in (rig.folder / "state").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert [(path.name, oct(path.stat().st_mode & 0o777)) for path in kept] == [("environment", "0o600")]


def start_as_unit(rig: MachineRig) -> None:
    """The daemon as a service that is handed the Secret as systemd does it."""
    source = rig.folder / "hub.yaml"
    source.write_text(SECRET)
    source.chmod(0o600)
    words = ["systemd-run", "--wait", "--pipe", "--quiet", "--unit=the-daemon", "--property=KillMode=process"]
    words += [f"--property=LoadCredential=hub.yaml:{source}", f"--setenv=PYTHONPATH={ROOT}"]
    words += [sys.executable, "-m", "reconciler", "run", "--config", str(rig.config)]
    with open(rig.folder / "daemon.log", "ab") as log:
        rig.process = subprocess.Popen(rig.inside(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
