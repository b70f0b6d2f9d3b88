"""ID tokens: a right one is believed, and none that differs from it in what matters."""

from __future__ import annotations

import base64
import hmac
import json
from contextlib import suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from reconciler.web.login.id_token import LEEWAY, ExpectedClaims, SigningKeys, TokenRefused, UnknownKey
from tests.web.own_provider import ACCESS_TOKEN, CLIENT, SECRET, at_hash, key, published, signed

NOW = 1_800_000_000
ISSUER = "https://login.example.com"
EXPECTED = ExpectedClaims(ISSUER, CLIENT, "nonce-1", ACCESS_TOKEN, NOW)
RIGHT = {
    "iss": ISSUER,
    "sub": "u-1",
    "aud": CLIENT,
    "exp": NOW + 300,
    "iat": NOW,
    "nonce": "nonce-1",
    "at_hash": at_hash(),
}


def keys(*more: dict[str, Any]) -> SigningKeys:
    return SigningKeys({"keys": [published(), *more]})


def changed(**claims: Any) -> str:
    """A token that is right but for these; None leaves a claim out."""
    return signed({name: value for name, value in (RIGHT | claims).items() if value is not None})


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"aud": [CLIENT]},
        {"aud": [CLIENT, "other"], "azp": CLIENT},
        {"at_hash": None},
        {"exp": NOW - LEEWAY + 1},
        {"iat": NOW + LEEWAY},
        {"nbf": NOW + LEEWAY},
    ],
)
def test_right_token_is_believed(claims: dict[str, Any]):
    assert keys().claims(changed(**claims), EXPECTED)["sub"] == "u-1"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example.com"},
        {"iss": f"{ISSUER}/"},
        {"iss": None},
        {"aud": "other"},
        {"aud": [CLIENT, "other"]},
        {"aud": [CLIENT, "other"], "azp": "other"},
        {"aud": None},
        {"azp": "other"},
        {"sub": None},
        {"sub": ""},
        {"nonce": "nonce-2"},
        {"nonce": None},
        {"exp": NOW - LEEWAY},
        {"exp": None},
        {"exp": float("nan")},
        {"iat": NOW + LEEWAY + 1},
        {"iat": None},
        {"nbf": NOW + LEEWAY + 1},
        {"at_hash": at_hash("another token")},
        {"at_hash": None, "exp": "tomorrow"},
    ],
)
def test_token_with_a_wrong_or_missing_claim_is_refused(claims: dict[str, Any]):
    with pytest.raises(TokenRefused):
        keys().claims(changed(**claims), EXPECTED)


def public_pem() -> bytes:
    return key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hmac_by(secret: bytes) -> str:
    """Made by hand: libraries refuse to take a public key for this."""
    parts = [_unpadded(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "key-0"}, RIGHT)]
    return ".".join([*parts, _unpadded(hmac.digest(secret, ".".join(parts).encode(), "sha256"))])


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("secret", [SECRET.encode(), public_pem(), b""])
def test_token_that_a_shared_secret_signs_is_refused(secret: bytes):
    shared = {"kty": "oct", "kid": "key-0", "k": "c2VjcmV0LW9mLXRoZS10ZXN0cw"}
    for known in (keys(), SigningKeys({"keys": [shared, published()]})):
        with pytest.raises(TokenRefused):
            known.claims(hmac_by(secret), EXPECTED)


def test_unsigned_token_is_refused():
    for token in (jwt.encode(RIGHT, None, "none"), jwt.encode(RIGHT, None, "none", {"kid": "key-0"})):
        with pytest.raises(TokenRefused):
            keys().claims(token, EXPECTED)


def test_token_that_another_key_signs_is_refused():
    with pytest.raises(TokenRefused):
        keys().claims(signed(RIGHT, 1, kid="key-0"), EXPECTED)


def test_token_that_brings_its_own_key_is_refused():
    mine = published(1)
    with pytest.raises(TokenRefused):
        keys().claims(signed(RIGHT, 1, jwk=mine, kid="key-1", jku="https://evil.example.com"), EXPECTED)


def test_token_with_a_demand_we_do_not_know_is_refused():
    with pytest.raises(TokenRefused):
        keys().claims(signed(RIGHT, crit=["exp"]), EXPECTED)


def test_key_that_is_not_published_is_told_from_a_wrong_signature():
    with pytest.raises(UnknownKey):
        keys(published(2)).claims(signed(RIGHT, 1), EXPECTED)


def test_key_for_another_use_or_algorithm_believes_nothing():
    for more in ({"use": "enc"}, {"alg": "RS512"}):
        with pytest.raises(TokenRefused):
            SigningKeys({"keys": [published(0, **more), published(1)]}).claims(signed(RIGHT), EXPECTED)


def test_key_may_say_more_of_itself():
    # As Entra ID's do.
    more = {"x5t": "abc", "x5c": ["MII"], "issuer": f"{ISSUER}/v2.0", "cloud_instance_name": "microsoftonline.com"}
    assert SigningKeys({"keys": [published() | more]}).claims(signed(RIGHT, x5t="abc", odd=1), EXPECTED)


def test_keys_that_cannot_be_used_are_passed_over():
    odd: list[Any] = [{"kty": "XYZ", "kid": "key-0"}, {"kty": "RSA", "kid": "key-0", "n": "%", "e": 1}, None, "key", {}]
    assert SigningKeys({"keys": [*odd, published()]}).claims(signed(RIGHT), EXPECTED)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"keys": None}, {"keys": [{"kty": "oct", "k": "eA"}]}, {"keys": [published(use="enc")]}],
)
def test_provider_without_keys_is_refused(document: object):
    with pytest.raises(TokenRefused, match="no key"):
        SigningKeys(document)


def test_header_without_end_is_refused():
    with pytest.raises(TokenRefused):
        keys().claims(f"{_unpadded(b'[' * 6000)}.e30.", EXPECTED)


@given(st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_any_text_is_refused_in_words(token: str):
    with pytest.raises(TokenRefused) as found:
        keys().claims(token, EXPECTED)
    assert str(found.value).isprintable()


@given(st.integers(min_value=0), st.integers(1, 255))
def test_token_with_a_flipped_bit_is_refused(at: int, bits: int):
    right = signed(RIGHT)
    place = at % len(right)
    other = right[:place] + chr(ord(right[place]) ^ bits) + right[place + 1 :]
    # The last character of a part may have bits that say nothing.
    with suppress(TokenRefused):
        assert keys().claims(other, EXPECTED) == keys().claims(right, EXPECTED)
