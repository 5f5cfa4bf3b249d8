"""The SQLite file of the sandbox's events platform: its tables, and transactions on them.

A transaction that has returned outlives the process, however that ends: it is in the write-ahead log, which the kernel holds. It may
not outlive a loss of power, as nothing waits for the disk: that is what makes thousands of events a second possible, and is enough for
a stand-in.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = 1

_TABLES = (
    "post",
    "acquirer_event",
    "supplier_event",
    "acquirer_subscription",
    "supplier_subscription",
    "acquirer",
    "supplier",
    "client",
    "switch",
)

_SCHEMA = """
CREATE TABLE switch (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE client (client_id TEXT PRIMARY KEY, name TEXT NOT NULL, secret TEXT NOT NULL, scope TEXT NOT NULL);
CREATE TABLE supplier (id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at INTEGER NOT NULL, deleted_at INTEGER);
CREATE TABLE acquirer (id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at INTEGER NOT NULL, deleted_at INTEGER);
CREATE TABLE supplier_subscription (
    id TEXT PRIMARY KEY, supplier_id TEXT NOT NULL REFERENCES supplier (id), client_id TEXT NOT NULL, event_type TEXT NOT NULL,
    created_at INTEGER NOT NULL, deleted_at INTEGER
);
CREATE UNIQUE INDEX supplier_subscription_live ON supplier_subscription (client_id, event_type) WHERE deleted_at IS NULL;
CREATE TABLE acquirer_subscription (
    id TEXT PRIMARY KEY, acquirer_id TEXT NOT NULL REFERENCES acquirer (id), event_type TEXT NOT NULL, client_id TEXT, queue TEXT,
    principal TEXT, fields TEXT NOT NULL, in_poll INTEGER NOT NULL, created_at INTEGER NOT NULL, deleted_at INTEGER,
    CHECK ((client_id IS NULL) <> (queue IS NULL))
);
CREATE INDEX acquirer_subscription_type ON acquirer_subscription (event_type) WHERE deleted_at IS NULL;
CREATE INDEX acquirer_subscription_client ON acquirer_subscription (client_id) WHERE deleted_at IS NULL;
CREATE TABLE supplier_event (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, subscription_id TEXT NOT NULL REFERENCES supplier_subscription (id),
    event_type TEXT NOT NULL, data_id TEXT NOT NULL UNIQUE, event_time TEXT, created_at INTEGER NOT NULL, deleted_at INTEGER,
    subscribers INTEGER NOT NULL, unconsumed INTEGER NOT NULL CHECK (unconsumed BETWEEN 0 AND subscribers)
);
CREATE INDEX supplier_event_deletable ON supplier_event (event_type, number) WHERE deleted_at IS NULL AND unconsumed = 0;
CREATE TABLE acquirer_event (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, supplier_event INTEGER NOT NULL REFERENCES supplier_event (number),
    subscription_id TEXT NOT NULL REFERENCES acquirer_subscription (id), data_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    deleted_at INTEGER
);
CREATE INDEX acquirer_event_open ON acquirer_event (subscription_id, created_at, number) WHERE deleted_at IS NULL;
CREATE TABLE post (
    number INTEGER PRIMARY KEY, data_id TEXT NOT NULL, client_id TEXT NOT NULL, at INTEGER NOT NULL, stored INTEGER NOT NULL
);
"""


class Database:
    """One connection to the file, or to memory without one; used by one thread at a time."""

    def __init__(self, file: Path | None = None) -> None:
        if file is not None:
            file.touch(mode=0o600)
        # In tests it is not the thread that made it.
        self._connection = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")
        if self.one("PRAGMA user_version") != VERSION:
            self.clear()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def clear(self) -> None:
        """Empty tables, at once; not within a transaction."""
        drops = "".join(f"DROP TABLE IF EXISTS {table};" for table in _TABLES)
        self._connection.executescript(f"BEGIN; {drops} {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing. One within another is part of it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def run(self, statement: str, /, **values: Any) -> int:
        """Run a statement; how many rows it has changed."""
        return self._connection.execute(statement, values).rowcount

    def insert(self, statement: str, /, **values: Any) -> int | None:
        """Run an INSERT of one row; its number, None if it conflicts and does nothing."""
        cursor = self._connection.execute(statement, values)
        return cursor.lastrowid if cursor.rowcount == 1 else None

    def one(self, statement: str, /, **values: Any) -> Any:
        """The only value of the first row; None without one."""
        row = self._connection.execute(statement, values).fetchone()
        return row[0] if row else None

    def rows(self, statement: str, /, **values: Any) -> list[tuple[Any, ...]]:
        """All rows."""
        return self._connection.execute(statement, values).fetchall()

    def switches(self) -> Mapping[str, str]:
        """What has been set to outlive the process."""
        return dict(self._connection.execute("SELECT name, value FROM switch"))

    def switch(self, name: str, value: str | None) -> None:
        """Set one of them; None: forget it."""
        if value is None:
            self.run("DELETE FROM switch WHERE name = :name", name=name)
        else:
            self.run("INSERT INTO switch VALUES (:name, :value) ON CONFLICT DO UPDATE SET value = excluded.value", name=name, value=value)
