"""Notifications over real HTTPS: both forms of the body, the signature, and what no message shows."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.forge import NotificationSettings
from reconciler.errors import ReconcileError, Retryable
from reconciler.forge.http import ForgeAway, ForgeBusy, ForgeRefused, LoginRefused
from reconciler.forge.messages import Notification
from reconciler.forge.receiver import Receiver, cloud_event, slack_message
from tests.forge.local_forge import LocalForge, Reply, local_forge

PATH = "/services/T00SECRET/B00SECRET"
NEWS = Notification(
    receiver="ops",
    about="health/gpu-1/chat/granite",
    state="faulty",
    event="service.degraded",
    source="/targets/gpu-1",
    text="chat/granite on gpu-1 is Degraded: 0 of 1 replicas serve",
    at="2026-01-01T00:00:00.000Z",
    target="gpu-1",
    service="chat/granite",
    revision="4f1c2ab" + "0" * 33,
    code="CrashLoopBackOff",
    url="https://gpu-1.example.com:9464",
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def listener(certificates: Path) -> Iterator[LocalForge]:
    with local_forge(certificates, lambda _: Reply(200, b"ok")) as server:
        yield server


@pytest.fixture
def settings(listener: LocalForge, tmp_path: Path) -> dict[str, Any]:
    """What the config says of this listener."""
    (tmp_path / "url").write_text(f"{listener.url}{PATH}\n")
    (tmp_path / "secret").write_text("s3cret\n")
    return {"name": "ops", "url_file": str(tmp_path / "url"), "ca_file": listener.ca_file}


def receiver(settings: dict[str, Any], **more: Any) -> Receiver:
    return Receiver(NotificationSettings(**(settings | more)), "notifications[0]")


def test_cloud_event_is_posted_in_structured_mode_and_signed(
    listener: LocalForge, settings: dict[str, Any], tmp_path: Path
):
    receiver(settings, secret_file=str(tmp_path / "secret")).send(NEWS)
    (asked,) = listener.asked
    assert asked.path == PATH
    assert asked.headers["content-type"].split(";")[0] == "application/cloudevents+json"
    assert asked.headers["x-signature"] == f"sha256={hmac.new(b's3cret', asked.raw, hashlib.sha256).hexdigest()}"
    assert asked.body == cloud_event(NEWS)


def test_slack_message_is_posted_without_a_signature(listener: LocalForge, settings: dict[str, Any]):
    receiver(settings, kind="slack").send(NEWS)
    (asked,) = listener.asked
    assert asked.headers["content-type"] == "application/json"
    assert "x-signature" not in asked.headers
    assert asked.body["text"] == f"{NEWS.text} (<https://gpu-1.example.com:9464|status>)"


def test_url_and_secret_are_read_for_each_sending(listener: LocalForge, settings: dict[str, Any], tmp_path: Path):
    one = receiver(settings, secret_file=str(tmp_path / "secret"))
    one.send(NEWS)
    (tmp_path / "secret").write_text("another")
    (tmp_path / "url").write_text((tmp_path / "url").read_text().replace("T00SECRET", "T01SECRET"))
    one.send(NEWS)
    (first, second) = listener.asked
    assert first.headers["x-signature"] != second.headers["x-signature"]
    assert (first.path, second.path) == (PATH, PATH.replace("T00", "T01"))


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (429, {"Retry-After": "7"}, ForgeBusy),
        (500, {}, ForgeAway),
        (403, {}, LoginRefused),
        (404, {}, ForgeRefused),
        (302, {"Location": "https://127.0.0.1:1/elsewhere"}, ForgeAway),
    ],
)
def test_refusal_shows_neither_the_url_nor_the_answer(
    listener: LocalForge, settings: dict[str, Any], status: int, headers: dict[str, str], error: type[ReconcileError]
):
    listener.answer = lambda asked: Reply(status, f"Cannot POST {asked.path}".encode(), headers)
    with pytest.raises(error) as caught:
        receiver(settings).send(NEWS)
    assert str(caught.value).startswith("notification ops: POST: ")
    assert str(status) in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert len(listener.asked) == 1


def test_listener_that_is_not_trusted_gets_nothing(listener: LocalForge, settings: dict[str, Any]):
    with pytest.raises(ForgeAway, match="certificate"):
        receiver(settings, ca_file=None).send(NEWS)
    assert listener.asked == []


def test_certificates_that_cannot_be_read_are_named_by_their_key(settings: dict[str, Any], tmp_path: Path):
    with pytest.raises(Retryable, match=r"^notifications\[0\]\.ca_file: .*nowhere\.pem cannot be used"):
        receiver(settings, ca_file=tmp_path / "nowhere.pem").send(NEWS)


def test_listener_that_is_away_is_retryable_without_its_url(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "url").write_text(f"https://127.0.0.1:1{PATH}")
    with pytest.raises(ForgeAway) as caught:
        receiver(settings).send(NEWS)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://127.0.0.1{PATH}", f"https://{PATH}", f"https://me:pw@h{PATH}", f"x{PATH}"])
def test_what_is_no_https_url_is_refused_without_its_content(settings: dict[str, Any], tmp_path: Path, url: str):
    (tmp_path / "url").write_text(url)
    with pytest.raises(Retryable, match=r"notifications\[0\]\.url_file: .*url holds no https URL") as caught:
        receiver(settings).send(NEWS)
    assert "SECRET" not in str(caught.value)


def test_url_file_that_is_missing_is_named(settings: dict[str, Any], tmp_path: Path):
    os.unlink(tmp_path / "url")
    with pytest.raises(Retryable, match=r"notifications\[0\]\.url_file: .*url cannot be read"):
        receiver(settings).send(NEWS)


def test_cloud_event_has_what_the_specification_requires():
    event = cloud_event(NEWS)
    assert (event["specversion"], event["source"], event["subject"]) == ("1.0", "/targets/gpu-1", "chat/granite")
    assert event["type"] == "reconciler.service.degraded.v1"
    assert event["time"] == NEWS.at
    assert event["data"]["message"] == NEWS.text
    assert all(isinstance(value, str) and value for key, value in event.items() if key != "data")


def test_event_keeps_its_id_when_it_is_sent_again_and_only_then():
    same = cloud_event(replace(NEWS, text="worded otherwise", receiver="audit"))
    assert same["id"] == cloud_event(NEWS)["id"]
    others = (replace(NEWS, at="2026-01-01T00:00:00.001Z"), replace(NEWS, state=""), replace(NEWS, about="x"))
    assert len({cloud_event(NEWS)["id"], *(cloud_event(other)["id"] for other in others)}) == 4


def test_event_without_a_service_has_no_subject():
    assert "subject" not in cloud_event(replace(NEWS, service=""))


def test_text_of_others_makes_no_link_and_calls_nobody():
    assert "@all" not in slack_message(replace(NEWS, text="granite: @all"))["text"]
    message = slack_message(replace(NEWS, text="<!channel> <https://evil.example|click> & more", url=""))
    assert message["text"] == "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp; more"
    assert message["blocks"][0]["text"] == {"type": "mrkdwn", "text": message["text"]}
