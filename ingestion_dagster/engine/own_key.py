"""A key that an installation makes for itself, once, where none is set."""

import os
import secrets
from pathlib import Path

from ingestion_dagster.engine.errors import ConfigurationError

SHORTEST = 32
"""Characters."""


def own_key(file: Path, otherwise: str) -> str:
    """The key in a file that only we may read, 64 hex digits; made if it is not there, whoever comes first.

    Raises `ConfigurationError` for a file without one; `otherwise` says what else can be done.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        aside = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as writing:
            writing.write(secrets.token_hex(32))
            writing.flush()
            os.fsync(writing.fileno())
        try:
            os.link(aside, file)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    key = file.read_text(encoding="ascii").strip()
    if len(key) < SHORTEST:
        raise ConfigurationError(f"{file} holds no key: restore it, or {otherwise}")
    return key
