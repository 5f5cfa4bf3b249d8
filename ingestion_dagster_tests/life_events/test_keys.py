"""Keys of hashes and of the event store: which are usable, what a sealed payload is bound to, and that no secret shows."""

import hmac
import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events.keys import ENCRYPTION_KEYS, HMAC_KEYS, Hasher, Key, Undecipherable, hasher, vault
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.life_events.stores import hashing, key_of, vault_of

LONG = "PLACEHOLDER-secret-of-32-chars-and-more"  # pragma: allowlist secret
OTHER = "ANOTHER-PLACEHOLDER-of-32-chars-or-more"  # pragma: allowlist secret
HEX, OTHER_HEX = "0a" * 32, "0B" * 32


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(home=tmp_path, **values)  # type: ignore[arg-type]


def test_what_is_sealed_opens_again_and_never_looks_the_same() -> None:
    vault = vault_of("k1")
    first, second = vault.seal(key_of(1), b"payload"), vault.seal(key_of(1), b"payload")
    assert first != second
    assert b"payload" not in first
    assert vault.open(key_of(1), "k1", first) == vault.open(key_of(1), "k1", second) == b"payload"
    assert len(first) == 12 + len(b"payload") + 16


def test_an_older_key_opens_and_the_current_one_seals() -> None:
    sealed = vault_of("k1").seal(key_of(1), b"payload")
    rotated = vault_of("k2", "k1")
    assert rotated.open(key_of(1), "k1", sealed) == b"payload"
    assert rotated.current.id == "k2"
    assert vault_of("k2").open(key_of(1), "k2", rotated.seal(key_of(1), b"payload")) == b"payload"


def test_a_payload_in_another_row_does_not_open() -> None:
    sealed = vault_of("k1").seal(key_of(1), b"payload")
    with pytest.raises(Undecipherable, match="does not open with key k1"):
        vault_of("k1").open(key_of(2), "k1", sealed)


def test_a_payload_does_not_open_under_another_id_of_the_same_key() -> None:
    (key,) = (vault_of("k1").current,)
    renamed = type(vault_of("k1"))((Key("k2", key.secret), key))
    with pytest.raises(Undecipherable):
        renamed.open(key_of(1), "k2", vault_of("k1").seal(key_of(1), b"payload"))


@pytest.mark.parametrize("position", [0, 11, 12, 18, -1])
def test_a_payload_that_was_changed_does_not_open(position: int) -> None:
    sealed = bytearray(vault_of("k1").seal(key_of(1), b"payload"))
    sealed[position] ^= 1
    with pytest.raises(Undecipherable):
        vault_of("k1").open(key_of(1), "k1", bytes(sealed))


@pytest.mark.parametrize("length", [0, 5, 12, 27])
def test_a_payload_that_was_cut_does_not_open(length: int) -> None:
    with pytest.raises(Undecipherable):
        vault_of("k1").open(key_of(1), "k1", vault_of("k1").seal(key_of(1), b"")[:length])


def test_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(Undecipherable, match=f"under key k1, which {ENCRYPTION_KEYS} does not name"):
        vault_of("k2").open(key_of(1), "k1", vault_of("k1").seal(key_of(1), b"payload"))


def test_one_vault_serves_many_threads() -> None:
    vault = vault_of("k1")

    def there_and_back(number: int) -> bool:
        payload = os.urandom(2000)
        return vault.open(key_of(number), "k1", vault.seal(key_of(number), payload)) == payload

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(400)))


def test_hashes_are_hmac_sha256_under_each_key() -> None:
    hashes = hashing("new", "old", "oldest")
    secrets = [key.secret for key in hashes.keys]
    assert hashes.of(b"record") == hmac.digest(secrets[0], b"record", "sha256")
    assert hashes.older_of(b"record") == [hmac.digest(secret, b"record", "sha256") for secret in secrets[1:]]
    assert len({key.fingerprint for key in hashes.keys}) == 3


def test_keys_come_from_the_settings_the_current_one_first(tmp_path: Path) -> None:
    made = hasher(settings(tmp_path, life_events_hmac_keys=SecretStr(f" new:{LONG} , old.1:{OTHER},")))
    assert [(key.id, key.secret) for key in made.keys] == [("new", LONG.encode()), ("old.1", OTHER.encode())]
    sealing = vault(settings(tmp_path, life_events_encryption_keys=SecretStr(f"new:{HEX},old:{OTHER_HEX}")))
    assert sealing.current.secret == bytes.fromhex(HEX)
    older = vault(settings(tmp_path, life_events_encryption_keys=SecretStr(f"old:{OTHER_HEX}")))
    assert sealing.open(key_of(1), "old", older.seal(key_of(1), b"payload")) == b"payload"


UNUSABLE = {
    "no id": (LONG, HEX),
    "empty id": (f":{LONG}", f":{HEX}"),
    "odd id": (f"k 1:{LONG}", f"k 1:{HEX}"),
    "key in place of the id": (f"{LONG}:k1", f"{HEX}:k1"),
    "short": ("k1:PLACEHOLDER", "k1:0a0b"),
    "nothing": (" , ", " , "),
    "one id twice": (f"k1:{LONG},k1:{OTHER}", f"k1:{HEX},k1:{OTHER_HEX}"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_keys_are_refused_and_not_shown(case: str, tmp_path: Path) -> None:
    for_hashes, for_events = UNUSABLE[case]
    with pytest.raises(ConfigurationError, match=HMAC_KEYS) as hashes:
        hasher(settings(tmp_path, life_events_hmac_keys=SecretStr(for_hashes)))
    with pytest.raises(ConfigurationError, match=ENCRYPTION_KEYS) as events:
        vault(settings(tmp_path, life_events_encryption_keys=SecretStr(for_events)))
    for raised in (hashes, events):
        said = "".join(traceback.format_exception(raised.value))
        assert not any(secret in said for secret in ("PLACEHOLDER", HEX, OTHER_HEX, "0a0b"))


def test_encryption_keys_are_hex_and_no_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="64 hex digits"):
        vault(settings(tmp_path, life_events_encryption_keys=SecretStr(f"k1:{'g' * 64}")))


def test_a_laptop_makes_its_own_keys_once(tmp_path: Path) -> None:
    first, second = hasher(settings(tmp_path)), hasher(settings(tmp_path))
    assert first.keys == second.keys
    sealed = vault(settings(tmp_path)).seal(key_of(1), b"payload")
    assert vault(settings(tmp_path)).open(key_of(1), "local", sealed) == b"payload"
    assert vault(settings(tmp_path)).current.secret != first.current.secret
    for name in ("life_events_hmac.key", "life_events_encryption.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_nowhere_else_keys_are_made(environment: str, tmp_path: Path) -> None:
    for make, variable in ((hasher, HMAC_KEYS), (vault, ENCRYPTION_KEYS)):
        with pytest.raises(ConfigurationError, match=f"set {variable}"):
            make(settings(tmp_path, environment=environment))
    assert list(tmp_path.iterdir()) == []


def test_no_text_of_them_shows_a_secret() -> None:
    hashes, sealing = Hasher((Key("k1", LONG.encode()),)), vault_of("k1")
    shown = f"{hashes!r} {hashes.current!r} {hashes.keys} {sealing!r} {sealing.current}"
    assert "k1" in shown
    assert LONG not in shown
    assert repr(sealing.current.secret) not in shown
