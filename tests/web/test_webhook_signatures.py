"""Who is believed: each forge's own form of a signature, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.web.webhooks.signatures import is_refused_unread, is_signed
from tests.web.webhook_senders import SECRET, SECRETS, SIGNING_TOKEN, hexdigest, kind_of, signature, standard_signature

BODY = b'{"ref":"refs/heads/main"}'
names = st.sampled_from(sorted(SECRETS))


def small(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def believed(name: str, headers: dict[str, str], body: bytes = BODY, secret: str = "") -> bool:
    return is_signed(kind_of(name), secret or SECRETS[name], small(headers), body)


@given(name=names, body=st.binary(max_size=200))
def test_webhook_signed_as_its_forge_does_is_believed(name: str, body: bytes) -> None:
    headers = signature(name, body)
    assert believed(name, headers, body)
    assert not is_refused_unread(kind_of(name), SECRETS[name], small(headers))


@given(name=names, body=st.binary(max_size=200), secret=st.text(st.characters(codec="utf-8"), min_size=1))
def test_webhook_signed_with_another_secret_is_not_believed(name: str, body: bytes, secret: str) -> None:
    if name == "gitlab-signed":
        headers = standard_signature(body, "whsec_" + "QUJD" * (len(secret) + 1))
    else:
        headers = signature(name, body, secret + "?")
    assert not believed(name, headers, body)


@given(
    name=names.filter(lambda name: name != "gitlab"),
    body=st.binary(min_size=1, max_size=200),
    at=st.integers(min_value=0),
    flip=st.integers(min_value=1, max_value=255),
)
def test_webhook_whose_body_was_changed_is_not_believed(name: str, body: bytes, at: int, flip: int) -> None:
    changed = bytearray(body)
    changed[at % len(body)] ^= flip
    assert not believed(name, signature(name, body), bytes(changed))


HEADERS = (
    "x-hub-signature-256",
    "x-hub-signature",
    "x-gitea-signature",
    "x-forgejo-signature",
    "x-signature",
    "x-gitlab-token",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
)
latin = st.text(st.characters(max_codepoint=255), max_size=80)
guesses = st.one_of(
    latin,
    st.just("sha256=" + "0" * 64),
    st.just("v1," + "A" * 43 + "="),
    st.builds(lambda text: f"sha256={text}", latin),
    st.builds(lambda text: f"v1,{text}", latin),
)


@given(name=names, headers=st.dictionaries(st.sampled_from(HEADERS), guesses), body=st.binary(max_size=50))
def test_headers_that_are_guessed_never_raise_and_are_not_believed(
    name: str, headers: dict[str, str], body: bytes
) -> None:
    assert not believed(name, headers, body)
    is_refused_unread(kind_of(name), SECRETS[name], headers)


@pytest.mark.parametrize("name", SECRETS)
def test_cve_2026_40109_webhook_without_proof_is_not_believed(name: str) -> None:
    """Flux took tokens of which it had checked neither for whom nor by whom: nothing is believed for being there."""
    assert not believed(name, {})
    assert is_refused_unread(kind_of(name), SECRETS[name], {})
    for header in HEADERS:
        for text in ("", " ", "sha256=", "v1,", "null", "true"):
            assert not believed(name, {header: text})


def test_signature_in_the_form_of_another_forge_is_not_believed() -> None:
    pairs = {(name, other) for name in SECRETS for other in SECRETS if believed(name, signature(other, BODY))}
    # Gitea sends GitHub's as well.
    assert pairs == {(name, name) for name in SECRETS} | {("gitea", "github")}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Gitea-Signature": hexdigest(BODY)},
        {"X-Forgejo-Signature": hexdigest(BODY), "X-Gitea-Signature": hexdigest(BODY)},
        {"X-Hub-Signature-256": f"sha256={hexdigest(BODY)}"},
    ],
)
def test_gitea_and_forgejo_are_believed_by_any_of_their_headers(headers: dict[str, str]) -> None:
    assert believed("gitea", headers)


def test_published_examples_of_signatures_are_believed() -> None:
    """Those of GitHub's documentation, and of Standard Webhooks."""
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"X-Hub-Signature-256": f"sha256={digest}"}
    assert believed("github", headers, b"Hello, World!", "It's a Secret to Everybody")
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    token = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert believed("gitlab-signed", headers, b'{"test": 2432232314}', token)


def test_sha1_signature_is_not_believed() -> None:
    old = hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest()
    for name in ("github", "gitea", "bitbucket"):
        assert not believed(name, {"X-Hub-Signature": f"sha1={old}"})


def test_one_of_several_standard_signatures_suffices() -> None:
    """While a token is exchanged, both sign."""
    headers = standard_signature(BODY, SIGNING_TOKEN)
    other = standard_signature(BODY, "whsec_QUJDRA==")["webhook-signature"]
    assert believed("gitlab-signed", headers | {"webhook-signature": f"{other} {headers['webhook-signature']}"})
    assert not believed("gitlab-signed", headers | {"webhook-signature": other})


@pytest.mark.parametrize("change", [{"webhook-id": "msg_2"}, {"webhook-timestamp": "1790000001"}, {"webhook-id": ""}])
def test_standard_signature_covers_id_and_time(change: dict[str, str]) -> None:
    assert not believed("gitlab-signed", standard_signature(BODY, SIGNING_TOKEN) | change)


@pytest.mark.parametrize("token", ["whsec_", "whsec_%%%", "whsec_QUJ", "whsec_ü"])
def test_broken_signing_token_believes_nobody(token: str) -> None:
    headers: dict[str, Any] = standard_signature(BODY, "whsec_QUJD") | {"X-Gitlab-Token": ""}
    assert not believed("gitlab-signed", headers, secret=token)
    assert not believed("gitlab-signed", standard_signature(BODY, "whsec_"), secret=token)


def test_signing_token_itself_is_not_taken_for_a_signature() -> None:
    """GitLab never sends it: who does, has read it in a place where it should not be."""
    assert not believed("gitlab-signed", {"X-Gitlab-Token": SIGNING_TOKEN})
