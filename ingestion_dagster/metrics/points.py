"""The points of a metric file: time series and headlines, and the rules within a point and along a list.

Source of every rule, unless said otherwise: UKHSA data dashboard ingestion, validation rules.
"""

from collections.abc import Callable, Hashable, Sequence
from datetime import date, datetime
from operator import attrgetter
from typing import Annotated, Final, NamedTuple, TypeVar

from pydantic import Field

from ingestion_dagster.metrics.columns import UNREAD, Column, Rows
from ingestion_dagster.metrics.problems import Code, Findings
from ingestion_dagster.metrics.values import VALUE_LIMIT, scaled, utc


class TimeSeriesPoint(NamedTuple):
    """One value of a series. `scaled_value` is in ten-thousandths, `embargo` in UTC (null: released)."""

    date: date
    epiweek: int
    scaled_value: int
    metric_value: float
    embargo: datetime | None
    in_reporting_delay_period: bool
    force_write: bool


class HeadlinePoint(NamedTuple):
    """One headline figure. Scaled fields are in ten-thousandths, date-times in UTC (`embargo` null: released)."""

    period_start: datetime
    period_end: datetime
    scaled_value: int
    scaled_lower: int | None
    scaled_upper: int | None
    embargo: datetime | None


Point = TypeVar("Point", TimeSeriesPoint, HeadlinePoint)

# What the unique keys of the target tables compare within one series.
_SERIES_IDENTITY: Final = attrgetter("date", "epiweek", "metric_value", "in_reporting_delay_period")
_HEADLINE_IDENTITY: Final = attrgetter("period_start", "period_end", "scaled_value")

_Number = Annotated[float, Field(allow_inf_nan=False, gt=-VALUE_LIMIT, lt=VALUE_LIMIT)]
_Epiweek = Annotated[int, Field(ge=1, le=53)]
_NUMBER: Final = "a number that rounds, to 4 decimal places, to less than 10 million either side of zero"
_MOMENT: Final = "an ISO date or date-time, between the years 1 and 9999 in UTC"

REFRESH_DATE: Final = Column("refresh_date", datetime, Code.BAD_DATETIME, _MOMENT, convert=utc)
_DATE: Final = Column("date", date, Code.BAD_DATE, "an ISO date, without a time of day")
_EPIWEEK: Final = Column("epiweek", _Epiweek, Code.BAD_EPIWEEK, "a whole number from 1 to 53")
_VALUE: Final = Column("metric_value", _Number, Code.WRONG_TYPE, f"{_NUMBER}, or null for none")
_EMBARGO: Final = Column("embargo", datetime | None, Code.BAD_DATETIME, f"{_MOMENT}, or null for none", convert=utc)
_DELAY: Final = Column("in_reporting_delay_period", bool, Code.WRONG_TYPE, "true or false", default=False)
_FORCE: Final = Column("force_write", bool, Code.WRONG_TYPE, "true or false", default=False)
_START: Final = Column("period_start", datetime, Code.BAD_DATETIME, _MOMENT, convert=utc)
_END: Final = Column("period_end", datetime, Code.BAD_DATETIME, _MOMENT, convert=utc)
_LOWER: Final = Column("lower_confidence", _Number | None, Code.WRONG_TYPE, f"{_NUMBER}, or null for none", default=None)
_UPPER: Final = Column("upper_confidence", _Number | None, Code.WRONG_TYPE, f"{_NUMBER}, or null for none", default=None)


def time_series(rows: Rows, findings: Findings) -> tuple[TimeSeriesPoint, ...]:
    """The distinct points in file order; empty where the file has any problem."""
    dates, epiweeks = _DATE.read(rows, findings), _EPIWEEK.read(rows, findings)
    values, embargoes = _VALUE.read(rows, findings), _EMBARGO.read(rows, findings)
    delays, forces = _DELAY.read(rows, findings), _FORCE.read(rows, findings)
    _delay_period_stays(rows, delays, findings)
    if findings.count:
        return ()
    columns = (dates, epiweeks, map(scaled, values), values, embargoes, delays, forces)
    return _distinct(tuple(map(TimeSeriesPoint._make, zip(*columns, strict=True))), _SERIES_IDENTITY)


def headlines(rows: Rows, findings: Findings) -> tuple[HeadlinePoint, ...]:
    """The distinct points in file order; empty where the file has any problem."""
    starts, ends = _START.read(rows, findings), _END.read(rows, findings)
    values, embargoes = _VALUE.read(rows, findings), _EMBARGO.read(rows, findings)
    lowers, uppers = _LOWER.read(rows, findings), _UPPER.read(rows, findings)
    _periods_in_order(rows, starts, ends, findings)
    _confidence_around_value(rows, lowers, values, uppers, findings)
    if findings.count:
        return ()
    columns = (starts, ends, map(scaled, values), map(_scaled_or_none, lowers), map(_scaled_or_none, uppers), embargoes)
    return _distinct(tuple(map(HeadlinePoint._make, zip(*columns, strict=True))), _HEADLINE_IDENTITY)


def _distinct(points: tuple[Point, ...], identity: Callable[[Point], Hashable]) -> tuple[Point, ...]:
    """The points without those a series cannot hold twice; of equal ones, the first in the file.

    Forced points collapse too: force_write asks for another row beside those of earlier files, not for two from one file.
    """
    identities = list(map(identity, points))
    if len(set(identities)) == len(identities):
        return points
    firsts = dict(zip(reversed(identities), reversed(points), strict=True))
    return tuple(firsts[each] for each in dict.fromkeys(identities))


def _scaled_or_none(value: float | None) -> int | None:
    return None if value is None else scaled(value)


def _delay_period_stays(rows: Rows, delays: Sequence[object], findings: Findings) -> None:
    """Once a point is in the reporting delay period, all after it are, in the order of the list and not of the dates."""
    if True not in delays:
        return
    for row in range(delays.index(True), len(delays)):
        if delays[row] is False:
            message = "points after one inside the reporting delay period must be inside it too, in the order of the list"
            findings.add(Code.DELAY_PERIOD_ENDED, rows.place(row, _DELAY.name), message)
            return


def _periods_in_order(rows: Rows, starts: Sequence[object], ends: Sequence[object], findings: Findings) -> None:
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if isinstance(start, datetime) and isinstance(end, datetime) and end < start:
            findings.add(Code.PERIOD_OUT_OF_ORDER, rows.place(row, _END.name), "period_end must not be before period_start")


def _confidence_around_value(
    rows: Rows, lowers: Sequence[object], values: Sequence[object], uppers: Sequence[object], findings: Findings
) -> None:
    for row, (lower, value, upper) in enumerate(zip(lowers, values, uppers, strict=True)):
        if UNREAD not in (lower, upper) and (lower is None) is not (upper is None):
            missing = _LOWER.name if lower is None else _UPPER.name
            findings.add(Code.CONFIDENCE_INCOMPLETE, rows.place(row, missing), "give both confidence bounds or neither")
        known = [bound for bound in (lower, value, upper) if isinstance(bound, float)]
        if known != sorted(known):
            message = "lower_confidence <= metric_value <= upper_confidence"
            findings.add(Code.CONFIDENCE_OUT_OF_ORDER, rows.place(row, _VALUE.name), message)
