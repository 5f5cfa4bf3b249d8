"""The one door between the ingestion side and the table side of metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from ingestion_dagster.engine.batches import NotNow
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics import quality_sql, tables, withdrawal_sql
from ingestion_dagster.metrics.files import MetricFile

FACT_TABLES = ("core_headline", "core_time_series", "api_time_series")
SUPPORTING_TABLES = (
    "theme",
    "sub_theme",
    "topic",
    "metric_group",
    "metric",
    "geography_type",
    "geography",
    "stratum",
    "age",
)


class Unresolved(NotNow):
    """Another run changed what a staged file refers to while it was being merged: stage the files again, one by one."""


Topic = tuple[str, ...]
"""Theme, sub-theme and topic by name: a topic's name alone may stand under two sub-themes."""

RowCounts = dict[tuple[str, ...], int]
"""Rows by theme, sub-theme, topic and fact table."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A topic, the newest refresh date of its files, and the days between two points of its most frequent series (headlines: None)."""

    topic: Topic
    newest: datetime
    days: int | None


@dataclass(slots=True)
class Merged:
    """What a merge did. `written` and `withdrawn` count points by the number under which their file was staged."""

    written: dict[int, int] = field(default_factory=dict)
    withdrawn: dict[int, int] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    superseded: int = 0
    restored: int = 0


class Staging:
    """Takes files in, one after the other, and gives each its number; only one file's points are in memory at a time."""

    def __init__(self, points: psycopg.Copy, full_topics: frozenset[str]) -> None:
        self._points = points
        self._full_topics = full_topics
        self.files: list[tuple[Any, ...]] = []
        self.headlines: list[tuple[Any, ...]] = []

    def add(self, file: MetricFile) -> int:
        """Stage a file's header and points; returns its number in this batch."""
        number = len(self.files)
        self.files.append(
            (
                number,
                file.theme,
                file.sub_theme,
                file.topic,
                file.metric_group,
                file.metric,
                file.geography_type,
                file.geography,
                file.geography_code,
                file.age,
                file.stratum,
                file.sex,
                file.metric_frequency,
                file.refresh_date,
                file.topic in self._full_topics,
            )
        )
        if file.is_headline:
            self.headlines.extend((number, *point) for point in file.points)
        else:
            for point in file.points:
                self._points.write_row((number, *point))
        return number


class MetricsAPIInterface:
    """What ingestion may ask of the metric tables: stage files, find those it must refuse, merge the rest.

    All of it happens in the caller's transaction; nothing is visible to readers before its commit. A file of one of `full_topics` is
    the whole truth about its series: what it lacks is withdrawn.
    """

    def __init__(self, connection: Connection, full_topics: frozenset[str] = frozenset()) -> None:
        self._connection = connection
        self._full_topics = full_topics

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """Empty staging tables to add files to; on leaving, all that was added is in the database."""
        self._connection.execute(tables.STAGING)
        with self._connection.cursor() as cursor:
            with cursor.copy(tables.COPY_POINTS) as points:
                points.set_types(tables.POINT_TYPES)
                staged = Staging(points, self._full_topics)
                yield staged
            for statement, types, rows in (
                (tables.COPY_FILES, tables.FILE_TYPES, staged.files),
                (tables.COPY_HEADLINES, tables.HEADLINE_TYPES, staged.headlines),
            ):
                with cursor.copy(statement) as copy:
                    copy.set_types(types)
                    for row in rows:
                        copy.write_row(row)
        self._connection.execute("ANALYZE stage_file; ANALYZE stage_point")
        fault_point("metrics.staged")

    def row_count(self, table: str) -> int:
        """How many rows a target table of schema `metrics` has."""
        row = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("metrics", table))).fetchone()
        return int(row[0]) if row else 0

    def wrongly_public_series(self) -> int:
        """Series of OFF-SENS_ metrics that count as public: none, unless somebody has lifted what the database holds."""
        row = self._connection.execute(tables.WRONGLY_PUBLIC).fetchone()
        return int(row[0]) if row else 0

    def disagreements(self) -> dict[Topic, tuple[int, int]]:
        """By topic, points that only core_time_series has, and those that only api_time_series has."""
        return {tuple(row[:3]): (int(row[3]), int(row[4])) for row in self._connection.execute(quality_sql.DISAGREEMENTS)}

    def refreshed(self) -> list[Refreshed]:
        """Each topic with the newest refresh date any of its files has carried."""
        return [Refreshed(tuple(row[:3]), row[3], row[4]) for row in self._connection.execute(quality_sql.REFRESHED)]

    def count_rows(self) -> tuple[RowCounts, RowCounts]:
        """Rows by topic and fact table, as counted last time and now; what is counted now is remembered for the next time."""
        last, now = ({tuple(row[:4]): int(row[4]) for row in self._connection.execute(statement)} for statement in quality_sql.COUNTS)
        return last, now

    def await_turn(self) -> None:
        """Wait until no boot is replacing the facts; none begins to before the end of the caller's transaction."""
        self._connection.execute(tables.AWAIT_TURN)

    def take_out_rehomed(self) -> set[int]:
        """Numbers of files whose metric belongs to another topic or group already; their rows leave the staging tables."""
        return {row[0] for row in self._connection.execute(tables.METRICS_AT_HOME_ELSEWHERE)}

    def clear(self) -> None:
        """Take every fact out, in the caller's transaction: readers see the old ones until what replaces them is committed.

        Supporting rows and series stay, with the ids that others refer to. Other merges wait for the end of the transaction.
        """
        for statement in tables.CLEAR:
            self._connection.execute(statement)
        fault_point("metrics.cleared")

    def merge(self, now: datetime) -> Merged:
        """Bring what is staged into the tables; `now` decides which embargoes have passed. Raises `Unresolved`."""
        merged = Merged()
        for statement in (tables.IN_WRITTEN_ORDER, *tables.SUPPORTING, tables.SERIES, tables.KEY_FILES, tables.IN_ANY_ORDER):
            self._connection.execute(statement)
        if self._connection.execute("SELECT FROM stage_file WHERE series_id IS NULL LIMIT 1").fetchone() is not None:
            raise Unresolved
        self._connection.execute(tables.LOCK_SERIES)
        row = self._connection.execute("SELECT coalesce(max(round), 0), coalesce(bool_or(is_full), false) FROM stage_file").fetchone()
        rounds, any_full = row or (0, False)
        withdrawn = self._connection.execute(withdrawal_sql.ANYTHING_WITHDRAWN).fetchone()
        for number in range(1, rounds + 1):
            self._merge_round(merged, number, now, withdraw=any_full, restore=withdrawn == (True,))
        fault_point("metrics.merged")
        return merged

    def _merge_round(self, merged: Merged, number: int, now: datetime, *, withdraw: bool, restore: bool) -> None:
        """One file of each series; a batch that holds several files of a series takes as many rounds, in order."""
        parameters = {"round": number, "now": now}
        run = self._connection.execute
        if number > 1:
            run("TRUNCATE changed_date, changed_period")
        run(tables.READ_HISTORY, parameters)
        if restore:
            restored = {table: run(statement, parameters).rowcount for table, statement in withdrawal_sql.RESTORE.items()}
            merged.restored += restored["api_time_series"] + restored["core_headline"]
        merged.late |= {row[0] for row in run(tables.LATE_FILES, parameters)}
        run(tables.COMPARE_DATES, parameters)
        for statement in tables.REPLACE_SAME_REFRESH:
            run(statement)
        for statement in tables.INSERT_CORE:
            run(statement, parameters)
        for statement in tables.INSERT_API:
            merged.written.update(dict(run(statement, parameters).fetchall()))
        for statement in tables.DELETE_SUPERSEDED_DATES:
            merged.superseded += run(statement, parameters).rowcount
        run(tables.COMPARE_PERIODS, parameters)
        run(tables.REPLACE_SAME_REFRESH_PERIODS)
        merged.written.update(dict(run(tables.INSERT_HEADLINES, parameters).fetchall()))
        merged.superseded += run(tables.DELETE_SUPERSEDED_HEADLINES, parameters).rowcount
        if withdraw:
            self._withdraw(merged, parameters)
        run(tables.REMEMBER_REFRESH, parameters)

    def _withdraw(self, merged: Merged, parameters: dict[str, Any]) -> None:
        """Move what full files lack out of the tables. A point of a time series stands in two of them and counts once."""
        counted: dict[str, dict[int, int]] = {
            table: dict(self._connection.execute(statement, parameters).fetchall()) for table, statement in withdrawal_sql.WITHDRAW.items()
        }
        merged.withdrawn.update(counted["api_time_series"] | counted["core_headline"])
