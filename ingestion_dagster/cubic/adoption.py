"""Taking over the metadata database of the system before: what it has archived or refused is done here too, and nothing is loaded again.

It is one transaction, this project's migrations included. The tables of the system before are only read; they stay as they are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg import sql
from psycopg.rows import dict_row

from ingestion_dagster.cubic import adoption_sql, discovery
from ingestion_dagster.cubic.ods import METADATA
from ingestion_dagster.cubic.places import PENDING
from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, Registry
from ingestion_dagster.cubic.zone import zone as zone_of
from ingestion_dagster.engine.errors import ConfigurationError, Problem
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.first_day import step
from ingestion_dagster.engine.object_store import ObjectStore, open_store
from ingestion_dagster.engine.postgres import Connection, Database, UpgradeTransaction, upgrading
from ingestion_dagster.settings import Settings

NAMES = {
    "tables": ("cubic_tables", "cubic_ods_tables"),
    "loads": ("cubic_loads", "cubic_ods_loads"),
    "table_snapshots": ("cubic_ods_table_snapshots", "cubic_table_ods_snapshots"),
    "load_snapshots": ("cubic_ods_load_snapshots", "cubic_load_ods_snapshots"),
}
"""What the four tables are called: as they were built in the end, and as they were built first or planned."""

_NEEDED = {
    "tables": {"id", "name", "s3_prefix"},
    "loads": {"id", "table_id", "status", "s3_key", "s3_modified", "s3_size"},
    "table_snapshots": {"table_id", "snapshot", "snapshot_s3_key"},
    "load_snapshots": {"id", "load_id", "snapshot"},
}

REFUSED_BEFORE = Problem(
    "refused_before",
    "the whole file",
    "the system before refused it, and its database does not say why; 'ingestion retry cubic' reads it again",
)
LOST_BEFORE = Problem(
    "lost_before",
    "the whole file",
    "the system before had done with it, but it does not stand where it should; set the URLs of archive and error zone to those of "
    "before and adopt again, or deliver it again",
    severity="warning",
)

_LOCK = 0x1A6E5712
_NOTHING = sql.SQL("NULL")


@dataclass(frozen=True, slots=True)
class _Original:
    """A table of the system before: where it stands, and the columns it has."""

    schema: str
    name: str
    columns: frozenset[str]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def column(self, alias: str, name: str) -> sql.Composable:
        """A column, or nothing where the table is too old to have it."""
        return sql.Identifier(alias, name) if name in self.columns else _NOTHING

    def stands(self, alias: str) -> sql.Composable:
        """That a row has not been deleted."""
        return sql.SQL("{} IS NULL").format(self.column(alias, "deleted_at"))


@dataclass(frozen=True, slots=True)
class _Theirs:
    """Their metadata database. In its first form, snapshots are columns of tables and loads."""

    tables: _Original
    loads: _Original
    table_snapshots: _Original | None
    load_snapshots: _Original | None


@dataclass(frozen=True, slots=True)
class _TheirTable:
    """A table that they know, and how many loads it has."""

    id: int
    name: str
    prefix: str
    loads: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption did, or would do, in numbers of loads."""

    archived: int
    errored: int
    placed: int
    """Of these, how many were found in the archive or the error zone: they can be replayed or retried."""
    lost: int
    """Of these, how many were found nowhere."""
    landed: int
    """Of these, how many stand in the landing zone still: they are moved, not loaded."""
    before: int
    """Taken over by an earlier adoption."""
    known: int
    """That the ledger had already discovered for itself."""
    left_to_load: int
    """That the system before had not done with, and whose object stands in the landing zone: they are loaded as any other."""
    gone: int
    """That it had not done with, and whose object stands nowhere."""
    datasets: int
    found_since: int = 0
    snapshots: int = 0
    unknown: Sequence[_TheirTable] = ()
    """Tables that are not in the registry: they are left out."""
    other_markers: Sequence[str] = ()
    """Tables whose snapshots begin with another file than the registry says."""


class _DryRun(Exception):
    """Undoes the transaction of a dry run."""


def take_over(database: Database, settings: Settings, registry: Registry, *, dry_run: bool = False) -> tuple[str, ...]:
    """Enter what the metadata database of the system before knows into the ledger; lines that tell of it. () if there is none.

    Archived loads become `archived` and refused ones `errored`, in their snapshots, at the place where their object stands. Others are not
    taken over: what they stand for is in the landing zone and is discovered there. May be repeated, and then goes on. Raises
    `ConfigurationError`, with nothing changed, if the tables are not what they should be or a zone cannot be listed, and `Transient` if
    a store does not answer.
    """
    with database.connect() as connection, step("looking at the tables"):
        theirs = _theirs(connection)
    if theirs is None:
        return ()
    adopted: Adopted | None = None
    try:
        with upgrading(database) as transaction:
            adopted = _adopt(transaction, theirs, settings, registry)
            fault_point("cubic.adopt.before_commit")
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    assert adopted is not None
    return tuple(describe(adopted, settings, dry_run=dry_run))


def describe(adopted: Adopted, settings: Settings, *, dry_run: bool = False) -> Iterator[str]:
    """What an adoption did, in lines. Names tables, never files."""
    loads = adopted.archived + adopted.errored
    yield (
        f"{'would take over' if dry_run else 'took over'} {loads} loads of {adopted.datasets} tables "
        f"({adopted.archived} archived, {adopted.errored} errored) and {adopted.snapshots} snapshots"
    )
    archive = settings.zone(PIPELINE, "archive", "cubic/archive")
    if loads:
        yield f"{adopted.placed} of them stand in the archive or the error zone and can be replayed or retried"
    if adopted.landed:
        yield f"{adopted.landed} of them stand in the landing zone still: they are moved to the archive, not loaded"
    if adopted.lost:
        yield (
            f"{adopted.lost} of them stand neither there nor here ({LOST_BEFORE.code}); is {archive} the archive of before? "
            "INGESTION_CUBIC_ARCHIVE_URL and INGESTION_CUBIC_ERROR_URL say where to look; adopting again looks again"
        )
    for count, what in (
        (adopted.before, "loads had been taken over before"),
        (adopted.found_since, "of these have been found since"),
        (adopted.known, "loads were in the ledger already, discovered here; they are left as they are"),
        (adopted.left_to_load, "loads were not done with; they stand in the landing zone and are loaded from there"),
        (adopted.gone, "loads were not done with and stand in no zone: nothing can be loaded of them"),
    ):
        if count:
            yield f"{count} {what}"
    for table in adopted.unknown:
        yield f"left out: {table.name} with {table.loads} loads; no table of the registry has the prefix {table.prefix}"
    for name in adopted.other_markers:
        yield f"{name}: its snapshots began with another file than the registry's snapshot_marker"
    yield (
        "nothing was loaded: springboard and current tables of before are not taken over; "
        "'ingestion replay cubic --partition SNAPSHOT' builds them from the archive"
    )


def _theirs(connection: Connection) -> _Theirs | None:
    """Their tables; None if neither tables nor loads are there. Raises `ConfigurationError` if they are there in part."""
    rows = connection.execute(adoption_sql.ORIGINALS, {"names": [name for names in NAMES.values() for name in names]}).fetchall()
    standing = [_Original(schema, name, frozenset(columns)) for schema, name, columns in rows]
    tables, loads = _first(standing, "tables"), _first(standing, "loads")
    if tables is None and loads is None:
        return None
    found = {part: _first(standing, part) for part in NAMES}
    if "snapshot" in (loads.columns if loads else ()):
        found |= {"table_snapshots": None, "load_snapshots": None}
        needed = ["tables", "loads"]
    else:
        needed = list(NAMES)
    missing = [" or ".join(NAMES[part]) for part in needed if found[part] is None]
    if missing:
        raise ConfigurationError(f"cannot be adopted: beside its other tables the metadata database lacks {', '.join(missing)}")
    lacking = [
        f"{original.name}.{column}"
        for part, original in found.items()
        if original is not None
        for column in sorted(_NEEDED[part] - original.columns)
    ]
    if lacking:
        raise ConfigurationError(f"cannot be adopted: these tables are no metadata database of cubic, they lack {', '.join(lacking)}")
    assert tables is not None
    assert loads is not None
    return _Theirs(tables, loads, found["table_snapshots"], found["load_snapshots"])


def _first(standing: Sequence[_Original], part: str) -> _Original | None:
    """The first of these tables on the search path; in one schema, that of the newest name."""
    of_part = [original for original in standing if original.name in NAMES[part]]
    return min(of_part, key=lambda each: (each.schema != of_part[0].schema, NAMES[part].index(each.name)), default=None)


def _adopt(transaction: UpgradeTransaction, theirs: _Theirs, settings: Settings, registry: Registry) -> Adopted:
    connection = transaction.connection
    connection.execute("SET LOCAL statement_timeout = 0")
    connection.execute("SET LOCAL work_mem = '64MB'")
    with step("migrating"):
        transaction.to_head()
    fault_point("cubic.adopt.migrated")
    with step("reading the tables"):
        connection.execute(adoption_sql.LOCK, {"lock": _LOCK})
        discovery.sync(connection, registry)
        # Nobody has told the planner how many rows there are: it would compare every load with every other.
        connection.execute("SET LOCAL enable_nestloop = off")
        unknown = _matched(connection, theirs, registry)
        other_markers = _read(connection, theirs)
    _listed(connection, settings, registry)
    fault_point("cubic.adopt.listed")
    with step("entering the loads"):
        adopted = _entered(connection, settings)
    fault_point("cubic.adopt.entered")
    return replace(adopted, unknown=unknown, other_markers=other_markers)


def _matched(connection: Connection, theirs: _Theirs, registry: Registry) -> list[_TheirTable]:
    """Find their tables in the registry, by prefix. Returns those that are not in it."""
    statement = adoption_sql.TABLES.format(
        tables=theirs.tables.identifier,
        loads=theirs.loads.identifier,
        table_stands=theirs.tables.stands("t"),
        load_stands=theirs.loads.stands("l"),
    )
    tables = [_TheirTable(*row) for row in connection.execute(statement)]
    by_prefix = {table.prefix: table for table in registry.tables.values()}
    pairs = [(each.id, ours) for each in tables if each.prefix in by_prefix for ours in _with_changes(registry, by_prefix[each.prefix])]
    connection.execute(
        adoption_sql.KNOWN,
        {
            "pipeline": PIPELINE,
            "tables": [table for table, _ in pairs],
            "prefixes": [ours.prefix for _, ours in pairs],
            "names": [ours.name for _, ours in pairs],
            "bases": [ours.base or ours.name for _, ours in pairs],
            "ods": [ours.kind == "ods" for _, ours in pairs],
            "markers": [ours.marker for _, ours in pairs],
        },
    )
    return [each for each in tables if each.prefix not in by_prefix]


def _with_changes(registry: Registry, table: CubicTable) -> list[CubicTable]:
    return [table, registry.changes_of(table)] if table.has_changes else [table]


def _read(connection: Connection, theirs: _Theirs) -> list[str]:
    """Read their snapshots and loads. Returns the tables of which a snapshot began with another file than ours would."""
    at_tables = theirs.table_snapshots or theirs.tables
    at_loads = theirs.load_snapshots
    connection.execute(
        adoption_sql.TABLE_SNAPSHOTS.format(
            table_snapshots=at_tables.identifier,
            table=sql.Identifier("table_id" if theirs.table_snapshots else "id"),
            stands=at_tables.stands("s"),
        )
    )
    snapshots = (
        adoption_sql.LOAD_SNAPSHOTS.format(load_snapshots=at_loads.identifier, stands=at_loads.stands("s"))
        if at_loads
        else adoption_sql.OWN_SNAPSHOTS.format(loads=theirs.loads.identifier)
    )
    connection.execute(
        adoption_sql.LOADS.format(
            loads=theirs.loads.identifier,
            snapshots=snapshots,
            inserted=theirs.loads.column("l", "inserted_at"),
            updated=theirs.loads.column("l", "updated_at"),
            stands=theirs.loads.stands("l"),
        )
    )
    connection.execute("ANALYZE adoption_loads")
    return [row[0] for row in connection.execute(adoption_sql.OTHER_MARKERS)]


def _listed(connection: Connection, settings: Settings, registry: Registry) -> None:
    """List what stands in the three zones below their tables' prefixes; it goes into a table as it comes."""
    zone = zone_of(settings, registry)
    places: dict[str, ObjectStore] = {
        "landing": zone.landing,
        "archived": open_store(settings.zone(PIPELINE, "archive", "cubic/archive")),
        "errored": open_store(settings.zone(PIPELINE, "error", "cubic/error")),
    }
    with step("listing the zones"):
        connection.execute(adoption_sql.OBJECTS)
        prefixes = [row[0] for row in connection.execute("SELECT DISTINCT prefix FROM adoption_tables ORDER BY prefix")]
        with connection.cursor() as cursor, cursor.copy(adoption_sql.COPY_OBJECTS) as rows:
            for place, store in places.items():
                for prefix in prefixes:
                    for seen in store.list(prefix):
                        if not seen.key.endswith(METADATA):
                            rows.write_row((place, seen.key, seen.size, seen.version, seen.modified))
        connection.execute("ANALYZE adoption_objects")


def _entered(connection: Connection, settings: Settings) -> Adopted:
    """Decide about every load and enter what is new."""
    urls = {
        "landing": open_store(settings.zone(PIPELINE, "landing", "cubic/incoming")).url,
        "archive": open_store(settings.zone(PIPELINE, "archive", "cubic/archive")).url,
        "error": open_store(settings.zone(PIPELINE, "error", "cubic/error")).url,
    }
    codes = {"lost": LOST_BEFORE.code, "refused": REFUSED_BEFORE.code}
    problems = (LOST_BEFORE, REFUSED_BEFORE)
    reasons = {
        "codes": [problem.code for problem in problems],
        "messages": [_message(problem) for problem in problems],
        "problems": [json.dumps([problem.as_dict()]) for problem in problems],
    }
    of_refused = {"message": _message(REFUSED_BEFORE), "problems": json.dumps([REFUSED_BEFORE.as_dict()])}
    connection.execute(adoption_sql.PLAN, urls)
    with connection.cursor(row_factory=dict_row) as cursor:
        counts = cursor.execute(adoption_sql.COUNTS).fetchone()
    assert counts is not None
    connection.execute(adoption_sql.NUMBERED)
    snapshots = connection.execute(adoption_sql.SNAPSHOTS).rowcount
    connection.execute(adoption_sql.ENTER, {"pipeline": PIPELINE, "pending": PENDING, "landing": urls["landing"]} | codes | reasons)
    found_since = connection.execute(adoption_sql.FOUND_SINCE, codes | of_refused).rowcount
    connection.execute("ANALYZE ledger.loads, ledger.load_events, ledger.snapshots")
    return Adopted(**counts, found_since=found_since, snapshots=snapshots)


def _message(problem: Problem) -> str:
    return f"{problem.place}: {problem.message}"
