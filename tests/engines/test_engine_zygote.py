"""The preloaded interpreter must behave as a real one, or every test on top of it proves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.engine.fixtures import HERE, engine_processes

pytestmark = pytest.mark.engine


def run(python: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_it_runs_code_modules_and_scripts(engine_python: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys; print(__name__, sys.argv, sys.path[0])")
    assert run(engine_python, "-c", "import sys; print(sys.argv)", "a b").stdout == "['-c', 'a b']\n"
    assert run(engine_python, "-m", "base64", "-t").stdout.startswith("b'Aladdin")
    script = run(engine_python, "-I", str(tmp_path / "script.py"), "--flag").stdout
    assert script == f"__main__ ['{tmp_path}/script.py', '--flag'] {tmp_path}\n"


def test_it_has_the_callers_environment_folder_and_streams(engine_python: Path, tmp_path: Path) -> None:
    code = "import os, sys; print(dict(os.environ).get('ONE'), os.getcwd(), sys.stdin.read())"
    done = run(engine_python, "-c", code, env={"ONE": "1"}, cwd=tmp_path, input="in")
    assert done.stdout == f"1 {tmp_path} in\n"
    assert run(engine_python, "-c", "import os; print(os.environ.get('ONE'))", env={}).stdout == "None\n"


def test_it_exits_as_the_program_does(engine_python: Path) -> None:
    assert run(engine_python, "-c", "raise SystemExit(7)").returncode == 7
    failed = run(engine_python, "-c", "1 / 0")
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    assert run(engine_python, "-c", "import sys; sys.exit('no')").returncode == 1
    assert run(engine_python, "-c", "import os; os.kill(os.getpid(), 15)").returncode == -signal.SIGTERM


def test_signals_are_passed_on(engine_python: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('up', flush=True); signal.pause()"
    process = subprocess.Popen([engine_python, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(30) == 3


def test_killing_the_caller_kills_all_of_its_program(engine_python: Path) -> None:
    code = "import os, signal; os.fork(); print('up', flush=True); signal.pause()"
    process = subprocess.Popen([engine_python, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    pids = engine_processes(engine_python, process.pid)
    assert len(pids) == 2
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    while any(is_alive(pid) for pid in pids):
        time.sleep(0.01)


def test_without_a_zygote_it_fails_clearly(tmp_path: Path) -> None:
    done = run(Path(sys.executable), "-IS", str(HERE / "caller.py"), str(tmp_path / "zygote.sock"), "-V")
    assert done.returncode == 75
    assert "no preloaded interpreter listens" in done.stderr


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
