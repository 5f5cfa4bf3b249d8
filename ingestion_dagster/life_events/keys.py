"""The keys of hashes and of the event store: several, each with an id, the current one first."""

import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.own_key import own_key
from ingestion_dagster.settings import Settings

HMAC_KEYS, ENCRYPTION_KEYS = "INGESTION_LIFE_EVENTS_HMAC_KEYS", "INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS"

_SHORTEST_KEY = 32
# Shorter than any key: a key that stands where an id should is not shown in a message.
_ID = re.compile(r"[A-Za-z0-9_.-]{1,31}")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_NONCE_BYTES, _TAG_BYTES = 12, 16


@dataclass(frozen=True, slots=True)
class Key:
    """One key and the id it goes by. Its text shows the id alone."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> bytes:
        """By what the key can be known again, and not guessed; 32 bytes."""
        return hmac.digest(self.secret, b"fingerprint", "sha256")


class Hasher:
    """HMAC-SHA256 under the current key, and under older ones to know again what was hashed with them."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.current = keys[0]
        self.older = keys[1:]

    def of(self, content: bytes) -> bytes:
        """The hash of some content under the current key, 32 bytes."""
        return hmac.digest(self.current.secret, content, "sha256")

    def older_of(self, content: bytes) -> list[bytes]:
        """What the content was known as under each older key."""
        return [hmac.digest(key.secret, content, "sha256") for key in self.older]


class Undecipherable(Exception):
    """A payload cannot be opened: its key is not set, or it is not what was sealed under this record key."""


class Vault:
    """AES-256-GCM: seals payloads under the current key, and opens them under any that is set.

    A sealed payload is bound to its record key and to the id of its encryption key: put into another row, it does not open.
    """

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.current = keys[0]
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys}
        self._current_cipher = self._ciphers[self.current.id]
        self._current_id = self.current.id.encode()

    def seal(self, record_key: bytes, payload: bytes) -> bytes:
        """Nonce (12 bytes), ciphertext and tag (16 bytes), under the current key."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._current_cipher.encrypt(nonce, payload, record_key + self._current_id)

    def open(self, record_key: bytes, key_id: str, sealed: bytes) -> bytes:
        """The payload that was sealed. Raises `Undecipherable`."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Undecipherable(f"the event store holds events under key {key_id}, which {ENCRYPTION_KEYS} does not name")
        try:
            if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
                raise InvalidTag
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], record_key + key_id.encode())
        except InvalidTag:
            raise Undecipherable(f"an event does not open with key {key_id}: {ENCRYPTION_KEYS} holds another key of that id") from None


def hasher(settings: Settings) -> Hasher:
    """The hasher of this installation. Raises `ConfigurationError` for keys that cannot be used, or none outside a laptop."""
    return Hasher(_keys(settings, settings.life_events_hmac_keys, HMAC_KEYS, "life_events_hmac.key", _hmac_key))


def vault(settings: Settings) -> Vault:
    """The vault of this installation. Raises `ConfigurationError` as `hasher` does."""
    return Vault(_keys(settings, settings.life_events_encryption_keys, ENCRYPTION_KEYS, "life_events_encryption.key", _encryption_key))


def _hmac_key(text: str) -> bytes | None:
    return text.encode() if len(text) >= _SHORTEST_KEY else None


def _encryption_key(text: str) -> bytes | None:
    return bytes.fromhex(text) if _HEX_KEY.fullmatch(text) else None


def _keys(
    settings: Settings, named: SecretStr | None, variable: str, file_name: str, read: Callable[[str], bytes | None]
) -> tuple[Key, ...]:
    text = named.get_secret_value() if named is not None else _own(settings, variable, file_name)
    found: list[Key] = []
    for position, part in enumerate(filter(None, (each.strip() for each in text.split(","))), 1):
        key_id, colon, secret = part.partition(":")
        if not colon or _ID.fullmatch(key_id) is None:
            raise ConfigurationError(f"{variable}: part {position} is not id:key (an id has up to 31 letters, digits, '.', '_' or '-')")
        key = read(secret.strip())
        if key is None:
            wanted = "64 hex digits" if read is _encryption_key else f"at least {_SHORTEST_KEY} characters"
            raise ConfigurationError(f"{variable}: key {key_id} is unusable; it has to have {wanted}")
        if any(key_id == other.id for other in found):
            raise ConfigurationError(f"{variable} names key {key_id} twice")
        found.append(Key(key_id, key))
    if not found:
        raise ConfigurationError(f"{variable} names no key")
    return tuple(found)


def _own(settings: Settings, variable: str, file_name: str) -> str:
    if settings.environment != "local":
        raise ConfigurationError(f"{settings.environment} needs keys of its own: set {variable}")
    return f"local:{own_key(settings.home_folder / file_name, f'set {variable}; with another key nothing of before is known')}"
