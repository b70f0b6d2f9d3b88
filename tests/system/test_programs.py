"""Programs that are run with a limit."""

from __future__ import annotations

import os
import pwd
import sys

import pytest

from reconciler.system.programs import NoAnswer, run_program

_PATH = os.environ["PATH"]


def test_program_sees_nothing_of_our_environment_nor_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    script = "import os, sys; print(sorted(os.environ), os.getcwd(), sys.stdin.read())"
    done = run_program([sys.executable, "-c", script], 60, _PATH)
    assert (done.returncode, done.stdout) == (0, b"['LC_ALL', 'PATH'] / \n")


def test_program_that_does_not_end_is_given_up() -> None:
    with pytest.raises(NoAnswer, match=r"sleep did not end within 0\.1 s") as caught:
        run_program(["sleep", "60"], 0.1, _PATH)
    assert (caught.value.why, caught.value.timed_out) == ("no answer within 0.1 s", True)


def test_program_that_is_missing_is_named() -> None:
    with pytest.raises(NoAnswer, match="/nowhere/podman cannot be run: No such file or directory") as caught:
        run_program(["/nowhere/podman"], 60, _PATH)
    assert (caught.value.why, caught.value.timed_out) == ("No such file or directory", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run programs as another user")
def test_program_runs_as_another_user() -> None:
    user = pwd.getpwnam("nobody")
    done = run_program(["id", "-un"], 60, _PATH, user)
    assert done.stdout == b"nobody\n"
