"""One who is told by an HTTP POST: the two forms of its body, the signature, and the sending.

The operator names the URL, so it may lead anywhere, also into a private network. It is a secret: no message shows it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from reconciler.config.forge import NotificationSettings
from reconciler.config.secret_files import path_of, read_secret
from reconciler.errors import Retryable
from reconciler.forge.http import Http, Request
from reconciler.forge.messages import Notification

_TYPES = {"cloudevents": "application/cloudevents+json; charset=utf-8", "slack": "application/json"}
_TIMEOUT = 10.0


class Receiver:
    """Its URL and secret are read for each sending, so that new ones need no restart."""

    def __init__(self, settings: NotificationSettings, key: str) -> None:
        """`key`: where it stands in the config, `notifications[0]`."""
        self.name, self._settings, self._key = settings.name, settings, key

    def send(self, notification: Notification) -> None:
        """Raises ForgeAway, ForgeBusy, LoginRefused (all Retryable) and ForgeRefused (Terminal)."""
        url = self.url()
        data = json.dumps(body(notification, self._settings.kind), ensure_ascii=False).encode()
        headers = {"Content-Type": _TYPES[self._settings.kind], **self._signed(data)}
        called = f"notification {self.name}"
        http = Http(
            url,
            dict,
            called=called,
            ca_file=self._settings.ca_file,
            ca_key=f"{self._key}.ca_file",
            timeout=_TIMEOUT,
            is_secret=True,
            speaks_json=False,
        )
        try:
            http.ask(Request("POST", "", body=data, headers=headers))
        finally:
            http.close()

    def url(self) -> str:
        """Raises Retryable, without its content, where there is no https URL."""
        place, key = self._settings.url_file, f"{self._key}.url_file"
        url = read_secret(place, key)
        if not _is_https(url):
            raise Retryable(f"{key}: {path_of(place, key)} holds no https URL; write https://HOST/PATH into it")
        return url

    def secret(self) -> str | None:
        """What it is signed with. Raises Retryable."""
        place = self._settings.secret_file
        return read_secret(place, f"{self._key}.secret_file") if place else None

    def _signed(self, data: bytes) -> Mapping[str, str]:
        secret = self.secret()
        return {"X-Signature": signature(secret, data)} if secret else {}


def signature(secret: str, data: bytes) -> str:
    """As Flux' `generic-hmac` signs."""
    return f"sha256={hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()}"


def body(notification: Notification, kind: str) -> dict[str, Any]:
    """What is sent, in the form that `notifications[].kind` names."""
    return cloud_event(notification) if kind == "cloudevents" else slack_message(notification)


def cloud_event(notification: Notification) -> dict[str, Any]:
    """CloudEvents 1.0, structured JSON. The id is the same in every try, and another for every event."""
    parts = (notification.source, notification.about, notification.event, notification.state, notification.at)
    event = {
        "specversion": "1.0",
        "id": hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32],
        "source": notification.source,
        "type": f"reconciler.{notification.event}.v1",
        "time": notification.at,
        "datacontenttype": "application/json",
        "data": {
            "severity": notification.severity,
            "target": notification.target,
            "service": notification.service,
            "revision": notification.revision,
            "code": notification.code,
            "message": notification.text,
            "url": notification.url,
        },
    }
    return event | ({"subject": notification.service} if notification.service else {})


def slack_message(notification: Notification) -> dict[str, Any]:
    """As Slack's incoming webhooks want it; Mattermost and others take the same."""
    text = _escaped(notification.text)
    if notification.url:
        link = _escaped(notification.url.replace("|", "%7C").replace("@", "%40"))
        text = f"{text} (<{link}|status>)"
    return {"text": text, "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]}


def _escaped(text: str) -> str:
    """So that no text of others becomes a link or calls a whole channel, which Mattermost does for a plain `@all`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\N{WORD JOINER}")


def _is_https(url: str) -> bool:
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return False
    return parsed.scheme == "https" and bool(parsed.host) and not parsed.auth
