"""An identity provider whose answers and tokens are the test's: right ones, unless the test says otherwise."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from reconciler.config.web import OidcSettings
from tests.forge.local_forge import Asked, LocalForge, Reply, local_forge

CLIENT = "reconciler"
SECRET = "secret-of-the-tests"
ACCESS_TOKEN = "access-token-of-the-tests"
PAGE = "https://models.example.com"


@cache
def key(number: int = 0) -> RSAPrivateKey:
    """One that signs: making it takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def published(number: int = 0, **more: str) -> dict[str, Any]:
    """What a provider publishes of a key."""
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key(number).public_key()))
    del public["key_ops"]
    return {**public, "kid": f"key-{number}", "use": "sig", **more}


def at_hash(token: str = ACCESS_TOKEN) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()


def signed(claims: Mapping[str, Any], number: int = 0, **header: Any) -> str:
    """By another library than the one that verifies."""
    return jwt.encode(dict(claims), key(number), "RS256", {"kid": f"key-{number}", **header})


class OwnProvider:
    """What it does next is in its attributes: `claims` and `header` are changes, None leaves a claim out; `signer`:
    the number of the key; `keys`: what it publishes; `metadata`: what it says of itself beside what it must;
    `answers`: replies by path instead of the right ones; `may_answer`: it waits for that.
    `nonce`: of the login that is under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: LocalForge
        self.reset()

    def reset(self) -> None:
        """All answers are right ones again."""
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, Reply] = {}
        self.keys = [published()]
        self.signer = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.nonce = ""
        self.userinfo: dict[str, Any] = {"sub": "u-1"}

    @contextmanager
    def running(self) -> Iterator[OwnProvider]:
        with local_forge(self.folder, self._answer) as self.server:
            yield self

    @property
    def issuer(self) -> str:
        return self.server.url

    def settings(self, **changes: Any) -> OidcSettings:
        secret = self.folder / "secret"
        secret.write_text(f"{SECRET}\n")
        known = {"viewers": ["models-viewers"], "operators": ["models-operators"]}
        return OidcSettings(
            issuer=self.issuer,
            client_id=CLIENT,
            client_secret_file=str(secret),
            ca_file=self.server.ca_file,
            **{**known, **changes},
        )

    def asked(self, path: str) -> list[Asked]:
        return [one for one in self.server.asked if one.path == path]

    def returned(self, location: str, **changes: str | None) -> dict[str, str]:
        """The query of the address that a person is sent back to; None leaves something out."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        self.nonce = query["nonce"]
        answer = {"code": "code-1", "state": query["state"], **changes}
        return {name: value for name, value in answer.items() if value is not None}

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "u-1",
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": self.nonce,
            "at_hash": at_hash(),
            "email": "olga@example.com",
            "groups": ["models-operators"],
            **self.claims,
        }
        return signed({name: value for name, value in claims.items() if value is not None}, self.signer, **self.header)

    def _answer(self, asked: Asked) -> Reply:
        self.may_answer.wait(30)
        return self.answers.get(asked.path) or Reply(body=self._right(asked.path))

    def _right(self, path: str) -> Any:
        match path:
            case "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
                names["userinfo_endpoint"] = "/userinfo"
                return {"issuer": self.issuer, **{k: self.issuer + v for k, v in names.items()}, **self.metadata}
            case "/keys":
                return {"keys": self.keys}
            case "/token":
                return {"id_token": self.token(), "access_token": ACCESS_TOKEN, "token_type": "Bearer"}
            case "/userinfo":
                return self.userinfo
        raise AssertionError(path)
