"""What an identity provider says of a person, signed: an ID token, checked as OpenID Connect Core 1.0, 3.1.3.7 asks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwk, jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, InvalidKeyIdError, JoseError, MissingClaimError
from joserfc.jws import JWSRegistry

from reconciler.errors import Retryable
from reconciler.report.redact import printable

Claims = Mapping[str, Any]

# All with a pair of keys: whoever knows the client's secret, or a public key, can sign nothing.
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
LEEWAY = 60
"""Seconds by which two clocks may differ."""
_MOST_HEADER = 8 << 10


class TokenRefused(Retryable):
    """An ID token that is not believed; the message says which part of it."""


class UnknownKey(TokenRefused):
    """It names a key that is not among the known ones: the provider may have new ones."""


@dataclass(frozen=True, slots=True)
class ExpectedClaims:
    """What this login was begun with, what came along with the token, and the time in seconds since 1970."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str
    now: int


class SigningKeys:
    """The provider's public keys that can sign tokens."""

    def __init__(self, document: object) -> None:
        """`document`: a JWK Set. Keys that cannot be used are passed over. Raises TokenRefused when none is left."""
        given = document.get("keys") if isinstance(document, dict) else None
        found = [key for each in given if (key := _key(each))] if isinstance(given, list) else []
        if not found:
            raise TokenRefused("the identity provider publishes no key that could sign an ID token")
        self._keys = jwk.KeySet(found)

    def claims(self, token: str, expected: ExpectedClaims) -> Claims:
        """What it says. Raises TokenRefused, and UnknownKey."""
        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        registry.max_header_length = _MOST_HEADER
        try:
            found = jwt.decode(token, self._keys, registry=registry)
            _rules(expected).validate(found.claims)
        except InvalidKeyIdError:
            raise UnknownKey("the ID token is signed by a key that the identity provider does not publish") from None
        except (JoseError, ValueError, RecursionError) as error:
            raise TokenRefused(_why(error)) from None
        claims: Claims = found.claims
        _check_party(claims, expected)
        _check_access_token(claims, found.header, expected)
        return claims


def _key(data: object) -> jwk.Key | None:
    """None: for encryption, of a kind that we do not know, or broken."""
    if not isinstance(data, dict) or data.get("kty") == "oct" or data.get("use", "sig") != "sig":
        return None
    try:
        return jwk.import_key(data)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _rules(expected: ExpectedClaims) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(
        now=expected.now,
        leeway=LEEWAY,
        iss={"essential": True, "value": expected.issuer},
        sub={"essential": True},
        aud={"essential": True, "value": expected.client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": expected.nonce},
    )


def _why(error: Exception) -> str:
    if isinstance(error, ExpiredTokenError):
        return "the ID token has expired; check the clocks of this host and of the identity provider"
    if isinstance(error, MissingClaimError):
        return f"the ID token lacks {printable(str(error.description))[:100]}"
    if isinstance(error, InvalidClaimError):
        return f"the ID token is not for this login: {printable(str(error.description))[:100]}"
    return f"the ID token is not valid: {printable(str(error))[:100]}"


def _check_party(claims: Claims, expected: ExpectedClaims) -> None:
    """With several audiences, `azp` says which of them asked for the token; and nobody else may have."""
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else expected.client_id) != expected.client_id:
        raise TokenRefused("the ID token is not for this login: another client asked for it (azp)")


def _check_access_token(claims: Claims, header: Mapping[str, Any], expected: ExpectedClaims) -> None:
    """`at_hash`: half a hash of the access token, of the size that the signature has. None is defined for Ed25519."""
    hashes = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
    make = hashes.get(str(header["alg"])[2:])
    if "at_hash" not in claims or make is None:
        return
    digest = make(expected.access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not hmac.compare_digest(half, str(claims["at_hash"]).encode()):
        raise TokenRefused("the ID token is not for this login: another access token came with it (at_hash)")
