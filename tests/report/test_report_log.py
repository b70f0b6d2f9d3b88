"""Logs: text for people, JSON for machines, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import pytest
import structlog

from reconciler.config.settings import Log
from reconciler.report.log import configure
from reconciler.report.redact import printable, scrub, scrub_text
from reconciler.secrets.store import is_secret_name


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], level = before
    root.setLevel(level)


def logged(settings: Log, **fields: object) -> str:
    stream = io.StringIO()
    configure(settings, stream)
    structlog.get_logger().info("replica_started", **fields)
    return stream.getvalue()


def test_pipe_gets_one_json_object_per_line_with_what_is_bound() -> None:
    structlog.contextvars.bind_contextvars(target="a", revision="4f1c2ab")
    line = json.loads(logged(Log(), replica="demo.tiny.a-1"))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "replica_started",
        "level": "info",
        "target": "a",
        "revision": "4f1c2ab",
        "replica": "demo.tiny.a-1",
    }


def test_text_without_a_terminal_has_no_colours() -> None:
    line = logged(Log(format="text"), replica="demo.tiny.a-1")
    assert "replica_started" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_terminal_gets_colours_unless_they_are_unwanted(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        configure(Log(), terminal)
        structlog.get_logger().info("replica_started")
        terminal.flush()
        line = os.read(master, 4096).decode()
    os.close(master)
    assert "replica_started" in line
    assert ("\x1b[" in line) is coloured


def test_what_is_less_severe_than_asked_for_is_not_shown() -> None:
    assert logged(Log(level="warning")) == ""


def test_secrets_never_reach_the_log() -> None:
    stream = io.StringIO()
    configure(Log(format="json"), stream)
    log = structlog.get_logger()
    log.info("fetch", url="https://me:hunter2@git/x", token="hunter2", headers={"Authorization": "Bearer hunter2xyz"})
    log.info("start", argv=["vllm", "--api-key", "hunter2", "--api-key=hunter2"], env={"HF_TOKEN": "hunter2"})
    try:
        raise ValueError("password=hunter2 in https://x:hunter2@y/")
    except ValueError:
        log.exception("pass_failed")
    logging.getLogger("git").warning("cloning https://me:hunter2@git/x")
    assert "hunter2" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 4


@pytest.mark.parametrize("form", ["json", "text"])
def test_words_of_an_unforeseen_error_never_reach_the_log(form: Literal["json", "text"]) -> None:
    """A library's error may hold the very value that it could not take: a key with a line end in a header, say."""
    stream, key = io.StringIO(), "plain".upper()
    configure(Log(format=form), stream)
    try:
        try:
            raise ValueError(f"Invalid header value {key!r}")
        except ValueError as error:
            raise RuntimeError(key) from error
    except RuntimeError:
        structlog.get_logger().exception("pass_raised")
    told = stream.getvalue()
    assert key not in told
    assert told.index("RuntimeError") < told.index("which came of") < told.rindex("ValueError")
    assert "test_report_log.py" in told
    try:
        os.stat("/nowhere")
    except OSError:
        structlog.get_logger().exception("pass_raised")
    assert "No such file or directory" in stream.getvalue()


@pytest.mark.parametrize(
    "token",
    [
        "AGE-SECRET-KEY-1" + "Q" * 58,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpM",
        "xoxb-123456789012-abcdefghijkl",
        "AIza" + "x" * 35,
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n-----END",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADAN\n-----END",
    ],
)
def test_key_that_its_shape_gives_away_is_redacted_anywhere(token: str) -> None:
    assert scrub_text(f"seen {token} there") == "seen *** there"
    assert scrub_text(f"AWS_SECRET_ACCESS_KEY=abc/d+e private_key: {token}").startswith("AWS_SECRET_ACCESS_KEY=***")


@pytest.mark.parametrize("mark", ["\u061c", "\u200b", "\u200f", "\u2060", "\ufeff", "\xad", "\U000e0041"])
def test_letters_that_nobody_sees_are_left_out(mark: str) -> None:
    assert printable(f"de{mark}fault/chat") == "default/chat"


def test_warnings_of_libraries_come_in_our_form() -> None:
    stream = io.StringIO()
    configure(Log(), stream)
    logging.getLogger("some.library").warning("careful with %s", "that")
    logging.getLogger("some.library").info("chatter")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["message"], line["logger"]) == ("library_message", "careful with that", "some.library")


def test_reader_that_went_away_does_not_hurt_the_writer() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    configure(Log(), stream)
    structlog.get_logger().info("said_to_nobody", text="x" * 100_000)
    with suppress(BrokenPipeError):
        stream.close()


def test_log_line_cannot_play_tricks_on_a_terminal() -> None:
    line = logged(Log(format="text"), message="safe\x1b]0;title\x07\x1b[2Jtext\u202e")
    assert "safetext" in line
    assert "\x1b" not in line


def test_text_of_others_begins_no_line_of_the_log() -> None:
    line = logged(Log(format="text"), reason="a\n2026-01-01T00:00:00Z [info ] replica_started\rb")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@git/x and ssh://git@host/y", "https://***@git/x and ssh://***@host/y"),
        ("--api-key abc --port 80", "--api-key *** --port 80"),
        ("HF_TOKEN=abc max_tokens=5 prompt tokens: 35", "HF_TOKEN=*** max_tokens=5 prompt tokens: 35"),
        ("unexpected token: }", "unexpected token: }"),
        (
            "{'api_key': ['abc'], 'api_key': 'abc', 'token': None}",
            "{'api_key': ['abc'], 'api_key': '***', 'token': None}",
        ),
        ("user hf_abcdefghijklmnopqrst left", "user *** left"),
        ("https://me:p@ss@git/x", "https://***@git/x"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("bearer abcdefghijklmnopqrstuvwxyz", "bearer ***"),
        ("Basic authentication, a bearer token", "Basic authentication, a bearer token"),
        ("--hf-token abc, --token: def", "--hf-token *** --token: ***"),
        ("--api-key is not needed here; --password", "--api-key is not needed here; --password"),
        ("--max-num-batched-token is an abbreviation", "--max-num-batched-token is an abbreviation"),
        ("--max-num-batched-token 2048 is small", "--max-num-batched-token 2048 is small"),
        ("--password isosceles", "--password ***"),
        ("git@github.com:org/repo.git", "git@github.com:org/repo.git"),
    ],
)
def test_text_loses_credentials_and_keeps_the_rest(text: str, clean: str) -> None:
    assert scrub_text(text) == clean


def test_names_tell_what_is_secret() -> None:
    assert all(map(is_secret_name, ("HF_TOKEN", "password", "AWS_SECRET_ACCESS_KEY", "--api-key", "Authorization")))
    assert not any(map(is_secret_name, ("max_tokens", "token_file", "HF_HOME", "tokenizer_path", "--port")))


def test_numbers_under_secret_names_stay() -> None:
    assert scrub({"first_token": 1.5, "nested": [{"password": "x"}]}) == {
        "first_token": 1.5,
        "nested": [{"password": "***"}],
    }


def test_printable_keeps_lines_and_tabs() -> None:
    assert printable("a\tb\r\nc\rd\x00\x1b[31me\x1b[0m") == "a\tb\nc\nde"


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["x", "-", "a:", "token ", "--token", "https://", "\x1b[", "password", "://", "basic "]
)
def test_line_of_a_million_characters_is_scrubbed_in_linear_work(unit: str) -> None:
    # Quadratic work would take hours here, so the suite's own time limit decides.
    line = unit * (1_000_000 // len(unit))
    assert isinstance(printable(scrub_text(line)), str)
