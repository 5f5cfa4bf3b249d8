"""Taking over a database that holds the original dashboard's own twelve tables: rows and ids, foreign keys, views and grants of others.

All of it is one transaction, this project's migrations included: it happens as a whole or not at all. The original's tables are kept as
they are in schema `metrics_before`, with the rows that the tables of this project cannot hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.first_day import step
from ingestion_dagster.engine.postgres import Database, UpgradeTransaction, upgrading
from ingestion_dagster.metrics import adoption_copy, dependents
from ingestion_dagster.metrics.adoption_copy import CHANGE_REASONS, LEFT_BEHIND_REASONS, TableAdopted
from ingestion_dagster.metrics.originals import BEFORE, ORIGINALS, locked, originals_are_there, refuse_other_columns


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption did, or would do: tables by their original names, what was re-pointed, and what remains to be done by hand."""

    tables: Mapping[str, TableAdopted]
    foreign_keys: tuple[str, ...]
    views: tuple[str, ...]
    grants: tuple[str, ...]
    by_hand: tuple[str, ...]
    dry_run: bool = False

    @property
    def rows(self) -> int:
        """Rows taken over, of all tables."""
        return sum(table.rows for table in self.tables.values())


class _DryRun(Exception):
    """Undoes the transaction of a dry run."""


def adopt_tables(database: Database, *, dry_run: bool = False, lock_seconds: float = 10) -> Adopted | None:
    """Take over the original's twelve tables in schema public; None if there are none (an empty database, or one adopted before).

    A dry run does the same and undoes it. Raises `ConfigurationError`, with nothing changed, if the tables are not the original's, if
    something hangs on them that cannot be re-pointed, or if somebody uses them and does not let go for `lock_seconds`.
    """
    adopted: Adopted | None = None
    try:
        with upgrading(database) as transaction:
            adopted = _adopt(transaction, lock_seconds)
            fault_point("metrics.adopt.before_commit")
            if dry_run:
                raise _DryRun
    except _DryRun:
        return replace(adopted, dry_run=True) if adopted else None
    return adopted


def describe(adopted: Adopted) -> list[str]:
    """The lines that `ingestion adopt metrics` prints."""
    lines = [f"{'would take over' if adopted.dry_run else 'took over'} {adopted.rows} rows of {len(adopted.tables)} tables"]
    for name, table in adopted.tables.items():
        created = f", {table.created} created from API rows" if table.created else ""
        lines.append(f"public.{name} -> metrics.{ORIGINALS[name].target}: {table.rows} rows{created}")
        lines += [f"  {rows} changed ({code}): they {CHANGE_REASONS[code]}" for code, rows in table.changed.items()]
        lines += [f"  {rows} left in {BEFORE} ({code}): they {LEFT_BEHIND_REASONS[code]}" for code, rows in table.left_behind.items()]
    for what, names in (("foreign keys", adopted.foreign_keys), ("views", adopted.views), ("grants", adopted.grants)):
        lines.append(f"{what} re-pointed: {len(names)}")
        lines += [f"  {name}" for name in names]
    lines += [f"to do by hand: {line}" for line in adopted.by_hand]
    lines.append(f"the original's tables, with all their rows, {'would stand' if adopted.dry_run else 'stand'} in schema {BEFORE}")
    return lines


def _adopt(transaction: UpgradeTransaction, lock_seconds: float) -> Adopted | None:
    connection = transaction.connection
    with step("looking at the tables"):
        if not originals_are_there(connection):
            return None
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{lock_seconds * 1000:.0f}ms"])
        connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'; SET LOCAL search_path = ''")
        oids = locked(connection, "public", list(ORIGINALS))
        refuse_other_columns(connection, oids)
        theirs = dependents.dependents(connection, oids)
    fault_point("metrics.adopt.locked")
    with step("moving the tables"):
        for_views = dependents.moved(connection, theirs)
    fault_point("metrics.adopt.moved")
    with step("migrating"):
        connection.execute("SET LOCAL search_path TO DEFAULT")
        transaction.to_head()
        connection.execute("SET LOCAL search_path = ''")
    fault_point("metrics.adopt.migrated")
    with step("copying the rows"):
        tables = adoption_copy.copied(connection)
        by_hand = adoption_copy.still_wrong(connection)
    fault_point("metrics.adopt.copied")
    with step("re-pointing foreign keys"):
        by_hand += dependents.repoint_foreign_keys(connection, theirs.foreign_keys)
    with step("re-pointing views"):
        dependents.repoint_views(connection, theirs, for_views)
    with step("re-pointing grants"):
        grants, not_granted = dependents.repoint_grants(connection, theirs.grants, bool(for_views))
    return Adopted(
        tables=tables,
        foreign_keys=tuple(map(str, theirs.foreign_keys)),
        views=tuple(map(str, theirs.views)),
        grants=tuple(map(str, grants)),
        by_hand=tuple(by_hand + not_granted),
    )
