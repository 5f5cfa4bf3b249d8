"""What a database says when a copy fails, as an outcome: try again, change a setting, or look at the data. Never its own text."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors

from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient

UPSTREAM, API, LEDGER = "the upstream database", "the API's database", "the ledger's database"

_VARIABLE = {
    UPSTREAM: "INGESTION_CATALOG_UPSTREAM_URL",
    API: "INGESTION_CATALOG_API_DATABASE_URL",
    LEDGER: "INGESTION_DATABASE_URL",
}

_TRANSIENT: tuple[tuple[str, str, str], ...] = (
    ("53100", "disk_full", "has no room left: make some"),
    ("53", "database_overloaded", "has no room or connections left"),
    ("25006", "database_read_only", "takes no writes: it is a standby, or switched to read only"),
    ("57014", "query_cancelled", "was told to cancel a statement"),
    ("57", "connection_lost", "is being shut down, or ended the connection"),
    ("58", "database_failed", "had a fault of its system"),
    ("40", "database_conflict", "could not serve this beside something else"),
    ("55P03", "lock_not_available", "has a lock that somebody else holds"),
    ("08", "connection_lost", "ended the connection"),
    ("25P", "connection_lost", "ended a transaction that was idle for too long"),
    ("XX", "database_failed", "had an internal fault"),
)
"""Beginnings of SQLSTATEs, the longer before the shorter, with their code and what has happened."""

_VALUES: dict[str, tuple[str, str]] = {
    "22001": ("value_too_long", "a value is longer than the API's column takes"),
    "22P05": ("unsupported_character", "text has a character that jsonb cannot hold (NUL)"),
    "22021": ("unsupported_character", "text is not in the encoding of the API's database"),
    "22003": ("value_out_of_range", "a number is larger than its column takes"),
    "23505": ("duplicate_value", "a value is there twice that the table takes once"),
    "42P01": ("relation_gone", "a relation went away while it was copied"),
    "42703": ("column_gone", "a column went away while the table was copied"),
}


@contextmanager
def told(where: str, table: str) -> Iterator[None]:
    """Turn what psycopg raises in the block into `Transient`, `ConfigurationError` or `Refused`, without a value and without a cause."""
    try:
        yield
    except psycopg.Error as error:
        raise outcome(error, where, table) from None
    except OSError as error:
        raise Transient("connection_lost", f"{where} could not be spoken to ({type(error).__name__})") from None


def outcome(error: psycopg.Error, where: str, table: str) -> Exception:
    """What an error means for the run."""
    state = error.sqlstate
    if state is None and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Refused(Problem("copy_failed", table, f"a value could not be handled ({type(error).__name__})"))
    if state is None:
        return Transient("connection_lost", f"{where} ended the connection ({type(error).__name__})")
    if isinstance(error, errors.InsufficientPrivilege):
        return ConfigurationError(f"the role of {_VARIABLE[where]} lacks a privilege that copying '{table}' needs: {_privilege(error)}")
    for beginning, code, what in _TRANSIENT:
        if state.startswith(beginning):
            return Transient(code, f"{where} {what} (SQLSTATE {state})")
    return Refused(_problem(error, state, table))


def _problem(error: psycopg.Error, state: str, table: str) -> Problem:
    if state == "23502":
        return Problem("null_value", f"{table}.{error.diag.column_name}", "upstream has rows without a value that the API's column needs")
    if state == "23514":
        return Problem("check_violated", f"{table}: {error.diag.constraint_name}", "upstream has rows that a constraint of the API refuses")
    code, message = _VALUES.get(state, ("copy_failed", "the database refused a statement; its log says more"))
    return Problem(code, table, f"{message} (SQLSTATE {state})")


def _privilege(error: psycopg.Error) -> str:
    """Which object, in the server's words: they name an object, and no value."""
    return (error.diag.message_primary or "permission denied").splitlines()[0]
