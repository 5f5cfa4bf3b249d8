"""One range of a table from upstream into the staged table: rows are cleaned and given their ids on the way, unread otherwise."""

import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from psycopg import Copy, OperationalError, pq, sql
from psycopg.adapt import Dumper
from psycopg.errors import error_from_result

from ingestion_dagster.catalog import copy_sql, ids, row_stream
from ingestion_dagster.catalog.cleaning import Fix, Rules
from ingestion_dagster.catalog.copy_errors import API, LEDGER, UPSTREAM, told
from ingestion_dagster.catalog.copy_plan import Plan
from ingestion_dagster.catalog.row_stream import HEADER, TRAILER, Sieve
from ingestion_dagster.catalog.tables import LIVE, NEXT
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection

BATCH_ROWS, BATCH_BYTES = 2000, 1024 * 1024
"""Rows, and bytes of them, that are looked through and get their ids at once."""

MODERATED = -1
"""Stands for the id of a row that must not be copied."""


class _Array(bytes):
    """A Postgres array in its binary form."""


def _array_type(array_oid: int) -> tuple[type[_Array], type[Dumper]]:
    kind = type(f"Array{array_oid}", (_Array,), {})

    class ArrayDumper(Dumper):
        format = pq.Format.BINARY
        oid = array_oid

        def dump(self, obj: bytes) -> bytes:
            return obj

    return kind, ArrayDumper


_TEXT, _UUID = 25, 2950
_ELEMENTS = {"uuid": _UUID, "integer": 23, "bigint": 20, "smallint": 21}
_ARRAYS = {element: _array_type(array) for element, array in ((_UUID, 2951), (23, 1007), (20, 1016), (21, 1005), (_TEXT, 1009))}
"""For each type of element, the class of its arrays, and what hands them to a connection that is told of it, and to no other."""
_ID = {"smallint": struct.Struct(">hih"), "integer": struct.Struct(">hii"), "bigint": struct.Struct(">hiq")}


@dataclass(slots=True)
class Moved:
    """What became of the rows of a range."""

    read: int = 0
    written: int = 0
    deleted: int = 0
    new: int = 0
    cleaned: int = 0
    bytes: int = 0
    fixes: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Moved") -> None:
        """Count another range with this."""
        for name in ("read", "written", "deleted", "new", "cleaned", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fixes.update(other.fixes)


def attempt_name(model: str, suffix: str) -> str:
    """As whom the copy of a refresh reserves ids."""
    return f"{model}-{suffix}"


class Records:
    """The ledger's part of a copy, for all its workers: ids that are given out, and fixes that are noted. One writes at a time."""

    def __init__(self, ledger: Connection, model: str, suffix: str, hold: Callable[[], None] = lambda: None) -> None:
        self._ledger = ledger
        self._hold = hold
        self._lock = threading.Lock()
        self._model = model
        self._suffix = suffix
        self._attempt = attempt_name(model, suffix)

    def numbers(self, plan: Plan, count: int) -> Iterator[int]:
        """So many ids that nobody has had."""
        if not count:
            return iter(())
        with self._lock, told(LEDGER, plan.table.name):
            first = ids.reserve(
                self._ledger, plan.table.name, count, plan.highest, attempt=self._attempt, largest=ids.LARGEST[plan.id_type]
            )
        return iter(range(first, first + count))

    def note(self, fixes: Sequence[tuple[UUID, Fix]]) -> None:
        """Keep what was cleaned. Raises `ClaimLost` if the refresh is no longer ours."""
        if not fixes:
            return
        fault_point("catalog.copy.fixes.before")
        with self._lock, told(LEDGER, "fixes"), self._ledger.transaction():
            with self._ledger.cursor() as cursor, cursor.copy(copy_sql.FIXES_IN) as copy:
                for identifier, fix in fixes:
                    copy.write_row((self._model, self._suffix, identifier, fix.field, _text(fix.old), _text(fix.new), fix.rule))
            # Only now: no timeout of the server's ends a COPY whose sender sleeps, and it would keep the refresh from its successor.
            self._hold()
        fault_point("catalog.copy.fixes.after")


class Writer:
    """Copies ranges of one table, with the connections of one worker. `upstream` is in the snapshot of the refresh."""

    def __init__(self, plan: Plan, staged_oid: int, connections: tuple[Connection, Connection, Connection], records: Records) -> None:
        self._plan = plan
        self._oid = staged_oid
        self._upstream, self._api, self._lookup = connections
        self._records = records
        self._look_up = _statement(plan) if plan.known or plan.table.deleted else None
        self._elements = [_ELEMENTS.get(column.type, _TEXT) for column in plan.columns[: len(plan.table.key)]]
        self._id = _ID[plan.id_type]
        for kind, dumper in _ARRAYS.values():
            self._lookup.adapters.register_dumper(kind, dumper)

    def copy(self, source: sql.Composed, rules: Rules) -> Moved:
        """Copy a range, in a transaction of its own. Raises `Transient`, `ConfigurationError`, `Refused`."""
        moved, fixes = Moved(), list[tuple[UUID, Fix]]()
        table = self._plan.table.name
        into = sql.SQL(copy_sql.IN).format(staged=self._plan.staged, columns=self._plan.names())
        sieve = Sieve(tuple(column.name for column in self._plan.columns), rules) if self._plan.table.cleaned else None
        with told(API, table), self._api.transaction():
            with self._api.cursor() as cursor, cursor.copy(into) as sink:
                sink.write(HEADER)
                for batch in self._batches(source, moved):
                    sink.write(self._through(batch, sieve, moved, fixes))
                sink.write(TRAILER)
            self._check_that_it_is_ours()
            self._records.note(fixes)
            fault_point("catalog.copy.range.before")
        fault_point("catalog.copy.range.after")
        return moved

    def _batches(self, source: sql.Composed, moved: Moved) -> Iterator[list[bytes]]:
        statement = sql.SQL(copy_sql.OUT).format(source=source)
        with told(UPSTREAM, self._plan.table.name), self._upstream.cursor() as cursor, cursor.copy(statement) as stream:
            batch: list[bytes] = []
            size = 0
            for row in _rows(self._upstream, stream):
                batch.append(row)
                size += len(row)
                if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                    yield batch
                    moved.read += len(batch)
                    moved.bytes += size
                    batch, size = [], 0
            moved.read += len(batch)
            moved.bytes += size
            if batch:
                yield batch

    def _through(self, rows: list[bytes], sieve: Sieve | None, moved: Moved, fixes: list[tuple[UUID, Fix]]) -> bytes:
        known = self._ids(rows)
        numbers = self._records.numbers(self._plan, known.count(0))
        if sieve:
            self._clean(rows, known, sieve, moved, fixes)
        pack, width, wider = self._id.pack, self._id.size - 6, int.from_bytes(rows[0][:2], "big") + 1
        parts: list[bytes] = []
        for row, known_id in zip(rows, known, strict=True):
            if known_id == MODERATED:
                continue
            parts += (pack(wider, width, known_id or next(numbers)), row[2:])
        moved.deleted += known.count(MODERATED)
        moved.new += known.count(0)
        moved.written += len(parts) // 2
        return b"".join(parts)

    def _clean(self, rows: list[bytes], known: list[int], sieve: Sieve, moved: Moved, fixes: list[tuple[UUID, Fix]]) -> None:
        for place in sieve.suspects(rows):
            if known[place] == MODERATED:
                continue
            rows[place], made, identifier = sieve.clean(rows[place])
            if made:
                moved.cleaned += 1
                moved.fixes.update(fix.rule for fix in made)
                if identifier:
                    fixes.extend((identifier, fix) for fix in made)

    def _ids(self, rows: list[bytes]) -> list[int]:
        """The id of each row: 0 if it has none yet, -1 if it must not be copied."""
        if self._look_up is None:
            return [0] * len(rows)
        if self._elements == [_UUID]:
            keys = [row_stream.uuids(rows)]
        else:
            heads = [row_stream.heads(row, len(self._elements)) for row in rows]
            keys = [[head[number] for head in heads] for number in range(len(self._elements))]
        parameters = {
            f"key{number}": _ARRAYS[element][0](row_stream.encoded_array(element, keys[number]))
            for number, element in enumerate(self._elements)
        }
        with told(API, self._plan.table.name):
            row = self._lookup.execute(self._look_up, parameters, binary=True).fetchone()
        assert row is not None
        return list(row[0])

    def _check_that_it_is_ours(self) -> None:
        """A run that slept while another took over must not write into the other's table."""
        row = self._api.execute(copy_sql.LABEL, {"name": f"{NEXT}.{self._plan.table.name}"}).fetchone()
        if row is None or row[0] != self._oid:
            raise Transient("overtaken", f"another run has begun the copy of {self._plan.table.name} anew")


def _rows(connection: Connection, stream: Copy) -> Iterator[bytes]:
    """The rows of a COPY to here. Those that have arrived are taken from libpq as they are: psycopg's way takes as long as all the rest."""
    taken = connection.pgconn.get_copy_data
    row = row_stream.first_row(bytes(stream.read()))
    while row != TRAILER:
        yield row
        size, data = taken(1)
        if size < 0:
            result = connection.pgconn.get_result()
            raise error_from_result(result) if result else OperationalError
        row = bytes(data) if size else bytes(stream.read())
        if not row:
            return
    while stream.read():  # nothing is behind the trailer, but only then has the statement ended
        pass


def _statement(plan: Plan) -> sql.Composed:
    """Finds the ids of a batch of rows, in their order."""
    key = plan.table.key
    arrays = [sql.SQL("unnest({})").format(sql.Placeholder(f"key{number}")) for number in range(len(key))]
    names = [sql.Identifier(f"key{number}") for number in range(len(key))]
    joins, found = [], []
    for schema in plan.known:
        alias = sql.Identifier(f"in_{schema}")
        same = [
            sql.SQL("{} = {}").format(sql.Identifier(f"in_{schema}", column), sql.Identifier("wanted", f"key{number}"))
            for number, column in enumerate(key)
        ]
        joins.append(
            sql.SQL("LEFT JOIN {} AS {} ON {}").format(sql.Identifier(schema, plan.table.name), alias, sql.SQL(" AND ").join(same))
        )
        found.append(sql.Identifier(f"in_{schema}", "id"))
    value = sql.SQL("coalesce({})::bigint").format(sql.SQL(", ").join([*found, sql.SQL("0")]))
    if plan.table.deleted:
        joins.append(
            sql.SQL("LEFT JOIN {} AS moderated ON moderated.identifier = wanted.key0").format(sql.Identifier(LIVE, plan.table.deleted))
        )
        value = sql.SQL("CASE WHEN moderated.identifier IS NULL THEN {} ELSE {} END").format(value, sql.Literal(MODERATED))
    return sql.SQL(copy_sql.LOOK_UP).format(
        found=value, wanted=sql.SQL(", ").join(arrays), names=sql.SQL(", ").join(names), joins=sql.SQL(" ").join(joins)
    )


def _text(value: str | None) -> str | None:
    """As the ledger can hold it, whatever the encoding of upstream."""
    return None if value is None else value.encode(errors="surrogateescape").decode(errors="replace")
