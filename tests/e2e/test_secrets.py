"""A service with secrets, from a push to a served request: who gets them, and where they must not be found."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from reconciler.system import procfs
from tests.e2e.conftest import MakeRig
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

KEY, TOKEN, LEAKED = "sk-neverWrittenDown123", "hf-neverWrittenDown456", "pw-neverShown789"
SECRET = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\nstringData: {{key: {KEY}, token: {TOKEN}}}\n"
PLAIN = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: other}}\nstringData: {{password: {LEAKED}}}\n"
ENV = """\
      env:
        - {name: VLLM_API_KEY, valueFrom: {secretKeyRef: {name: hub, key: key}}}
      envFrom:
        - {prefix: HUB_, secretRef: {name: hub}}
"""


def test_secrets_reach_the_engine_and_nothing_that_is_kept_or_shown(make_rig: MakeRig):
    rig = make_rig()
    folder = rig.folder / "secrets"
    folder.mkdir(mode=0o700)
    settings = yaml.safe_load(rig.config.read_text())
    settings["targets"][0]["secrets"] = {"directory": str(folder)}
    rig.config.write_text(yaml.safe_dump(settings))
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml") + ENV, "demo/plain.yaml": PLAIN})
    rig.start()

    blocked = rig.wait("the service to be blocked", lambda: (rig.service() or {}).get("blocked"))
    assert {each["code"] for each in blocked} == {"SecretNotFound"}
    put(folder / "hub.yaml", SECRET)
    rig.ask("sync", expect=1)
    rig.wait("the service to run", lambda: (rig.service() or {"sync": ""})["sync"] == "Synced")

    env = environment(rig)
    assert (env["VLLM_API_KEY"], env["HUB_token"]) == (KEY, TOKEN)
    assert (ask(rig, KEY), ask(rig, "wrong")) == (200, 401)

    before = rig.pids()
    put(folder / "hub.yaml", SECRET.replace(KEY, "sk-another"))
    said = rig.ask("sync", expect=1)
    assert "demo/plain.yaml:4: Secret other: its data is in git unencrypted" in said.stdout + said.stderr
    assert (rig.pids(), (rig.service() or {})["health"]["status"]) == (before, "Healthy")
    assert not found_in(rig)


def put(path: Path, text: str) -> None:
    """As people should: closed to others before anything is in it, and as a whole."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def environment(rig: Rig) -> dict[str, str]:
    (pid,) = rig.pids()
    pairs = (entry.decode(errors="replace").partition("=") for entry in procfs.read_environment(pid))
    return {name: value for name, _, value in pairs}


def ask(rig: Rig, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 2}'
    request = urllib.request.Request(f"{rig.url}/default/tiny/v1/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def found_in(rig: Rig) -> list[str]:
    """Everything that keeps or shows a value."""
    values = [value.encode() for value in (KEY, TOKEN, LEAKED)]
    files = [path for path in (rig.folder / "state").rglob("*") if path.is_file()] + [rig.folder / "daemon.log"]
    assert any(path.name == "record.json" for path in files)
    kept = [str(path) for path in files if any(value in path.read_bytes() for value in values)]
    commands = [["status", "-o", "json"], ["plan", "-o", "json"], ["diff"], ["history"], ["logs", "default/tiny"]]
    commands += [[verb, str(rig.clone), "--target", "demo", "-o", "json"] for verb in ("render", "validate")]
    for command in commands:
        done = rig.ask(*command, expect=None)
        kept += [" ".join(command)] * any(value in (done.stdout + done.stderr).encode() for value in values)
    (pid,) = rig.pids()
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return kept + ["argv"] * any(value in words for value in values)


CHAT = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: chat}}\ndata: {{t.jinja: "{text}"}}\n'
MOUNTED = """\
      volumeMounts:
        - {name: chat, mountPath: /mnt/chat}
    volumes:
      - {name: chat, configMap: {name: chat}}
"""


def test_template_of_a_config_map_is_served_and_its_change_rolls_out(make_rig: MakeRig):
    rig = make_rig()
    tiny = rig.read("demo/tiny.yaml")
    assert "      args:\n" in tiny
    text = tiny.replace("      args:\n", "      args:\n        - --chat-template=/mnt/chat/t.jinja\n") + MOUNTED
    rig.write({"demo/tiny.yaml": text, "demo/chat.yaml": CHAT.format(text="one {{ messages[0].content }}")})
    rig.start()
    rig.wait("the service to run", lambda: (rig.service() or {"sync": ""})["sync"] == "Synced")
    (before,) = rig.pids()
    assert template_of(before) == "one {{ messages[0].content }}"
    rig.write({"demo/chat.yaml": CHAT.format(text="two {{ messages[0].content }}")})
    rig.wait("the new template", lambda: [template_of(pid)[:3] for pid in rig.pids()] == ["two"])


def template_of(pid: int) -> str:
    """Empty for a process that is no engine yet, or not any more."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        (path,) = [word.partition("=")[2] for word in words if word.startswith("--chat-template=")]
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""
