"""The demo as a newcomer runs it, with real engines, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.settings import Settings
from reconciler.demo.place import is_free

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "reconciler", "demo", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that work in or on this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = os.readlink(process / "cwd")
            except OSError:
                continue
            if str(folder) in words or where.startswith(str(folder)):
                found.append(words)
    return found


def listen_of(folder: Path) -> str:
    return Settings.load(folder / "config.yaml").targets[0].routing.listen


def completion(listen: str) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"http://{listen}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def test_demo_on_stock_entry_point_keeps_its_promises_and_leaves_nothing(stock_python: Path, tmp_path: Path) -> None:
    done = demo("--once", "--python", str(stock_python), "--dir", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"requests [1-9]\d+, lost 0\n", done.stdout)
    assert re.search(r"refused: .*demo/tiny\.yaml:\d+.*--max-modle-len.*--max-model-len", done.stdout)
    assert processes_of(tmp_path / "demo") == []
    assert is_free(listen_of(tmp_path / "demo"))


def test_demo_stays_running_is_taken_up_again_and_stops(engine_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    try:
        first = demo("--python", str(engine_python), "--dir", str(folder))
        assert first.returncode == 0, first.stdout + first.stderr
        assert f"git clone {folder / 'repo.git'}" in first.stdout
        assert completion(listen_of(folder))["usage"]["completion_tokens"] == 5
        daemon = (folder / "daemon.json").read_bytes()
        again = demo("--dir", str(folder))
        assert again.returncode == 0, again.stdout + again.stderr
        assert (folder / "daemon.json").read_bytes() == daemon
    finally:
        stopped = demo("--stop", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert processes_of(folder) == []
    assert is_free(listen_of(folder))
