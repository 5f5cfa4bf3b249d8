"""Dates of spreadsheets: what means one day is that day, what could mean another is refused with its reason."""

import locale
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_dagster.residents.dates import BadDate, parse, written

DAY_FIRST = {
    "22/02/1963": date(1963, 2, 22),
    "2/6/2021": date(2021, 6, 2),
    "7-3-2033": date(2033, 3, 7),
    "1989-3-1": date(1989, 3, 1),
    "11.10.1989": date(1989, 10, 11),
    "11 10 1989": date(1989, 10, 11),
    "19830502": date(1983, 5, 2),
    "20122013": date(2013, 12, 20),
    "1950-02-27 00:00:00": date(1950, 2, 27),
    "09/11/2021 00:00": date(2021, 11, 9),
    "15/01/2022 00:00:00": date(2022, 1, 15),
    "13051985": date(1985, 5, 13),
    "07/01/2021 18:57": date(2021, 1, 7),
    "25/12/2021 07:22:45": date(2021, 12, 25),
    "09/11/2021 7:22": date(2021, 11, 9),
    "09/11/2021 7:22 pm": date(2021, 11, 9),
    "12 Nov 1998": date(1998, 11, 12),
    "12 Jan 1985": date(1985, 1, 12),
    "12-Jan-1985": date(1985, 1, 12),
    "12 January 1985": date(1985, 1, 12),
    "12th sept 1985": date(1985, 9, 12),
    "12/JAN/1985 07:22": date(1985, 1, 12),
    "January 12, 1985": date(1985, 1, 12),
    "01022021": date(2021, 2, 1),
    "02051983": date(1983, 5, 2),
    "12/11/1985": date(1985, 11, 12),
    "29/02/2020": date(2020, 2, 29),
    "1963/02/22": date(1963, 2, 22),
    "2021-02-05T03:10:31.123Z": date(2021, 2, 5),
    "2021-02-05T03:10:31Z": date(2021, 2, 5),
    "2021-07-01T23:30:00Z": date(2021, 7, 2),
    "2021-01-01T23:30:00Z": date(2021, 1, 1),
    "2021-01-02T00:30:00+01:00": date(2021, 1, 1),
    "2021-01-01T20:00:00-0500": date(2021, 1, 2),
    "2021-07-01 23:59:59": date(2021, 7, 1),
}
REFUSED = {
    "01/02/85": "ambiguous_year",
    "02/05/83": "ambiguous_year",
    "1/21/21 3:53": "ambiguous_year",
    "25/12/99": "ambiguous_year",
    "12 Nov 98": "ambiguous_year",
    "85-02-01": "ambiguous_year",
    "1985": "bad_date",
    "05/1985": "bad_date",
    "1985-05": "bad_date",
    "12/31/1985": "bad_date",
    "12/13/14/15": "bad_date",
    "2051983": "bad_date",
    "31/02/1990": "bad_date",
    "29/02/2021": "bad_date",
    "unknown": "bad_date",
    "not known": "bad_date",
    "yesterday": "bad_date",
    "n/a": "bad_date",
    "None": "bad_date",
    "nan": "bad_date",
    "44242": "bad_date",
    "44242.75": "bad_date",
    "20211345": "bad_date",
    "00000000": "bad_date",
    "12 Foo 1985": "bad_date",
    "12/11-1985": "bad_date",
    "01/01/2021 25:00": "bad_date",
    "01/01/2021 00:61": "bad_date",
    "01/01/2021 13:00 pm": "bad_date",
    "2021-01-01T00:00:00+99:00": "bad_date",
    "0001-01-01T00:00:00+14:00": "bad_date",
    "9999-12-31T23:59:59-10:00": "bad_date",
    "٢٢/٠٢/١٩٦٣": "bad_date",
    "\uff12\uff12/02/1963": "bad_date",
    "22/02/1963 or 1964": "bad_date",
    "=22/02/1963": "bad_date",
}
YEAR_FIRST = {
    "19630222": date(1963, 2, 22),
    "19560512": date(1956, 5, 12),
    "1963-02-22": date(1963, 2, 22),
    "1963-02-22 00:00:00": date(1963, 2, 22),
    "2021-07-01T23:30:00Z": date(2021, 7, 2),
}
YEAR_FIRST_REFUSED = {
    "02051983": "bad_date_format",
    "20051983": "bad_date_format",
    "44242": "bad_date_format",
    "22/02/1963": "bad_date_format",
    "02/05/83": "bad_date_format",
    "12 Nov 1998": "bad_date_format",
    "1963/02/22": "bad_date_format",
    "unknown": "bad_date_format",
    "": "bad_date_format",
    "19630231": "bad_date",
    "19631301": "bad_date",
    "1963-02-31": "bad_date",
}


def code(text: str, **how) -> str:
    with pytest.raises(BadDate) as refused:
        parse(text, **how)
    assert not text or text not in refused.value.message
    return refused.value.code


@pytest.mark.parametrize("text", DAY_FIRST)
def test_day_first_text_that_means_one_day_is_that_day(text: str):
    assert parse(text, day_first=True) == DAY_FIRST[text]


@pytest.mark.parametrize("text", REFUSED)
def test_day_first_text_is_never_guessed(text: str):
    assert code(text, day_first=True) == REFUSED[text]


@pytest.mark.parametrize("text", YEAR_FIRST)
def test_year_first_text_is_its_day(text: str):
    assert parse(text, day_first=False) == YEAR_FIRST[text]


@pytest.mark.parametrize("text", YEAR_FIRST_REFUSED)
def test_year_first_files_take_no_other_form(text: str):
    assert code(text, day_first=False) == YEAR_FIRST_REFUSED[text]


def test_a_wrong_form_is_told_which_one_is_expected():
    with pytest.raises(BadDate, match="expected YYYYMMDD"):
        parse("02051983", day_first=False)


def test_the_bounds_themselves_are_plausible_and_a_day_beyond_is_not():
    first, last = date(1900, 1, 1), date(2026, 11, 20)
    bounds = {"day_first": True, "earliest": first, "latest": last}
    assert parse("01/01/1900", day_first=True, earliest=first, latest=last) == first
    assert parse("20/11/2026", day_first=True, earliest=first, latest=last) == last
    assert {code(text, **bounds) for text in ("31/12/1899", "21/11/2026", "0102-08-05")} == {"implausible_date"}


def test_month_names_do_not_depend_on_the_locale():
    before = locale.setlocale(locale.LC_ALL)
    for other in locale.locale_alias.values():
        try:
            locale.setlocale(locale.LC_TIME, other)
        except locale.Error:
            continue
        if not other.startswith(("en", "C")):
            break
    try:
        assert parse("12 May 1985", day_first=True) == date(1985, 5, 12)
        assert code("12 Mai 1985", day_first=True) == "bad_date"
    finally:
        locale.setlocale(locale.LC_ALL, before)


days = st.dates(min_value=date(1000, 1, 1))


@given(days, st.sampled_from(["/", "-", ".", " "]), st.booleans())
def test_every_day_is_read_back_from_every_separator(day: date, mark: str, is_padded: bool):
    width = "02" if is_padded else ""
    assert parse(f"{day.day:{width}}{mark}{day.month:{width}}{mark}{day.year}", day_first=True) == day


@given(st.dates(min_value=date(1900, 1, 1), max_value=date(2099, 12, 31)))
def test_eight_digits_have_one_meaning_in_either_order(day: date):
    assert (
        parse(f"{day:%Y%m%d}", day_first=True) == parse(f"{day:%d%m%Y}", day_first=True) == parse(f"{day:%Y%m%d}", day_first=False) == day
    )
    assert code(f"{day:%d%m%Y}", day_first=False) == "bad_date_format"


@given(st.one_of(days, st.datetimes(min_value=datetime(1000, 1, 1))), st.booleans())  # noqa: DTZ001
def test_date_cells_are_read_back_as_the_day_they_hold(moment: date, day_first: bool):
    day = moment.date() if isinstance(moment, datetime) else moment
    assert parse(written(moment, day_first=day_first), day_first=day_first) == day


@given(st.text(max_size=30), st.booleans())
def test_whatever_is_in_a_cell_is_a_day_or_a_reason(text: str, day_first: bool):
    try:
        found: date | str = parse(text, day_first=day_first)
    except BadDate as refused:
        found = refused.code
    assert isinstance(found, date) or found in {"bad_date", "ambiguous_year", "bad_date_format"}


@given(st.text(alphabet="0123456789/-. :TZ+", max_size=24))
def test_two_digit_years_never_become_years(text: str):
    try:
        day = parse(text, day_first=True)
    except BadDate:
        return
    if "+" not in text and "Z" not in text:
        assert f"{day.year:04d}" in text
