"""The command line as users meet it: the real entry point in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from reconciler import __version__
from reconciler.build import build_id
from reconciler.cli import cli
from reconciler.config.settings import Settings
from reconciler.web.metrics import Metrics
from reconciler.web.server import WebSide
from tests.support.report_world import rejection, report, status_of, with_service
from tests.web.fake_loop import FakeLoop

COMMANDS = [
    "demo",
    "diff",
    "doctor",
    "history",
    "host",
    "init",
    "logs",
    "open",
    "plan",
    "render",
    "restart",
    "resume",
    "run",
    "status",
    "suspend",
    "target",
    "sync",
    "validate",
    "approve",
    "version",
]
# Most tests start the command in a process of its own.
pytestmark = pytest.mark.slow
CONTAINERFILE = Path(__file__).parents[2] / "Containerfile"
ENTRY = Path(sys.executable).with_name("reconciler")


@dataclass(frozen=True)
class Shell:
    """Runs `reconciler` with one config."""

    config: Path

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": os.environ["PATH"], "RECONCILER_CONFIG": str(self.config), **environment}
        return subprocess.run([ENTRY, *arguments], env=known, capture_output=True, text=True, timeout=120)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "source": {"url": str(tmp_path / "no-repository")},
                "targets": [{"name": "a", "paths": ["hosts/a"]}],
                "state_dir": str(tmp_path / "state"),
                "web": {"listen": "127.0.0.1:0"},
            }
        )
    )
    return Shell(path)


@pytest.fixture
def loop(shell: Shell) -> Iterator[FakeLoop]:
    """A daemon that only answers, on the socket of the config."""
    answering = FakeLoop()
    with answered_by(shell, answering):
        yield answering


@contextmanager
def answered_by(shell: Shell, answering: FakeLoop) -> Iterator[None]:
    side = WebSide(Settings.load(shell.config), answering, Metrics())
    side.start()
    try:
        yield
    finally:
        side.stop()


# ---------------------------------------------------------------- help and usage


def test_help_names_every_command_and_every_exit_code(shell: Shell) -> None:
    answer = shell("--help")
    assert answer.returncode == 0
    assert sorted(cli.commands) == sorted(COMMANDS)
    assert all(f"\n  {name}  " in answer.stdout for name in COMMANDS)
    assert all(f"\n    {code}  " in answer.stdout for code in range(4))


def test_help_imports_nothing_heavy() -> None:
    heavy = ("pydantic", "rich", "starlette", "uvicorn", "structlog", "deepdiff", "yaml", "git", "prometheus_client")
    code = (
        "import sys\nfrom reconciler.cli import run\ncode = run(['--help'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr.strip()) == (0, "[]")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(shell: Shell, command: str) -> None:
    answer = shell(command, "-h")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"Usage: reconciler {command} ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["status", "-o", "xml"],
        ["history", "-n", "0"],
        ["logs"],
        ["validate"],
        ["validate", "/no/such/file"],
        ["sync", "--timeout", "soon"],
        ["demo", "--port", "99999"],
    ],
)
def test_wrong_usage_is_code_2_and_says_what_is_right(shell: Shell, arguments: list[str]) -> None:
    answer = shell(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Error: " in answer.stderr
    assert "Traceback" not in answer.stderr


def test_version_is_printed(shell: Shell) -> None:
    assert shell("version").stdout == f"{__version__}\n"


def test_module_can_be_run_too() -> None:
    answer = subprocess.run([sys.executable, "-m", "reconciler", "version"], capture_output=True, timeout=60)
    assert answer.returncode == 0


# ---------------------------------------------------------------- terminals, pipes and closed streams


def test_version_is_also_an_option(shell: Shell) -> None:
    answer = shell("--version")
    assert (answer.returncode, answer.stdout) == (0, f"reconciler {shell('version').stdout}")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("arguments", [["status"], ["status", "tiny"], ["status", "-o", "json"]])
def test_terminal_that_lacks_signs_gets_others(
    shell: Shell, loop: FakeLoop, arguments: list[str], encoding: str
) -> None:
    rejected = {**_rejected(), "reason": "a → b… “c” ü \U0001f600"}
    loop.document = with_service(loop.document, sync="OutOfSync", rejected=rejected)
    env = {"PATH": os.environ["PATH"], "RECONCILER_CONFIG": str(shell.config), "PYTHONIOENCODING": encoding}
    answer = subprocess.run([ENTRY, *arguments], env=env, capture_output=True, encoding=encoding, timeout=120)
    assert (answer.returncode, answer.stderr) == (1, "")
    assert ("a → b… “c” ü" in answer.stdout) == (encoding == "utf-8" and "json" not in arguments)
    assert "json" in arguments or encoding == "utf-8" or "a -> b" in answer.stdout


def _redirected(shell: Shell, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `reconciler` with streams as a shell leaves them."""
    env = {"PATH": os.environ["PATH"], "RECONCILER_CONFIG": str(shell.config)}
    words = ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", ENTRY, *arguments]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("code", "arguments"),
    [(0, ["version"]), (0, ["--help"]), (1, ["host", "doctor"]), (3, ["status"]), (2, ["nonsense"])],
)
def test_closed_stream_changes_no_exit_code(shell: Shell, redirection: str, code: int, arguments: list[str]) -> None:
    answer = _redirected(shell, redirection, *arguments)
    assert answer.returncode == code
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["host", "doctor"]])
def test_answer_that_cannot_be_written_is_no_answer(shell: Shell, arguments: list[str]) -> None:
    gone, full = (_redirected(shell, redirection, *arguments) for redirection in ("| true", ">/dev/full"))
    assert (gone.returncode, gone.stderr) == (141, "")
    assert full.returncode == 2
    assert "cannot write the output: No space left on device" in full.stderr


# ---------------------------------------------------------------- the user's mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file; pass --config PATH or set RECONCILER_CONFIG"),
        ("source: [", "is not YAML"),
        ("- a list", "expected a mapping"),
        (
            "source: {url: x}\ntargets: [{name: a, paths: [a]}]\nstatedir: /x\n",
            "statedir: no such setting; did you mean state_dir?",
        ),
        ("source: {url: x}\ntargets: []\n", "targets: "),
        ("[" * 20_000, "nested deeper than 100 levels"),
        ("\x00\x01", "holds a zero byte"),
    ],
)
def test_wrong_config_is_one_message_that_names_the_place(
    shell: Shell, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "wrong.yaml"
    if text is not None:
        path.write_text(text)
    answer = shell("status", "--config", str(path))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert str(path) in answer.stderr
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "plan", "sync", "diff", "history", "suspend", "resume"])
def test_every_command_that_needs_a_config_says_so(shell: Shell, command: str) -> None:
    answer = shell(command, RECONCILER_CONFIG="/no/such/config.yaml")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("reconciler: /no/such/config.yaml: no such file; ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["status"], ["history"], ["logs", "x"], ["suspend"], ["resume", "x"], ["status", "--watch"]]
)
def test_without_a_daemon_the_answer_is_code_3_and_how_to_start_one(shell: Shell, arguments: list[str]) -> None:
    answer = shell(*arguments)
    assert answer.returncode == 3
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert "start it (`systemctl start reconciler`, or `reconciler run`)" in answer.stderr


@pytest.mark.slow
def test_bug_of_ours_is_one_line_and_a_traceback_only_on_request(shell: Shell, loop: FakeLoop) -> None:
    loop.document = {"schema": "of another daemon"}
    quiet, loud = shell("status"), shell("status", "--debug")
    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr.count("\n") == 1
    assert "this is a bug" in quiet.stderr
    assert "Traceback" in loud.stderr


# ---------------------------------------------------------------- with a daemon


def test_status_is_yes_when_all_is_as_git_says(shell: Shell, loop: FakeLoop) -> None:
    answer = shell("status")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "demo/tiny  Synced  Healthy" in answer.stdout
    assert "\x1b" not in answer.stdout


def test_status_is_no_when_something_was_rejected(shell: Shell, loop: FakeLoop) -> None:
    loop.document = with_service(loop.document, sync="OutOfSync", rejected={**_rejected(), "line": 12})
    answer = shell("status")
    assert answer.returncode == 1
    assert "hosts/a/tiny.yaml:12: " in answer.stdout


def _rejected() -> dict[str, object]:
    why = rejection()
    return {"digest": why.digest, "reason": why.reason.message, "file": "hosts/a/tiny.yaml", "line": 1, "logTail": []}


def is_container_healthy(shell: Shell) -> bool:
    """What the Containerfile's health check says."""
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n\s+CMD (.+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    known = {"PATH": f"{ENTRY.parent}:{os.environ['PATH']}", "RECONCILER_CONFIG": str(shell.config)}
    return subprocess.run(["sh", "-c", command], env=known, capture_output=True, timeout=120).returncode == 0


@pytest.mark.slow
def test_container_is_healthy_while_its_daemon_answers(shell: Shell, loop: FakeLoop) -> None:
    assert is_container_healthy(shell)
    loop.document = with_service(loop.document, sync="OutOfSync", rejected=_rejected())
    assert shell("status").returncode == 1
    assert is_container_healthy(shell)


def test_container_without_a_daemon_is_not_healthy(shell: Shell) -> None:
    assert not is_container_healthy(shell)


@pytest.mark.slow
def test_status_says_when_the_daemon_is_older_than_the_package(shell: Shell, loop: FakeLoop) -> None:
    said = "; ".join(shell("status").stdout.splitlines()[-1:])
    assert said == (
        f"the daemon runs version 1.2.3, installed is {__version__}: "
        "`systemctl restart reconciler` (models keep serving)"
    )
    loop.document["daemon"] |= {"version": __version__, "build": build_id()}
    assert "systemctl restart" not in shell("status").stdout
    loop.document["daemon"]["build"] = "0" * 16
    assert f"before version {__version__} was installed again" in shell("status").stdout
    del loop.document["daemon"]["build"], loop.document["revision"]["subject"]
    answer = shell("status")
    assert (answer.returncode, answer.stdout) == (3, "")
    assert "its status has no 'subject'; systemctl restart reconciler" in answer.stderr


@pytest.mark.slow
def test_status_of_one_service_shows_its_replicas_and_judges_it_alone(shell: Shell, loop: FakeLoop) -> None:
    other = loop.document["targets"][0]["services"][0] | {"name": "other", "sync": "OutOfSync"}
    loop.document["targets"][0]["services"].append(other)
    answer = shell("status", "tiny")
    assert (answer.returncode, shell("status").returncode) == (0, 1)
    assert "demo.tiny.aaaaaaaa-1  Ready  stable" in answer.stdout
    assert "demo/other " not in answer.stdout
    assert "did you mean demo/tiny" in shell("status", "tinny").stderr


def test_status_as_json_is_the_document(shell: Shell, loop: FakeLoop) -> None:
    answer = shell("status", "-o", "json")
    assert json.loads(answer.stdout) == loop.document


def test_watching_prints_what_changes_until_interrupted(shell: Shell, loop: FakeLoop) -> None:
    with subprocess.Popen(
        [ENTRY, "status", "--watch", "--config", shell.config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout
        assert "applied" in watch.stdout.readline()
        assert watch.stdout.readline() == "demo/tiny: Synced, Healthy\n"
        loop.document = with_service(loop.document, sync="OutOfSync", step="starting")
        assert watch.stdout.readline() == "demo/tiny: OutOfSync, Healthy: starting\n"
        watch.send_signal(signal.SIGINT)
        _, errors = watch.communicate(timeout=60)
    assert watch.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.slow
def test_watching_on_a_terminal_survives_a_restart_of_the_daemon(shell: Shell) -> None:
    master, slave = pty.openpty()
    with answered_by(shell, loop := FakeLoop()):
        watch = subprocess.Popen(
            [ENTRY, "status", "--watch", "--config", shell.config], stdout=slave, stderr=slave, stdin=slave
        )
        seen = read_until(master, b"demo/tiny")
    seen += read_until(master, b"waiting for it")
    with answered_by(shell, loop):
        loop.document = with_service(loop.document, step="goes on")
        seen += read_until(master, b"goes on")
        watch.send_signal(signal.SIGINT)
        watch.wait(60)
    seen += read_until(master, b"\x1b[?1049l")
    os.close(slave)
    os.close(master)
    assert watch.returncode == 130
    assert b"Traceback" not in seen


def read_until(terminal: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("output", ["text", pytest.param("json", marks=pytest.mark.slow)])
def test_watching_in_a_pipe_survives_a_daemon_that_was_killed(shell: Shell, output: str) -> None:
    kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with answered_by(shell, loop := FakeLoop()):
        watch = subprocess.Popen([ENTRY, "status", "--watch", "-o", output, "--config", shell.config], **kinds)  # type: ignore[call-overload]
        while "demo/tiny" not in watch.stdout.readline() and output == "text":
            pass
    socket_path = Settings.load(shell.config).socket_path
    with socket.socket(socket.AF_UNIX) as dead:
        # A daemon that was killed leaves its socket, and nothing listens there.
        dead.bind(str(socket_path))
    said = watch.stdout if output == "text" else watch.stderr
    assert said.readline().endswith("; waiting for it\n")
    loop.document = with_service(loop.document, step="goes on")
    with answered_by(shell, loop):
        lines = [watch.stdout.readline() for _ in range(2 if output == "text" else 1)]
        assert "goes on" in lines[-1]
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=60)
    assert watch.returncode == 130


def test_reader_that_stops_early_gets_no_complaint(shell: Shell, loop: FakeLoop) -> None:
    loop.lines = ["x" * 1000] * 2000
    command = (
        f"{ENTRY} logs tiny -n 2000 --config {shell.config} | head -c 10; code=${{PIPESTATUS[0]}}; echo; echo $code"
    )
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert answer.stdout == "xxxxxxxxxx\n141\n"
    assert answer.stderr == ""


def test_sync_follows_the_daemon_and_tells_each_step(shell: Shell, loop: FakeLoop) -> None:
    done = status_of(report(), passes=2)
    steps = [status_of(report(), passes=1), _moving("starting"), _moving("waiting until it is ready"), done]

    def next_step() -> dict[str, object]:
        return steps.pop(0) if len(steps) > 1 else steps[0]

    loop.status = next_step  # type: ignore[method-assign]
    answer = shell("sync")
    assert (answer.returncode, answer.stdout) == (0, "converged at 4f1c2ab0\n")
    assert [line for line in answer.stderr.splitlines() if "OutOfSync" in line] == [
        "demo/tiny: OutOfSync, Progressing: starting",
        "demo/tiny: OutOfSync, Progressing: waiting until it is ready",
    ]


def _moving(step: str) -> dict[str, object]:
    health = {"status": "Progressing", "reason": "Progressing", "message": step}
    return with_service(status_of(report(), passes=2), sync="OutOfSync", health=health, step=step)


def test_sync_ends_with_no_when_something_was_rejected(shell: Shell, loop: FakeLoop) -> None:
    loop.document = with_service(status_of(report(), passes=2), sync="OutOfSync", rejected=_rejected())
    answer = shell("sync", "-o", "json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout) == loop.document
    assert "demo/tiny: rejected bbbbbbbb: hosts/a/tiny.yaml:1: unrecognized argument" in answer.stderr


def test_sync_gives_up_when_the_time_is_over(shell: Shell, loop: FakeLoop) -> None:
    loop.document = _moving("starting")
    answer = shell("sync", "--timeout", "300ms")
    assert answer.returncode == 1
    assert "not converged after 0.3 s" in answer.stderr


def test_open_prints_the_address_of_a_page(shell: Shell, loop: FakeLoop) -> None:
    config = yaml.safe_load(shell.config.read_text())
    shell.config.write_text(yaml.safe_dump(config | {"web": {"listen": "[::]:9464", "url": "https://models.example/"}}))
    assert shell("open").stdout == "https://models.example/\n"
    assert shell("open", "tiny").stdout == "https://models.example/services/a/demo/tiny\n"
    answer = json.loads(shell("open", "demo/tiny", "-o", "json").stdout)
    assert answer == {"schema": "reconciler.open/v1", "url": "https://models.example/services/a/demo/tiny"}
    assert shell("open", "tinny").returncode == 2


def test_open_asks_which_target_where_several_have_the_service(shell: Shell, loop: FakeLoop) -> None:
    one = loop.document["targets"][0]
    loop.document = loop.document | {"targets": [one, one | {"name": "b"}]}
    answer = shell("open", "tiny")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "demo/tiny is on several targets; add one of: --target a, --target b" in answer.stderr
    assert shell("open", "tiny", "--target", "b").stdout.endswith("/services/b/demo/tiny\n")
    assert "is not on c, but on a, b" in shell("open", "tiny", "--target", "c").stderr


def test_history_is_a_table_or_json(shell: Shell, loop: FakeLoop) -> None:
    entry = {"at": "2026-01-01T00:00:00.000Z", "target": "a", "revision": "4f1c2ab0" * 5, "service": "demo/tiny"}
    loop.history = lambda service, limit: [entry | {"event": "start", "message": "new"}]  # type: ignore[method-assign]
    assert shell("history").stdout.splitlines()[1].split() == [
        "2026-01-01T00:00:00.000Z",
        "a",
        "demo/tiny",
        "start",
        "4f1c2ab0",
        "new",
    ]
    assert json.loads(shell("history", "tiny", "-o", "json").stdout)["schema"] == "reconciler.history/v1"


def test_history_takes_filters_and_says_when_nothing_fits(shell: Shell, loop: FakeLoop) -> None:
    loop.history = lambda service, limit, **filters: []  # type: ignore[method-assign]
    answer = shell("history", "--since", "2h", "--revision", "4f1c", "--service", "demo/tiny")
    assert (answer.returncode, answer.stdout) == (0, "no matching entry\n")
    assert shell("history").stdout == "no entries yet\n"


@pytest.mark.parametrize(
    "arguments",
    [["--since", "soon"], ["--revision", "main"], ["demo/a", "--service", "demo/b"]],
)
def test_history_with_a_wrong_filter_is_wrong_usage(shell: Shell, arguments: list[str]) -> None:
    assert shell("history", *arguments).returncode == 2


def test_suspend_and_resume_say_what_is_suspended_now(shell: Shell, loop: FakeLoop) -> None:
    assert shell("suspend", "tiny").stdout == "suspended: demo/tiny\n"
    assert shell("suspend").stdout == "suspended: everything\n"
    refused = shell("resume", "tiny")
    assert (refused.returncode, refused.stderr) == (1, "reconciler: the whole target is suspended\n")


def test_unknown_service_is_wrong_usage_with_a_suggestion(shell: Shell, loop: FakeLoop) -> None:
    answer = shell("logs", "tinny")
    assert (answer.returncode, answer.stderr) == (
        2,
        'reconciler: no service is named "tinny"; did you mean demo/tiny?\n',
    )


def test_logs_come_without_terminal_tricks_and_can_be_followed(shell: Shell, loop: FakeLoop) -> None:
    loop.lines = ["\x1b[2Jone", "two"]
    assert shell("logs", "tiny").stdout == "one\ntwo\n"
    with subprocess.Popen(
        [ENTRY, "logs", "-f", "-n", "1", "tiny", "--config", shell.config], stdout=subprocess.PIPE, text=True
    ) as follow:
        assert follow.stdout
        assert follow.stdout.readline() == "two\n"
        loop.lines = ["\x1b[2Jone", "two", "three"]
        assert follow.stdout.readline() == "three\n"
        follow.send_signal(signal.SIGINT)
    assert follow.returncode == 130


# ---------------------------------------------------------------- without a daemon


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "diff", "sync"])
def test_source_that_is_not_there_is_told_and_changes_nothing(shell: Shell, command: str) -> None:
    answer = shell(command)
    assert answer.returncode in (2, 3)
    assert "no-repository" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


@pytest.mark.slow
def test_validate_and_render_need_no_config(shell: Shell, tmp_path: Path) -> None:
    manifest = tmp_path / "service.yaml"
    manifest.write_text(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: tiny}\n"
        "spec: {predictor: {model: {modelFormat: {name: vLLM}}}}\n"
    )
    environment = {"RECONCILER_CONFIG": "/no/such/config"}
    answer = shell("validate", str(manifest), **environment)
    assert answer.returncode == 1
    assert answer.stdout.startswith(f"{manifest}:")
    assert answer.stdout.endswith("invalid: 1 error, 0 warnings\n")
    assert json.loads(shell("validate", str(manifest), "-o", "json", **environment).stdout)["valid"] is False
    rendered = shell("render", str(manifest), **environment)
    assert yaml.safe_load(rendered.stdout)["services"][0]["name"] == "tiny"
    assert json.loads(shell("render", str(manifest), "-o", "json", **environment).stdout)["services"]
