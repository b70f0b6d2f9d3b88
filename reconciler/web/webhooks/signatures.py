"""Is a webhook from who shares the secret with us? Decided over the raw bytes, before anything of them is understood.

The forms: GitHub, Gitea, Forgejo and Bitbucket send an HMAC-SHA256 of the body in hex; GitLab sends the secret itself,
or, where the secret is a signing token (`whsec_…`), a signature as Standard Webhooks describes it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_PREFIX = "sha256="
# Names of headers in small letters. A prefix is expected where the name belongs to GitHub's form.
_HMAC_HEADERS: Mapping[str, tuple[str, ...]] = {
    "github": ("x-hub-signature-256",),
    "gitea": ("x-forgejo-signature", "x-gitea-signature", "x-hub-signature-256"),
    "bitbucket": ("x-hub-signature",),
    "generic": ("x-signature",),
}
_BARE = ("x-forgejo-signature", "x-gitea-signature")
_SIGNING_TOKEN = "whsec_"  # noqa: S105
_MOST_SIGNATURES = 8

Headers = Mapping[str, str]


def is_signed(kind: str, secret: str, headers: Headers, body: bytes) -> bool:
    """Whether the body comes from who knows the secret. `headers`: any mapping by small letters, as latin-1 text.

    A time in a signature is not compared with our clock: what is replayed only makes us ask git, and a clock that is
    wrong would cost every webhook.
    """
    if kind != "gitlab":
        digest = hmac.digest(secret.encode(), body, "sha256").hex()
        return any(hmac.compare_digest(digest, claimed) for claimed in _claimed_digests(kind, headers))
    if secret.startswith(_SIGNING_TOKEN):
        return _is_signed_as_standard(secret, headers, body)
    return _is_token(secret, headers)


def is_refused_unread(kind: str, secret: str, headers: Headers) -> bool:
    """Is the body not worth reading, because no content would make these headers right?"""
    if kind != "gitlab":
        return not _claimed_digests(kind, headers)
    if secret.startswith(_SIGNING_TOKEN):
        return not _claimed_signatures(headers)
    return not _is_token(secret, headers)


def _claimed_digests(kind: str, headers: Headers) -> list[str]:
    found = []
    for name in _HMAC_HEADERS[kind]:
        text = headers.get(name, "")
        digest = text if name in _BARE else text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else ""
        if _HEX.fullmatch(digest):
            found.append(digest.lower())
    return found


def _is_token(secret: str, headers: Headers) -> bool:
    # Bytes: compare_digest takes no text beyond ASCII.
    return hmac.compare_digest(secret.encode(), headers.get("x-gitlab-token", "").encode("latin-1", "replace"))


def _is_signed_as_standard(secret: str, headers: Headers, body: bytes) -> bool:
    try:
        key = base64.b64decode(secret.removeprefix(_SIGNING_TOKEN), validate=True)
    except (binascii.Error, ValueError):
        return False
    said = f"{headers.get('webhook-id', '')}.{headers.get('webhook-timestamp', '')}.".encode("latin-1", "replace")
    digest = hmac.digest(key, said + body, "sha256")
    return any(hmac.compare_digest(digest, claimed) for claimed in _claimed_signatures(headers)) and bool(key)


def _claimed_signatures(headers: Headers) -> list[bytes]:
    """Several while a token is exchanged: `v1,BASE64 v1,BASE64`."""
    if not (headers.get("webhook-id") and headers.get("webhook-timestamp")):
        return []
    found = []
    for text in headers.get("webhook-signature", "").split(" ")[:_MOST_SIGNATURES]:
        version, _, encoded = text.partition(",")
        if version == "v1" and len(encoded) == 44:
            try:
                found.append(base64.b64decode(encoded, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found
