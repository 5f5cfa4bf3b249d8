"""The steps of the first day on a living system: one that fails leaves everything as it was, and says why without quoting a row."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from ingestion_dagster.engine.errors import ConfigurationError

_SPEAK_OF_NO_ROWS = ("42", "2B", "0A", "55", "40", "57", "53")
"""Classes of errors that speak of tables, rights and sessions. Messages of others may quote rows."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """What the database says against a step is a `ConfigurationError`; it quotes no row."""
    try:
        yield
    except psycopg.Error as error:
        raise ConfigurationError(f"nothing was changed: {what} failed ({said(error)})") from None


def said(error: psycopg.Error) -> str:
    """What the database said, as far as it can have quoted no row."""
    state = error.sqlstate or "connection lost"
    if error.sqlstate and state.startswith(_SPEAK_OF_NO_ROWS):
        return f"{error.diag.message_primary}, SQLSTATE {state}"
    return f"SQLSTATE {state}" + (f", {error.diag.constraint_name}" if error.diag.constraint_name else "")
