"""The columns a table has had: what a file is compared with, and what becomes of one that differs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import yaml
from psycopg.types.json import Jsonb

from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column, is_wider
from ingestion_dagster.cubic.registry import CHANGES, CubicTable, Registry
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection

SCHEMA_CHANGED = "schema_changed"
WAITS_FOR = "schema"
"""What a load waits for whose table a person has to decide about."""

VERSIONS = """
SELECT s.version, s.columns, s.key, s.since, s.registered, s.described
FROM cubic.schemas AS s JOIN ledger.datasets AS d ON d.id = s.dataset_id
WHERE d.pipeline = 'cubic' AND d.name = %(dataset)s ORDER BY s.version
"""

REGISTERED = """
SELECT name, columns, key FROM (
    SELECT DISTINCT ON (d.name) d.name, s.columns, s.key, s.registered
    FROM cubic.schemas AS s JOIN ledger.datasets AS d ON d.id = s.dataset_id
    WHERE d.pipeline = 'cubic' AND s.load_id IS NULL ORDER BY d.name, s.version DESC) AS decided
WHERE registered
"""

ADD = """
INSERT INTO cubic.schemas (dataset_id, version, columns, key, registered, described, since, load_id)
SELECT d.id, coalesce(max(s.version), 0) + 1, %(columns)s, %(key)s, %(registered)s, %(described)s,
       CASE WHEN max(s.version) IS NOT NULL THEN coalesce(%(since)s, clock_timestamp()) END, %(load_id)s
FROM ledger.datasets AS d LEFT JOIN cubic.schemas AS s ON s.dataset_id = d.id
WHERE d.pipeline = 'cubic' AND d.name = %(dataset)s
GROUP BY d.id
"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('cubic schemas ' || %(dataset)s, 0))"

TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('cubic schemas ' || %(dataset)s, 0))"

HELD_SINCE = """
SELECT min(l.modified) FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE d.pipeline = 'cubic' AND d.name = %(dataset)s AND l.waiting_for = 'schema'
"""


@dataclass(frozen=True, slots=True)
class Version:
    """The columns and key of a table from some time on; `since` None: from the first file on."""

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    since: datetime | None = None
    registered: bool = False
    described: bool = True
    """Whether types and key are known; otherwise a header has given the names, and the first `.dfm` decides about the rest."""

    def says_the_same(self, other: "Version") -> bool:
        """Whether the other says nothing else of columns and key; when and by what it came up does not matter."""
        return (self.columns, self.key, self.described) == (other.columns, other.key, other.described)

    @property
    def names(self) -> frozenset[str]:
        """The names of its columns."""
        return frozenset(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a file says of itself: the names in its header, and types and key if a `.dfm` came with it."""

    header: tuple[str, ...]
    types: Mapping[str, str] | None = None
    key: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns; what has no type is text."""
        return tuple(Column(name, (self.types or {}).get(name, "string")) for name in self.header)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a file is written: its columns in order; `version` is new if the table has gained something by it."""

    version: Version
    is_new: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns to write, in order."""
        return self.version.columns


Accept = Callable[[Offer], Fit]
"""Decides how a file is written, by what it says of itself; raises `Refused` or `Held`."""


class Held(Exception):
    """A table that may gain columns has lost one, or changed in another way that a person has to decide about."""

    def __init__(self, problem: Problem, proposed: str) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.proposed = proposed
        """An entry for the registry by which the file would be loaded; empty if nothing vouches for its columns."""


def fit(table: CubicTable, versions: Sequence[Version], offer: Offer, modified: datetime) -> Fit:
    """How a file fits the versions of its table (oldest first).

    A file that was written before a version came up may be of an older one. Raises `Refused` (`schema_changed`) for a table that is
    strict; `Held` for one that is not, if columns are gone, a type is narrower or the key is another.
    """
    if not versions:
        _refuse_values(table, offer)
        return Fit(Version(offer.columns, table.key or offer.key, described=offer.types is not None), is_new=True)
    newest = versions[-1]
    if not newest.described and offer.types is not None and newest.names == set(offer.header):
        return Fit(Version(offer.columns, table.key or offer.key, since=newest.since), is_new=True)
    then = next(version for version in reversed(versions) if version.since is None or version.since <= modified or version is versions[0])
    for version in (newest, then):
        if version.names == set(offer.header) and not _changes(table, version, offer):
            return Fit(version)
    if not table.strict and then.names <= set(offer.header) <= newest.names and not _changes(table, newest, offer):
        return Fit(newest)  # it has some of the columns that have been added since
    added = tuple(column for column in offer.columns if column.name not in newest.names)
    dropped = [column.name for column in newest.columns if column.name not in offer.header]
    changes = _changes(table, newest, offer)
    narrower = [change for change in changes if not change.wider]
    problem = _problem(table, offer, added, dropped, [change.what for change in changes])
    if table.strict:
        raise Refused(problem)
    if dropped or narrower:
        raise Held(problem, _proposed(table, offer))
    wider = {change.name: change.type for change in changes}
    columns = (*(Column(column.name, wider.get(column.name, column.type)) for column in newest.columns), *added)
    return Fit(Version(columns, newest.key, since=modified, described=newest.described), is_new=True)


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    type: str
    what: str
    wider: bool


def _changes(table: CubicTable, version: Version, offer: Offer) -> list[_Change]:
    """Types and key that differ from a version's, as far as the file says and the registry does not decide."""
    if not version.described:
        return []
    changes = []
    decided = {column.name for column in table.columns or ()}
    for column in version.columns:
        offered = (offer.types or {}).get(column.name)
        if offered is not None and column.name not in decided and offered != column.type:
            what = f"column '{column.name}' is {offered}, was {column.type}"
            changes.append(_Change(column.name, offered, what, is_wider(offered, column.type)))
    if offer.types is not None and not table.key and offer.key != version.key:
        was, now = (", ".join(key) or "none" for key in (version.key, offer.key))
        changes.append(_Change("", "", f"the key is {now}, was {was}", wider=False))
    return changes


_NAME = re.compile(r"[^\W\d]\w*([ ._$#-]\w+)*")


def _refuse_values(table: CubicTable, offer: Offer) -> None:
    """Refuse a first line that nothing describes and that does not look like names: its values would become columns."""
    if offer.types is None and table.columns is None and not all(_NAME.fullmatch(name) for name in offer.header):
        said = "the first line holds what are no names of columns: deliver the file with its header, or list the columns in the registry"
        raise Refused(Problem("header_unreadable", "line 1", said))


def _proposed(table: CubicTable, offer: Offer) -> str:
    """The table's entry with the columns and the key of a file that a `.dfm` describes."""
    if offer.types is None:
        return ""
    own = {column.name for column in CHANGE_COLUMNS}
    entry = {
        "name": table.base or table.name,
        "prefix": table.prefix if table.base is None else f"{table.prefix.removesuffix(f'{CHANGES}/')}/",
        "kind": table.kind,
        "strict": table.strict,
        "columns": {column.name: column.type for column in offer.columns if column.name not in own},
        "key": list(offer.key),
    }
    text: str = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=200)
    return text


_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$#]{0,127}")


def _problem(table: CubicTable, offer: Offer, added: Sequence[Column], dropped: Sequence[str], changes: Sequence[str]) -> Problem:
    """What is different, in names; a header field that no `.dfm` vouches for may be a value, and is shown by its position."""
    vouched = offer.types or {}
    news = [
        f"'{column.name}' is new"
        if column.name in vouched and _PLAIN_NAME.fullmatch(column.name)
        else f"column {offer.header.index(column.name) + 1} is new"
        for column in added
    ]
    known = [column.name for column in table.columns or ()] if offer.types is None else dropped
    gone = [f"'{name}' is gone" if name in known else "a column is gone" for name in dropped]
    what = "; ".join([*news, *gone, *changes])
    step = "correct the file, or change the table's entry in the registry ('ingestion cubic propose' writes one from a .dfm)"
    return Problem(SCHEMA_CHANGED, "header", f"{what}: {step}, then 'ingestion retry cubic --dataset {table.name}'")


def versions_of(connection: Connection, dataset: str) -> list[Version]:
    """The versions of a table, oldest first."""
    return [
        Version(tuple(Column(name, kind) for name, kind in columns), tuple(key), since, registered, described)
        for _, columns, key, since, registered, described in connection.execute(VERSIONS, {"dataset": dataset})
    ]


def add(connection: Connection, dataset: str, version: Version, *, load_id: int | None = None) -> None:
    """Enter a new version of a table; in the caller's transaction."""
    connection.execute(
        ADD,
        {
            "dataset": dataset,
            "columns": Jsonb([[column.name, column.type] for column in version.columns]),
            "key": list(version.key),
            "registered": version.registered,
            "described": version.described,
            "since": version.since,
            "load_id": load_id,
        },
    )


def lock(connection: Connection, dataset: str) -> None:
    """Let nobody else enter versions of this table until the transaction ends."""
    connection.execute(LOCK, {"dataset": dataset})


def stands_at(connection: Connection, dataset: str, versions: int) -> bool:
    """Whether the table still has so many versions, and nobody but us can enter another until the transaction ends."""
    ours = connection.execute(TRY_LOCK, {"dataset": dataset}).fetchone() == (True,)
    return ours and len(versions_of(connection, dataset)) == versions


def sync(connection: Connection, registry: Registry) -> None:
    """Enter what the registry says of columns, where it says something else than it did. The datasets must be in the ledger."""
    known = _registered(connection)
    for table in registry.tables.values():
        if _wanted(table) == known.get(table.name):
            continue
        with connection.transaction():
            lock(connection, table.name)
            if _wanted(table) == _registered(connection).get(table.name):
                continue  # somebody else was quicker
            if table.columns is None:
                add(connection, table.name, _by_files(versions_of(connection, table.name)))
            else:
                add(connection, table.name, Version(table.columns, table.key, registered=True))


_Decision = tuple[tuple[Column, ...], tuple[str, ...]]


def _wanted(table: CubicTable) -> _Decision | None:
    """Columns and key as the registry says them; None: it leaves them to the files."""
    return None if table.columns is None else (table.columns, table.key)


def _registered(connection: Connection) -> dict[str, _Decision]:
    """By table, what the registry has last been seen to say; tables of which it says nothing are not among them."""
    rows = connection.execute(REGISTERED)
    return {name: (tuple(Column(column, kind) for column, kind in columns), tuple(key)) for name, columns, key in rows}


def _by_files(versions: Sequence[Version]) -> Version:
    """What holds once the registry says nothing any more: what files have brought; else its names, and the next `.dfm` decides."""
    brought = next((version for version in reversed(versions) if not version.registered), None)
    return replace(versions[-1], registered=False, since=None, described=False) if brought is None else replace(brought, since=None)


def held_since(connection: Connection, dataset: str) -> datetime | None:
    """When the oldest file was modified that waits for a decision about its table's columns."""
    row = connection.execute(HELD_SINCE, {"dataset": dataset}).fetchone()
    return row[0] if row else None


def described(columns: Sequence[Column]) -> list[tuple[str, str, str]]:
    """Columns as metadata of an asset shows them: name, type, meaning."""
    meanings: dict[str, str] = {
        CHANGE_COLUMNS[0].name: "order of the change, 35 digits",
        CHANGE_COLUMNS[1].name: "I insert, U update, D delete, B before-image",
        CHANGE_COLUMNS[2].name: "when the source committed it",
    }
    return [(column.name, column.type, meanings.get(column.name, "")) for column in columns]


def as_json(version: Version) -> dict[str, Any]:
    """A version as alerts and commands show it."""
    return {"columns": {column.name: column.type for column in version.columns}, "key": list(version.key)}
