"""Keyed hashes: how the ledger knows rows and people again without holding who they are."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ingestion_dagster.engine.errors import ConfigurationError, Problem
from ingestion_dagster.engine.own_key import own_key
from ingestion_dagster.residents.datasets import IDS_NAME_NO_PERSON
from ingestion_dagster.residents.model import Prepared
from ingestion_dagster.settings import Settings

COLLISION = Problem(
    "dedupe_collision",
    "the row",
    "its id stands for somebody else in this file or in one that was loaded before: neither NHS number nor names agree; correct the id",
)

_SHORTEST_KEY = 32
_BYTES = 16
"""Of a hash: two rows of a billion share one by a chance of 1 in 10²⁰."""


@dataclass(frozen=True, slots=True)
class RowIdentity:
    """By what a row is known: itself, its content, and its person (None: unknown), as hashes."""

    identity: bytes
    row_hash: bytes
    nhs_hash: bytes | None
    name_hash: bytes | None


class Hasher:
    """Hashes under one key. The same words under another key give something else."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, *words: str) -> bytes:
        """The hash of some words, in this order."""
        return hmac.digest(self._key, orjson.dumps(words), "sha256")[:_BYTES]

    @property
    def fingerprint(self) -> bytes:
        """By what the key can be known again, and not guessed."""
        return self.of("fingerprint")

    def of_file(self, raw: bytes) -> str:
        """The hash of a file's content, in hex."""
        return hmac.digest(self._key, raw, "sha256").hex()

    def of_row(self, dataset: str, prepared: Prepared) -> RowIdentity:
        """What the ledger knows a row by."""
        person = prepared.person
        names = (_folded(person.first_name), _folded(person.last_name))
        known_by = [prepared.dedupe_id]
        if dataset in IDS_NAME_NO_PERSON:
            known_by += [*names, person.date_of_birth, *_contacts(prepared.request)]
        sent: dict[str, Any] = {
            "request": dict(prepared.request),
            "notes": [(note.author, note.text) for note in prepared.notes],
            "shielding": prepared.shielding_note.text if prepared.shielding_note else None,
        }
        return RowIdentity(
            identity=self.of("identity", dataset, *known_by),
            row_hash=hmac.digest(self._key, orjson.dumps(sent, option=orjson.OPT_SORT_KEYS), "sha256")[:_BYTES],
            nhs_hash=self.of("nhs", person.nhs_number) if person.nhs_number else None,
            name_hash=self.of("name", *names) if all(names) else None,
        )


class Namesakes:
    """Who came first under each id of a file."""

    def __init__(self) -> None:
        self._first: dict[bytes, RowIdentity] = {}

    def is_somebody_else(self, row: RowIdentity) -> bool:
        """Whether neither NHS number nor names are those of the first row with this id, and one of them is known of both."""
        first = self._first.setdefault(row.identity, row)
        pairs = [(first.nhs_hash, row.nhs_hash), (first.name_hash, row.name_hash)]
        known = [mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        return bool(known) and not any(known)


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()


def _contacts(request: Mapping[str, Any]) -> list[str]:
    return [str(request.get(field, "")) for field in ("Uprn", "ContactTelephoneNumber", "ContactMobileNumber", "EmailAddress")]


def hasher(settings: Settings) -> Hasher:
    """The hasher of this installation. Without a key of its own one is made, once, below the home.

    Raises `ConfigurationError` for a key that is too short, and without one anywhere but on a laptop: machines have to share it.
    """
    if settings.residents_hash_key is not None:
        key = settings.residents_hash_key.get_secret_value().encode()
        if len(key) < _SHORTEST_KEY:
            raise ConfigurationError(f"INGESTION_RESIDENTS_HASH_KEY is shorter than {_SHORTEST_KEY} characters")
        return Hasher(key)
    if settings.environment != "local":
        raise ConfigurationError(f"{settings.environment} needs a key of its own for the ledger's hashes: set INGESTION_RESIDENTS_HASH_KEY")
    otherwise = "set INGESTION_RESIDENTS_HASH_KEY; with another key every row is new"
    return Hasher(own_key(settings.home_folder / "residents.key", otherwise).encode())


def sha256(raw: bytes) -> str:
    """The plain hash of a file, for the people who sent it."""
    return hashlib.sha256(raw).hexdigest()
