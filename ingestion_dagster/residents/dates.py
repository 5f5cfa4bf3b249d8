"""Dates as people write them in spreadsheets, read strictly: what could mean two days, or none, is refused with its reason.

Nothing here depends on the locale or on the clock of the machine.
"""

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import NoReturn
from zoneinfo import ZoneInfo

LONDON = ZoneInfo("Europe/London")

BAD_DATE = "bad_date"
"""There is no such day, or the text is no date."""
AMBIGUOUS_YEAR = "ambiguous_year"
"""The year has two digits."""
BAD_DATE_FORMAT = "bad_date_format"
"""It may be a date, but not written as this kind of file writes dates."""
IMPLAUSIBLE_DATE = "implausible_date"
"""A day that it cannot have been: before the earliest or after the latest that was asked for."""

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")
_MONTH_NUMBERS = {written: number for number, name in enumerate(_MONTHS, 1) for written in (name, name[:3])} | {"sept": 9}

_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?\s*(?P<half>[ap]\.?m\.?)?"
_ZONE = r"\s*(?P<zone>z|utc|gmt|[+-]\d{2}(?::?\d{2})?)?"
_AFTER = re.compile(rf"^(?P<date>.*?)(?:\s+|(?<=\d)t){_TIME}{_ZONE}$", re.ASCII | re.IGNORECASE)

_ISO = re.compile(r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})", re.ASCII)
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})\s*(?P<mark>[-/. ])\s*(?P<month>\d{1,2})\s*(?P=mark)\s*(?P<day>\d{1,2})", re.ASCII)
_DAY_FIRST = re.compile(r"(?P<day>\d{1,2})\s*(?P<mark>[-/. ])\s*(?P<month>\d{1,2})\s*(?P=mark)\s*(?P<year>\d{4})", re.ASCII)
_ORDINAL = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_NAMED = re.compile(rf"{_ORDINAL}\s*[-/. ]?\s*(?P<name>[a-z]{{3,9}})\.?\s*[-/., ]?\s*(?P<year>\d{{4}}|\d{{2}})", re.ASCII | re.IGNORECASE)
_NAME_FIRST = re.compile(rf"(?P<name>[a-z]{{3,9}})\.?\s*[- ]\s*{_ORDINAL}\s*[-, ]\s*(?P<year>\d{{4}}|\d{{2}})", re.ASCII | re.IGNORECASE)
_TWO_DIGITS = re.compile(r"\d{1,2}\s*(?P<mark>[-/. ])\s*\d{1,2}\s*(?P=mark)\s*\d{2}", re.ASCII)
_EIGHT = re.compile(r"\d{8}", re.ASCII)
_SERIAL = re.compile(r"\d{5}(?:\.\d+)?", re.ASCII)

_EXPECTED_DAY_FIRST = "write it as 22/02/1963"
_EXPECTED_YEAR_FIRST = "expected YYYYMMDD, as in 19630222"


class BadDate(ValueError):
    """A text that is no date that can be used. `code` is one of this module's; `message` says why, without the text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def parse(text: str, *, day_first: bool, earliest: date | None = None, latest: date | None = None) -> date:
    """The day that a trimmed, non-blank text means.

    Day first: 22/02/1963 with `/ - .` or blanks between, 12 Nov 1998, 22021963; the other way round: 19630222 only. ISO 8601 everywhere.
    A time is read and left out; one with a zone is first brought to London. Raises `BadDate`.
    """
    plain, clock = _split(text)
    found = _day_first(plain) if day_first else _year_first(plain)
    found = _in_london(found, clock) if clock else found
    if earliest and found < earliest:
        raise BadDate(IMPLAUSIBLE_DATE, f"before {earliest:%d/%m/%Y}; correct the year")
    if latest and found > latest:
        raise BadDate(IMPLAUSIBLE_DATE, "in the future; correct the date")
    return found


def written(moment: date, *, day_first: bool) -> str:
    """A date cell of a workbook as a text that `parse` reads; the time only if there is one."""
    timed = isinstance(moment, datetime) and moment.replace(microsecond=0).time() != time()
    clock = f"{moment: %H:%M:%S}" if timed else ""
    year, month, day = f"{moment.year:04d}", f"{moment.month:02d}", f"{moment.day:02d}"
    if day_first:
        return f"{day}/{month}/{year}{clock}"
    return f"{year}-{month}-{day}{clock}" if clock else f"{year}{month}{day}"


def _split(text: str) -> tuple[str, re.Match[str] | None]:
    clock = _AFTER.match(text)
    return (clock["date"].strip(), clock) if clock else (text, None)


def _day_first(text: str) -> date:
    if found := _YEAR_FIRST.fullmatch(text) or _DAY_FIRST.fullmatch(text):
        return _day(found["year"], found["month"], found["day"], _EXPECTED_DAY_FIRST)
    if found := _NAMED.fullmatch(text) or _NAME_FIRST.fullmatch(text):
        month = _MONTH_NUMBERS.get(found["name"].lower())
        if month is None:
            raise BadDate(BAD_DATE, f"the month is no English one; {_EXPECTED_DAY_FIRST}")
        if len(found["year"]) == 2:
            _two_digits()
        return _day(found["year"], month, found["day"], _EXPECTED_DAY_FIRST)
    if _TWO_DIGITS.fullmatch(text):
        _two_digits()
    if _EIGHT.fullmatch(text):
        found_day = _tried(text[:4], text[4:6], text[6:]) or _tried(text[4:], text[2:4], text[:2])
        if found_day:
            return found_day
        raise BadDate(BAD_DATE, f"there is no such day; {_EXPECTED_DAY_FIRST}")
    if _SERIAL.fullmatch(text):
        raise BadDate(BAD_DATE, f"a number such as spreadsheets keep dates as; give the column a date format, or {_EXPECTED_DAY_FIRST}")
    raise BadDate(BAD_DATE, f"not a day, a month and a year of four digits; {_EXPECTED_DAY_FIRST}")


def _two_digits() -> NoReturn:
    raise BadDate(AMBIGUOUS_YEAR, f"the year has two digits; {_EXPECTED_DAY_FIRST}")


def _year_first(text: str) -> date:
    if found := _ISO.fullmatch(text):
        return _day(found["year"], found["month"], found["day"], _EXPECTED_YEAR_FIRST)
    if _EIGHT.fullmatch(text):
        if found_day := _tried(text[:4], text[4:6], text[6:]):
            return found_day
        # 20051983 is a day written the other way round, 19630231 is none at all.
        if "1800" <= text[:4] < "2200" and not _tried(text[4:], text[2:4], text[:2]):
            raise BadDate(BAD_DATE, f"there is no such day; {_EXPECTED_YEAR_FIRST}")
    raise BadDate(BAD_DATE_FORMAT, _EXPECTED_YEAR_FIRST)


def _tried(year: str, month: str, day: str) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _day(year: str, month: str | int, day: str, expected: str) -> date:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        pass
    if 12 < int(month) <= 31 and 1 <= int(day) <= 12:
        raise BadDate(BAD_DATE, f"there is no such month; the day comes before the month: {expected}")
    raise BadDate(BAD_DATE, f"there is no such day; {expected}")


def _in_london(day: date, clock: re.Match[str]) -> date:
    hour = int(clock["hour"])
    if clock["half"]:
        if not 1 <= hour <= 12:
            raise BadDate(BAD_DATE, "there is no such time; leave the time out")
        hour = hour % 12 + (12 if clock["half"].lower().startswith("p") else 0)
    try:
        moment = datetime(day.year, day.month, day.day, hour, int(clock["minute"]), int(clock["second"] or 0))  # noqa: DTZ001
        zone = (clock["zone"] or "").lower()
        return moment.replace(tzinfo=_zone(zone)).astimezone(LONDON).date() if zone else day
    except (ValueError, OverflowError):
        raise BadDate(BAD_DATE, "there is no such time; leave the time out") from None


def _zone(text: str) -> tzinfo:
    if text[0] not in "+-":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[3:].lstrip(":") or 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
