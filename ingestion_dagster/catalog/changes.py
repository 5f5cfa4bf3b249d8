"""Upstream rows that have changed: collected beside the live table, cleaned and numbered as the copy does, and written into it."""

import logging
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors, sql
from psycopg.types.json import Jsonb

from ingestion_dagster.catalog import cleaning, copy_errors, copy_sql, hosts, ids, refreshes, updates_sql, upstream_types
from ingestion_dagster.catalog.cleaning import Rules
from ingestion_dagster.catalog.places import Places, record_limit
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.row_reads import moderation_table
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.catalog.upstream_types import Column
from ingestion_dagster.engine import ledger as loads
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

_BUFFER = 256 * 1024
_CLEANED_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Change:
    """A changed row: its number among them, the id of its live row, and whether moderation has deleted it."""

    number: int
    id: int
    gone: bool


class Misfit(Refused):
    """Upstream has become another than the API's tables are: nothing can be fetched from it until one of them is changed."""


class Changes:
    """The changed rows of a media type's first table, in a temporary table of the connection to the API's database.

    `schema`: of the table that they are to be written into.
    """

    def __init__(
        self, places: Places, ledger: Connection, upstream: Connection, api: Connection, media: MediaType, schema: str = LIVE
    ) -> None:
        self._places = places
        self._ledger = ledger
        self._upstream = upstream
        self._api = api
        self._media = media
        self._table = media.table
        self._schema = schema
        self._columns: tuple[Column, ...] = ()
        self.rows = 0
        """How many upstream rows have changed."""
        self.deferred = 0
        """New ones that are left to the next update, for a copy that is under way may be giving them their ids."""

    @property
    def _into(self) -> sql.Identifier:
        return sql.Identifier(self._schema, self._table.name)

    def collect(self, since: datetime) -> datetime:
        """Fetch and clean what upstream has changed since a moment. Returns up to which moment nothing is missing, by its clock.

        Raises `Misfit` with the problems of an upstream that does not fit, `Refused` for a value that can never be taken, and `Transient`.
        """
        problems = upstream_types.problems(self._upstream, self._api, self._media)
        if problems:
            raise Misfit(*problems)
        theirs = upstream_types.columns(self._upstream, upstream_types.qualified(self._upstream, self._table.upstream))
        ours = upstream_types.columns(self._api, f"{LIVE}.{self._table.name}")
        self._columns = upstream_types.shared(theirs, ours)
        if "updated_on" not in {column.name for column in self._columns}:
            raise Misfit(Problem("no_updated_on", self._table.upstream, "without this column nobody knows what has changed"))
        watermark = self._fetch(since)
        self._forget_older()
        if self._table.cleaned:
            self._clean()
        return watermark

    def collect_live(self, since: datetime) -> int:
        """Take, instead of upstream's, the rows that readers have by updates: those of the live table that changed since a moment.

        Rows that are younger in the table to be written into stay as they are. Returns how many were taken.
        """
        live = upstream_types.columns(self._api, f"{LIVE}.{self._table.name}")
        there = {column.name for column in upstream_types.columns(self._api, f"{self._schema}.{self._table.name}")}
        needed = ("id", "updated_on", *self._table.key)
        if not _has({column.name for column in live}, needed) or not _has(there, needed):
            return 0
        self._columns = tuple(column for column in upstream_types.shared(live, live) if column.name in there)
        names = self._make_room()
        taken = sql.SQL(updates_sql.FROM_LIVE).format(columns=names, live=sql.Identifier(LIVE, self._table.name))
        self.rows = self._api.execute(taken, {"since": since}).rowcount
        overtaken = sql.SQL(updates_sql.FORGET_OVERTAKEN).format(known=self._into, same=self._same("known", "change"))
        self.rows -= self._api.execute(overtaken).rowcount
        return self.rows

    def find(self) -> None:
        """Give every row the id of the identity's row in any generation, and look which of them moderation has deleted."""
        self._find(self._generations(self._copying()[1]))

    def _find(self, generations: Sequence[sql.Identifier]) -> None:
        for table in generations:
            self._api.execute(sql.SQL(updates_sql.FIND).format(known=table, same=self._same("known", "change")))
        if (deleted := moderation_table(self._api, self._table.deleted)) is not None:
            self._api.execute(sql.SQL(updates_sql.MODERATE).format(deleted=sql.Identifier(LIVE, deleted)))

    def new_rows(self) -> int:
        """How many rows have been found nowhere, and may be shown."""
        return self._one(sql.SQL(updates_sql.WITHOUT_ID))

    def number(self) -> None:
        """Give every row its id, and new ones ids that nobody has had; rows that get none are left out.

        The caller holds the media type until it has written them: who numbers them next has to find them.
        """
        going, numbered = self._copying()
        generations = self._generations(numbered)
        self._find(generations)
        fresh = self.new_rows()
        taken = 0 if going else self._room(fresh)
        self.deferred = fresh if going else 0
        if taken:
            highest = ids.last_number(self._api, f"{LIVE}.{self._table.name}")
            for table in generations:
                highest = max(highest, self._one(sql.SQL(updates_sql.HIGHEST).format(table=table)))
            first = ids.reserve(self._ledger, self._table.name, taken, highest, largest=self._largest_id())
            self._api.execute(updates_sql.NUMBER, {"first": first, "count": taken})
            ids.number_on(self._api, f"{LIVE}.{self._table.name}", first + taken - 1)
        self._api.execute(updates_sql.LEAVE_OUT)

    def batches(self, size: int) -> Iterator[list[Change]]:
        """The changes that have an id, so many at a time, each once."""
        behind = 0
        while batch := [Change(*row) for row in self._api.execute(updates_sql.BATCH, {"behind": behind, "limit": size})]:
            yield batch
            behind = batch[-1].number
        self._api.execute(updates_sql.HANDED_OUT)

    def upsert(self, batch: Sequence[Change]) -> tuple[int, frozenset[int]]:
        """Write rows into the live table: how many were not there as they are, and the numbers of those that it refused."""
        numbers = [change.number for change in batch]
        try:
            return self._upserted(numbers), frozenset()
        except (errors.IntegrityError, errors.DataError) as error:
            log.warning("%s: a batch has a row that does not fit in (%s)", self._table.name, type(error).__name__)
        written, refused = 0, set()
        for number in numbers:
            try:
                written += self._upserted([number])
            except (errors.IntegrityError, errors.DataError):
                refused.add(number)
        return written, frozenset(refused)

    def _upserted(self, numbers: Sequence[int]) -> int:
        names = [column.name for column in self._columns]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        statement = sql.SQL(updates_sql.UPSERT).format(
            live=self._into,
            columns=columns,
            values=columns,
            sets=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names),
            current=sql.SQL(", ").join(sql.Identifier("live", name) for name in names),
            excluded=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in names),
        )
        with self._api.transaction():
            return self._api.execute(statement, {"numbers": list(numbers)}).rowcount

    def _fetch(self, since: datetime) -> datetime:
        names = self._make_room()
        cast = [sql.SQL("{}::{}").format(sql.Identifier(column.name), sql.SQL(column.raw_type)) for column in self._columns]
        relation = upstream_types.qualified(self._upstream, self._table.upstream)
        out = sql.SQL(updates_sql.OUT).format(columns=sql.SQL(", ").join(cast), relation=sql.SQL(relation), since=since)
        with copy_errors.told(copy_errors.UPSTREAM, self._table.upstream):
            row = self._upstream.execute(copy_sql.COMPLETE_TO).fetchone()
            assert row is not None
        self._pipe(out, sql.SQL(updates_sql.IN).format(columns=names))
        self._api.execute("ANALYZE pg_temp.catalog_changes")
        watermark: datetime = row[0]
        return watermark

    def _make_room(self) -> sql.Composed:
        """Make the table of changes, empty; the names of its columns."""
        # Types are names that the server has given.
        kinds = [sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.raw_type)) for column in self._columns]
        self._api.execute("DROP TABLE IF EXISTS pg_temp.catalog_changes")
        self._api.execute(sql.SQL(updates_sql.CHANGES).format(columns=sql.SQL(", ").join(kinds)))
        return sql.SQL(", ").join(sql.Identifier(column.name) for column in self._columns)

    def _pipe(self, out: sql.Composed, into: sql.Composed) -> None:
        with (
            copy_errors.told(copy_errors.API, self._table.name),
            self._api.cursor() as writing,
            closing(self._pieces(out)) as pieces,
        ):
            with writing.copy(into) as sink:
                for piece in pieces:
                    sink.write(piece)
            self.rows = writing.rowcount

    def _pieces(self, out: sql.Composed) -> Generator[bytes, None, None]:
        """What upstream sends, in large pieces."""
        with copy_errors.told(copy_errors.UPSTREAM, self._table.upstream), self._upstream.transaction():
            self._upstream.execute("SET TRANSACTION READ ONLY")
            with self._upstream.cursor() as reading, reading.copy(out) as source:
                held: list[bytes] = []
                size = 0
                for piece in source:
                    held.append(bytes(piece))
                    size += len(piece)
                    if size >= _BUFFER:
                        yield b"".join(held)
                        held, size = [], 0
                yield b"".join(held)

    def _forget_older(self) -> None:
        self._api.execute(sql.SQL(updates_sql.FORGET_OLDER).format(same=self._same("older", "newer")))

    def _clean(self) -> None:
        there = [column.name for column in self._columns]
        optional = cleaning.optional_rules(self._places.settings)
        rules = Rules(hosts.is_tls(hosts.known(self._places.settings, self._ledger)), optional)
        fields = [name for name in (*cleaning.FIELDS, "provider") if name in there]
        statement = sql.SQL(updates_sql.TO_CLEAN).format(fields=sql.SQL(", ").join(map(sql.Identifier, fields)))
        behind = 0
        while found := self._api.execute(statement, {"behind": behind, "limit": _CLEANED_ROWS}).fetchall():
            behind = found[-1][0]
            for row in found:
                after, fixes = cleaning.clean_row(dict(zip(fields, row[1:], strict=True)), rules)
                if fixes:
                    self._correct(row[0], {name: after[name] for name in sorted({fix.field for fix in fixes})})

    def _correct(self, number: int, values: dict[str, object]) -> None:
        sets = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values)
        parameters = {name: Jsonb(value) if name == "tags" else value for name, value in values.items()}
        self._api.execute(sql.SQL(updates_sql.CLEAN).format(sets=sets), parameters | {"n": number})

    def _generations(self, numbered: bool) -> list[sql.Identifier]:
        """The tables whose rows have their ids for good; the staged one, if it was `numbered`."""
        schemas = dict.fromkeys((self._schema, LIVE, *((NEXT,) if numbered else ()), PREVIOUS))
        return [sql.Identifier(schema, self._table.name) for schema in schemas if self._is_there(schema)]

    def _same(self, one: str, other: str) -> sql.Composed:
        """That rows of two tables are of one identity."""
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(one, name), sql.Identifier(other, name)) for name in self._table.key
        )

    def _copying(self) -> tuple[bool, bool]:
        """Whether a copy may be giving new rows their ids, and whether the ids of the staged table are for good: it was copied.

        A copy that begins later waits until whoever asks this has ended.
        """
        going = refreshes.at_work(self._ledger, self._media.name)
        if going is None or going.state != "requested":
            return False, True
        (load,) = loads.loads(self._ledger, [going.load_id])
        return load.status is loads.Status.INGESTING, False

    def _largest_id(self) -> int:
        types = {column.name: column.type for column in upstream_types.columns(self._api, f"{self._schema}.{self._table.name}")}
        return ids.LARGEST[types["id"]]

    def _room(self, fresh: int) -> int:
        """How many of the new rows are taken."""
        limit = record_limit(self._places.settings)
        if fresh == 0 or limit is None:
            return fresh
        return max(0, min(fresh, limit - self._one(sql.SQL(updates_sql.COUNT).format(live=self._into))))

    def _is_there(self, schema: str) -> bool:
        there = upstream_types.columns(self._api, f"{schema}.{self._table.name}")
        return _has({column.name for column in there}, ("id", *self._table.key))

    def _one(self, statement: sql.SQL | sql.Composed) -> int:
        row = self._api.execute(statement).fetchone()
        assert row is not None
        return int(row[0])


def _has(names: Collection[str], wanted: Sequence[str]) -> bool:
    return all(name in names for name in wanted)
