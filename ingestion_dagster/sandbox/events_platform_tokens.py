"""The access tokens of the sandbox's events platform: JWTs signed with RS256, as an authorization server hands them out."""

import base64
import binascii
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus
from uuid import uuid4

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ingestion_dagster.sandbox.events_platform_database import Database
from ingestion_dagster.sandbox.events_platform_parties import Client, Parties

_KEY, _GENERATION = "signing_key", "token_generation"
_REMEMBERED = 10_000


class OAuthError(Exception):
    """The token endpoint's answer is this error code, with 400."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who comes with a token, and what for."""

    client_id: str
    scopes: frozenset[str]
    expires_at: float
    generation: int


class Tokens:
    """Hands tokens out and knows them again, also after a restart: key and generation are kept."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time, key: rsa.RSAPrivateKey | None = None) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, Bearer] = {}
        kept = database.switches()
        if _KEY in kept:
            found = serialization.load_pem_private_key(kept[_KEY].encode(), password=None)
            assert isinstance(found, rsa.RSAPrivateKey)
            self._key, self._generation = found, int(kept.get(_GENERATION, 0))
        else:
            self._key, self._generation = key or new_key(), 0
            self.keep()

    def keep(self) -> None:
        """Write key and generation to the database: the first time, and again when it was emptied, which tokens outlive."""
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        with self._database.transaction():
            self._database.switch(_KEY, self._key.private_bytes(*form).decode())
            self._database.switch(_GENERATION, str(self._generation))

    def issue(self, client: Client, scopes: tuple[str, ...], seconds: float) -> str:
        """A token for these scopes that expires after so long."""
        now = self._clock()
        claims = {
            "sub": client.client_id,
            "client_id": client.client_id,
            "scope": " ".join(scopes),
            "token_use": "access",
            "iat": int(now),
            "exp": now + seconds,
            "jti": str(uuid4()),
            "generation": self._generation,
        }
        signed = f"{_encoded(orjson.dumps({'alg': 'RS256', 'kid': 'sandbox', 'typ': 'JWT'}))}.{_encoded(orjson.dumps(claims))}"
        return f"{signed}.{_encoded(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def bearer(self, token: str) -> Bearer | None:
        """Whose token this is; None for one that is not ours, has expired or has been ended."""
        bearer = self._known.get(token)
        if bearer is None:
            bearer = self._read(token)
            if bearer is None:
                return None
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[token] = bearer
        return bearer if bearer.expires_at > self._clock() and bearer.generation == self._generation else None

    def end_all(self) -> None:
        """Whatever has been handed out is worth nothing from now on."""
        self._generation += 1
        self._database.switch(_GENERATION, str(self._generation))

    def keys(self) -> dict[str, Any]:
        """The public key, as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        modulus, exponent = (_encoded(each.to_bytes((each.bit_length() + 7) // 8)) for each in (numbers.n, numbers.e))
        return {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "sandbox", "n": modulus, "e": exponent}]}

    def _read(self, token: str) -> Bearer | None:
        signed, _, signature = token.rpartition(".")
        header, _, claims = signed.partition(".")
        try:
            if orjson.loads(_decoded(header)).get("alg") != "RS256":
                return None
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            read = orjson.loads(_decoded(claims))
            return Bearer(read["sub"], frozenset(read["scope"].split()), float(read["exp"]), int(read["generation"]))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
            return None


def new_key() -> rsa.RSAPrivateKey:
    """A key that tokens can be signed with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def grant(parties: Parties, body: bytes, authorization: str | None) -> tuple[Client, tuple[str, ...]]:
    """Who asks for a token with this form, and for what scopes: those that are named, else all. Raises `OAuthError`."""
    try:
        form = dict(parse_qsl(body.decode("ascii"), strict_parsing=True)) if body else {}
    except ValueError:
        raise OAuthError("invalid_request") from None
    if "grant_type" not in form:
        raise OAuthError("invalid_request")
    if form["grant_type"] != "client_credentials":
        raise OAuthError("unsupported_grant_type")
    client_id, secret = _basic(authorization) if authorization else (form.get("client_id", ""), form.get("client_secret", ""))
    client = parties.client(client_id)
    # Compared with something in either case, so that an unknown client takes as long as a wrong secret.
    if not hmac.compare_digest(secret.encode(), (client.secret if client else "-").encode()) or client is None:
        raise OAuthError("invalid_client")
    scopes = tuple(form.get("scope", "").split()) or client.scopes
    if not set(scopes) <= set(client.scopes):
        raise OAuthError("invalid_scope")
    return client, scopes


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.partition(" ")
    try:
        client_id, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise OAuthError("invalid_client") from None
    if scheme.lower() != "basic":
        raise OAuthError("invalid_client")
    return unquote_plus(client_id), unquote_plus(secret)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
