"""How each forge sends a webhook: its headers and its signature, made with nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.config.forge import WebhookSettings
from reconciler.config.settings import Settings, SourceSettings, Web
from tests.support.report_world import settings

SECRET = "korrekt-Pferd-Batterie"
SIGNING_TOKEN = "whsec_" + base64.b64encode(bytes(range(32))).decode()
# One webhook of each kind; GitLab's has two ways.
SECRETS = {
    "github": SECRET,
    "gitea": SECRET,
    "bitbucket": SECRET,
    "generic": SECRET,
    "gitlab": SECRET,
    "gitlab-signed": SIGNING_TOKEN,
}
REPOSITORY = "acme/models"


def kind_of(name: str) -> str:
    return name.partition("-")[0]


def hexdigest(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def signature(name: str, body: bytes, secret: str | None = None) -> dict[str, str]:
    """The headers that prove who sends it. `name`: one of SECRETS."""
    secret = secret or SECRETS[name]
    match name:
        case "github":
            return {"X-Hub-Signature-256": f"sha256={hexdigest(body, secret)}"}
        case "gitea":
            return {"X-Gitea-Signature": hexdigest(body, secret)}
        case "bitbucket":
            return {"X-Hub-Signature": f"sha256={hexdigest(body, secret)}"}
        case "generic":
            return {"X-Signature": f"sha256={hexdigest(body, secret)}"}
        case "gitlab":
            return {"X-Gitlab-Token": secret}
        case _:
            return standard_signature(body, secret)


def standard_signature(body: bytes, token: str) -> dict[str, str]:
    """As Standard Webhooks has it."""
    key = base64.b64decode(token.removeprefix("whsec_"))
    digest = hmac.new(key, b"msg_1.1790000000." + body, hashlib.sha256).digest()
    said = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": "1790000000", "webhook-signature": said}


def push(name: str, repository: str = REPOSITORY, ref: str = "refs/heads/main") -> tuple[dict[str, str], Any]:
    """The headers that say what happened, and the payload: as much of it as matters."""
    kind, short = ref.removeprefix("refs/").split("/", 1)
    match kind_of(name):
        case "github":
            return {"X-GitHub-Event": "push"}, {"ref": ref, "repository": {"full_name": repository}}
        case "gitea":
            said = {"X-Gitea-Event": "push", "X-GitHub-Event": "push"}
            return said, {"ref": ref, "repository": {"full_name": repository}}
        case "gitlab":
            event = "push" if kind == "heads" else "tag_push"
            project = {"path_with_namespace": repository}
            return {"X-Gitlab-Event": "Push Hook"}, {"object_kind": event, "ref": ref, "project": project}
        case "bitbucket":
            new = {"type": "branch" if kind == "heads" else "tag", "name": short}
            body = {"push": {"changes": [{"new": new, "old": None}]}, "repository": {"full_name": repository}}
            return {"X-Event-Key": "repo:push"}, body
        case _:
            return {}, {"repository": repository, "ref": ref}


def pull_request(name: str, repository: str = REPOSITORY) -> tuple[dict[str, str], Any]:
    """Opened. `generic` has none."""
    match kind_of(name):
        case "github":
            return {"X-GitHub-Event": "pull_request"}, {"action": "opened", "repository": {"full_name": repository}}
        case "gitea":
            said = {"X-Gitea-Event": "pull_request", "X-Gitea-Event-Type": "pull_request_sync"}
            return said, {"action": "synchronized", "repository": {"full_name": repository}}
        case "gitlab":
            project = {"path_with_namespace": repository}
            body = {"object_kind": "merge_request", "object_attributes": {"action": "open"}, "project": project}
            return {"X-Gitlab-Event": "Merge Request Hook"}, body
        case _:
            return {"X-Event-Key": "pullrequest:created"}, {"repository": {"full_name": repository}}


def configured(folder: Path, **source: Any) -> Settings:
    """A daemon with all of these webhooks, whose secrets are below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, secret in SECRETS.items():
        (folder / name).write_text(f"{secret}\n")
    hooks = tuple(
        WebhookSettings(name=name, kind=kind_of(name), secret_file=str(folder / name))  # type: ignore[arg-type]
        for name in SECRETS
    )
    url = {"url": f"https://git.example.com/{REPOSITORY}.git"}
    return settings(
        folder / "state", source=SourceSettings(**(url | source)), web=Web(listen="127.0.0.1:0", webhooks=hooks)
    )


Address = tuple[str, int]


def post(address: Address, name: str, body: bytes, headers: Mapping[str, str], timeout: float = 30) -> tuple[int, str]:
    """The status and the text of the answer."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("POST", f"/webhooks/{name}", body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def send(address: Address, name: str, what: tuple[dict[str, str], Any], secret: str | None = None) -> int:
    """Post a signed event; the status of the answer."""
    said, payload = what
    body = json.dumps(payload).encode()
    return post(address, name, body, said | signature(name, body, secret))[0]
