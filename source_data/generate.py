"""The synthetic metrics deliveries in `metrics/`: the same bytes on every machine, every day.

`python source_data/generate.py` rewrites the folder; `--check` changes nothing and exits 1 if the folder is not what would be written.
Every value is invented. Each file draws from its own generator, seeded with its name, so adding a family leaves the other files alone.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Literal

FOLDER = Path(__file__).parent / "metrics"
LAST_DAY = date(2025, 6, 29)
RELEASED, NEVER_RELEASED = "2025-07-03 17:30:00", "2999-01-01 00:00:00"
STEP_DAYS = {"daily": 1, "weekly": 7, "fortnightly": 14}
STEP_MONTHS = {"monthly": (1, 2025 * 12 + 6), "quarterly": (3, 2025 * 12 + 6), "annual": (12, 2025 * 12 + 3)}
"""Months per step, and the month after the last period, counted from year 0 (so July 2025, or April 2025 for years to 31 March)."""
Json = dict[str, Any]

# fmt: off
COMMON = (
    "parent_theme", "child_theme", "topic", "metric_group", "metric", "geography_type", "geography", "geography_code", "age", "sex",
    "stratum",
)
REGIONS = (
    "North East E12000001, North West E12000002, Yorkshire and The Humber E12000003, East Midlands E12000004, West Midlands E12000005, "
    "East of England E12000006, London E12000007, South East E12000008, South West E12000009"
)
GEOGRAPHIES = {
    "UK": ("United Kingdom", "United Kingdom K02000001"),
    "CTRY": ("Nation", "England E92000001, Scotland S92000003, Wales W92000004, Northern Ireland N92000002"),
    "RGN": ("Region", REGIONS),
    "GOR": ("Government Office Region", REGIONS),
    "NHSRGN": ("NHS Region",
        "London E40000003, South East E40000005, South West E40000006, Midlands E40000011, North East and Yorkshire E40000012, "
        "East of England E40000013, North West E40000014"),
    "UKHSARGN": ("UKHSA Region",
        "London E45000001, West Midlands E45000005, North East E45000009, Yorkshire and Humber E45000010, East Midlands E45000016, "
        "East of England E45000017, North West E45000018, South East E45000019, South West E45000020"),
    "UKHSASRGN": ("UKHSA Super-Region", "North X25001, Midlands and East X25002, London X25003, South X25004"),
    "UTLA": ("Upper Tier Local Authority",
        "Darlington E06000005, York E06000014, Medway E06000035, Cornwall E06000052, Manchester E08000003, Leeds E08000035, "
        "Birmingham E08000025, Camden E09000007, Hackney E09000012, Devon E10000008, Kent E10000016, Norfolk E10000020"),
    "LTLA": ("Lower Tier Local Authority",
        "York E06000014, Cornwall E06000052, Amber Valley E07000032, Basildon E07000066, Basingstoke and Deane E07000084, "
        "Ashford E07000105, Blaby E07000129, Boston E07000136, Ashfield E07000170, Adur E07000223, Leeds E08000035, Camden E09000007"),
    # Invented trusts: a made-up count of infections should not carry a real hospital's name.
    "TRUST": ("NHS Trust",
        "Ambledale Hospitals NHS Trust XQ1, Brackwater University Hospitals NHS Trust XQ2, Corvale NHS Foundation Trust XQ3, "
        "Dunmarsh Teaching Hospitals NHS Trust XQ4, Elmsford Children's NHS Foundation Trust XQ5, Farrowdale Community NHS Trust XQ601, "
        "Great Hollin Hospital NHS Trust XQ7, Harcombe Bay NHS Foundation Trust XQ8, Inglebeck Hospitals NHS Trust XQ902, "
        "Kestrel Moor NHS Trust XQA"),
    "ICB": ("Integrated Care Board",
        "NHS Birmingham and Solihull ICB QHL, NHS Kent and Medway ICB QKS, NHS North East London ICB QMF, "
        "NHS Humber and North Yorkshire ICB QOQ, NHS Hampshire and Isle of Wight ICB QRL, NHS Cheshire and Merseyside ICB QYG"),
    "SICB": ("Sub-Integrated Care Board",
        "NHS Birmingham and Solihull ICB - 15E 15E, NHS Cheshire and Merseyside ICB - 27D 27D, NHS South East London ICB - 72Q 72Q, "
        "NHS Kent and Medway ICB - 91Q 91Q, NHS North East London ICB - A3A8R A3A8R, NHS Hampshire and Isle of Wight ICB - D9Y0V D9Y0V"),
}
# fmt: on
"""By the token the file name carries: the geography type, and its places, each with its code last."""


@dataclass(frozen=True)
class Family:
    """One metric, delivered as one file per place, age, sex and stratum; its name holds the topic, the metric group and a detail."""

    theme: str  # parent/child
    metric: str
    places: dict[str, int]  # how many of each kind
    unit: Literal["count", "rate", "percent", "change", "alert"]
    level: float  # where the curve peaks
    frequency: str = ""  # empty for a headline
    points: int = 1
    peak_week: int = 2
    season: float = 0.8  # the share of the level that comes and goes with the season
    ages: tuple[str, ...] = ("all",)
    sexes: tuple[str, ...] = ("all",)
    strata: tuple[str, ...] = ("default",)
    delayed: int = 0  # how many of the last points are in the reporting delay period
    confidence: bool = False
    withheld: bool = False  # the last point carries an embargo that does not lapse
    flagged: bool = True  # points carry `is_public`


BY_SEX = ("all", "Female", "Male")
ENGLAND = {"CTRY": 1}
RESPIRATORY = "infectious_disease/respiratory"
# fmt: off
FAMILIES = [
    Family(RESPIRATORY, "COVID-19_cases_casesByDay", ENGLAND | {"UTLA": 12}, "count", 220, "daily", 120, 1, delayed=5),
    Family(RESPIRATORY, "COVID-19_cases_rateByWeek", ENGLAND, "rate", 34, "weekly", 78, 1,
           ages=("00-04", "05-14", "15-64", "65-84", "85+"), sexes=BY_SEX),
    Family(RESPIRATORY, "COVID-19_deaths_registeredByWeek", {"CTRY": 4}, "count", 310, "weekly", 104, 3, delayed=2, withheld=True),
    Family(RESPIRATORY, "COVID-19_testing_positivityByWeek", {"LTLA": 12}, "percent", 14, "weekly", 104, 51),
    Family(RESPIRATORY, "COVID-19_vaccinations_uptakeByDay", ENGLAND | {"NHSRGN": 7}, "percent", 62, "daily", 60, season=0.1),
    Family(RESPIRATORY, "COVID-19_headline_admissionsLatest", {"UK": 1, "CTRY": 4}, "count", 940),
    Family(RESPIRATORY, "COVID-19_headline_casesPercentChange", {"UTLA": 6}, "change", 40),
    Family(RESPIRATORY, "Influenza_healthcare_ICUAdmissionRateByWeek", ENGLAND | {"NHSRGN": 7}, "rate", 0.9, "weekly", 80, 52),
    Family(RESPIRATORY, "Influenza_testing_positivityByWeek", {"UKHSASRGN": 4}, "percent", 24, "weekly", 78, 52,
           ages=("all", "00-04", "65+")),
    Family(RESPIRATORY, "influenza-like_syndromic_GPInHoursByDay", {"UKHSARGN": 9}, "rate", 12, "daily", 120, 1),
    Family(RESPIRATORY, "RSV_healthcare_admissionRateByWeek", ENGLAND, "rate", 38, "weekly", 104, 48,
           ages=("all", "00-04", "75+"), sexes=BY_SEX),
    Family(RESPIRATORY, "RSV_headline_positivityLatest", ENGLAND | {"UKHSARGN": 9}, "percent", 9, confidence=True),
    Family(RESPIRATORY, "hMPV_testing_positivityByWeek", {"UK": 1, "UKHSARGN": 3}, "percent", 7, "weekly", 52, 10),
    Family("non-communicable/respiratory", "asthma_syndromic_emergencyDepartmentByDay", ENGLAND | {"GOR": 9}, "count", 160,
           "daily", 60, 38, 0.4, delayed=1),
    Family("infectious_disease/vaccine_preventable", "Measles_cases_casesByWeek", {"RGN": 9}, "count", 18, "weekly", 52, 18, delayed=3),
    Family("infectious_disease/vaccine_preventable", "OFF-SENS_Measles_cases_confirmedByWeek", {"LTLA": 12}, "count", 6, "weekly", 104, 18),
    Family("infectious_disease/bloodstream_infection", "MRSA_cases_bacteraemiaByMonth", {"TRUST": 10}, "count", 5, "monthly", 36, 8, 0.3,
           strata=("hospital onset", "community onset")),
    Family("infectious_disease/gastrointestinal", "C-difficile_cases_rateByQuarter", {"ICB": 6}, "rate", 26, "quarterly", 24, 32),
    Family("infectious_disease/antimicrobial_resistance", "E-coli_testing_resistantByQuarter", {"SICB": 6}, "percent", 21, "quarterly", 20,
           season=0.1, strata=("ciprofloxacin", "gentamicin")),
    Family("infectious_disease/bloodborne", "OFF-SENS_HIV_counts_newDiagnosesByYear", {"UTLA": 4}, "count", 45, "annual", 10, season=0.2,
           sexes=BY_SEX, withheld=True),
    Family("infectious_disease/bloodborne", "HIV_prevention_PrEPUptakeByYear", ENGLAND, "percent", 71, "annual", 8, season=0.1,
           ages=("15-24", "25-64", "65+"), sexes=BY_SEX),
    Family("infectious_disease/bloodborne", "OFF-SENS_Hepatitis-C_headline_diagnosesLatest", {"UKHSARGN": 3}, "count", 85, flagged=False),
    Family("infectious_disease/contact", "mpox-clade-2b_cases_casesByFortnight", {"UK": 1, "GOR": 3}, "count", 24, "fortnightly", 40, 30),
    Family("infectious_disease/childhood_illness", "Scarlet-fever_cases_notificationsByWeek", {"CTRY": 2}, "count", 480, "weekly", 104, 12),
    Family("infectious_disease/invasive_bacterial_infections", "iGAS_headline_rateLatest", ENGLAND, "rate", 4, confidence=True,
           withheld=True, ages=("all", "00-09", "75+")),
    Family("infectious_disease/vector_borne", "lyme_cases_confirmedByQuarter", ENGLAND, "count", 610, "quarterly", 20, 30),
    Family("extreme_event/weather_alert", "Heat-alert_headline_matrixNumber", {"RGN": 9}, "alert", 16),
    Family("extreme_event/weather_alert", "Cold-alert_headline_matrixNumber", {"GOR": 9}, "alert", 16),
    Family("extreme_event/mortality-report", "Heat-mortality_deaths_associatedByYear", {"RGN": 9}, "count", 260, "annual", 9, season=0.1,
           ages=("65+",)),
    Family("climate_and_environment/vectors", "ticks_counts_recordsByMonth", {"CTRY": 3}, "count", 340, "monthly", 48, 24),
    Family("climate_and_environment/chemical_exposure", "OFF-SENS_Lead_cases_childrenByYear", {"UKHSARGN": 3}, "count", 30, "annual", 8,
           season=0.1, ages=("00-15",), flagged=False),
    Family("climate_and_environment/seasonal_environmental", "heat-or-sunstroke_syndromic_callsByDay", {"RGN": 3}, "count", 130, "daily",
           90, 27, delayed=2),
    Family("immunisation/childhood-vaccines", "MMR1_coverage_coverageByYear", {"UTLA": 8}, "percent", 92, "annual", 12, season=0.05,
           strata=("24m", "5y")),
    Family("immunisation/childhood-vaccines", "MenB_coverage_coverageByQuarter", {"CTRY": 4}, "percent", 93, "quarterly", 20, season=0.05,
           strata=("12m",)),
    Family("medicines/antimicrobials", "antibiotics_consumption_dailyDosesByMonth", {"ICB": 6}, "rate", 17, "monthly", 48, 1, 0.3,
           strata=("primary care", "secondary care")),
]
# fmt: on


def good_files() -> Iterator[tuple[str, Json]]:
    """Name and payload of every file that should be accepted; each is a series of its own."""
    for family in FAMILIES:
        topic, group, _ = family.metric.removeprefix("OFF-SENS_").split("_")
        places = [(token, place.rpartition(" ")) for token, count in family.places.items() for place in _places(token)[:count]]
        for (token, (geography, _, code)), age, sex, stratum in product(places, family.ages, family.sexes, family.strata):
            name = f"{family.metric}_{token}_{code}_{age}_{sex}_{stratum.replace(' ', '_')}.json"
            rng = Random(name)
            dimensions = (topic, group, family.metric, GEOGRAPHIES[token][0], geography, code, age, sex, stratum)
            payload: Json = dict(zip(COMMON, (*family.theme.split("/"), *dimensions), strict=True))
            payload["refresh_date"] = "2025-07-03" if rng.random() < 0.5 else "2025-07-03 09:30:00"
            points = _series(family, rng) if family.frequency else [_headline(family, rng)]
            if family.withheld:
                points[-1]["embargo"] = NEVER_RELEASED
            if family.flagged:
                points = [point | {"is_public": not name.startswith("OFF-SENS_")} for point in points]
            yield name, payload | ({"metric_frequency": family.frequency, "time_series": points} if family.frequency else {"data": points})


def _places(token: str) -> list[str]:
    return GEOGRAPHIES[token][1].split(", ")


def _series(family: Family, rng: Random) -> list[Json]:
    size, text_weeks, gaps, by_week = 0.6 + rng.random(), rng.random() < 0.5, rng.random() < 0.15, rng.random() < 0.1
    embargo = RELEASED if rng.random() < 0.6 else None
    days = list(_days(family.frequency, family.points))
    if by_week and not (family.delayed or family.withheld):
        days.sort(key=lambda day: (day.isocalendar().week, day))
    points: list[Json] = []
    for position, day in enumerate(days, start=1):
        week = day.isocalendar().week
        value = _value(family, size, week, rng)
        point: Json = {
            "epiweek": f"{week:02d}" if text_weeks else week,
            "date": day.isoformat(),
            "metric_value": None if gaps and rng.random() < 0.05 else value,
            "embargo": embargo,
        }
        if family.delayed:
            point["in_reporting_delay_period"] = position > len(days) - family.delayed
        points.append(point)
    return points


def _headline(family: Family, rng: Random) -> Json:
    value = _value(family, 0.6 + rng.random(), LAST_DAY.isocalendar().week, rng)
    point: Json = {
        "period_start": (LAST_DAY - timedelta(days=6)).isoformat(),
        "period_end": LAST_DAY.isoformat(),
        "metric_value": value,
        "embargo": RELEASED if rng.random() < 0.6 else None,
    }
    if family.confidence:
        point |= {"lower_confidence": round(value * 0.8, 2), "upper_confidence": round(value * 1.3, 2)}
    return point


def _days(frequency: str, count: int) -> Iterator[date]:
    for steps_back in range(count - 1, -1, -1):
        if frequency in STEP_DAYS:
            yield LAST_DAY - timedelta(days=STEP_DAYS[frequency] * steps_back)
        else:
            months, after_last = STEP_MONTHS[frequency]
            year, month = divmod(after_last - months * steps_back, 12)
            yield date(year, month + 1, 1) - timedelta(days=1)


def _value(family: Family, size: float, week: int, rng: Random) -> float:
    # Only + - * /, and only Random.random(): these give the same bits on every Python and C library, `math.exp` and `gauss` may not.
    noise = rng.random() - 0.5
    if family.unit == "alert":
        return int((noise + 0.5) * family.level) + 1
    if family.unit == "change":
        return round(2 * noise * family.level, 1)
    off_peak = min((week - family.peak_week) % 52, (family.peak_week - week) % 52) / 6
    curve = (1 - family.season) + family.season / (1 + off_peak * off_peak)
    if family.unit == "percent":
        return round(min(family.level * (0.9 + size / 10) * curve * (1 + noise / 10), 99.5), 1)
    value = family.level * size * curve * (1 + noise / 3)
    return round(value) if family.unit == "count" else round(value, 2)


def bad_files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file that should be refused; the third part of the name says why."""
    suffix = "_CTRY_E92000001_all_all_default.json"
    whole = _dump(_faulty("RSV_healthcare_whole"))
    yield f"RSV_healthcare_truncatedJson{suffix}", whole[: len(whole) // 2]
    yield f"RSV_healthcare_notJson{suffix}", b"epiweek,date,metric_value\n01,2025-01-05,12\n"
    yield f"RSV_healthcare_jsonArray{suffix}", _dump([_faulty("RSV_healthcare_jsonArray")])
    ungrouped = _faulty("RSV_healthcare_missingMetricGroup")
    del ungrouped["metric_group"]
    yield f"RSV_healthcare_missingMetricGroup{suffix}", _dump(ungrouped)
    unprefixed = _faulty("OFF-SENS_RSV_healthcare_prefixOnlyInMetric", {"is_public": False}, {"is_public": False})
    yield f"RSV_healthcare_prefixOnlyInMetric{suffix}", _dump(unprefixed)
    headline = _faulty("RSV_headline_lowerWithoutUpper", metric_group="headline")
    del headline["metric_frequency"], headline["time_series"]
    period = {"period_start": "2025-06-23", "period_end": "2025-06-29", "embargo": None, "is_public": True}
    yield f"RSV_headline_lowerWithoutUpper{suffix}", _dump(headline | {"data": [period | {"metric_value": 9.1, "lower_confidence": 8.2}]})
    for payload in (
        _faulty("Snuffles_healthcare_unknownTopic", topic="Snuffles"),
        _faulty("RSV_healthcare_fiveFaults", {"epiweek": 0}, metric_frequency="W", age="5-9", sex="unknown", geography_code="E12000007"),
        _faulty("OFF-SENS_RSV_healthcare_publicFlagContradictsPrefix"),
        _faulty("RSV_healthcare_epiweek54", {"epiweek": 54}),
        _faulty("RSV_healthcare_valueNaN", {"metric_value": float("nan")}),
        _faulty("RSV_healthcare_valueTenMillion", {"metric_value": 10_000_000}),
        _faulty("RSV_healthcare_unknownSex", sex="unknown"),
        _faulty("RSV_healthcare_delayPeriodEnds", {"in_reporting_delay_period": False}, {"in_reporting_delay_period": True}),
        _faulty("RSV_healthcare_mixedFlags", {"is_public": False}),
    ):
        yield payload["metric"] + suffix, _dump(payload)
    deprecated = _faulty(
        "RSV_healthcare_deprecatedGeography", geography_type="NHS Region", geography="North West", geography_code="E40000010"
    )
    yield "RSV_healthcare_deprecatedGeography_NHSRGN_E40000010_all_all_default.json", _dump(deprecated)


def _faulty(metric: str, last: Json | None = None, earlier: Json | None = None, **fields: str) -> Json:
    """The end of a good delivery, with nothing wrong but the given changes to its last point, its earlier points and its fields."""
    good = next(payload for _, payload in good_files() if payload["metric"] == "RSV_healthcare_admissionRateByWeek")
    *before, final = good["time_series"][-4:]
    return good | {"metric": metric} | fields | {"time_series": [*(point | (earlier or {}) for point in before), final | (last or {})]}


def _dump(content: Json | list[Json]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def main() -> int:
    """Write the folder, or with `--check` say what in it is not as it would be written; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the folder differs")
    check = parser.parse_args().check
    wanted = {FOLDER / name: _dump(payload) for name, payload in good_files()} | {FOLDER / "bad" / name: raw for name, raw in bad_files()}
    present = {path: path.read_bytes() for path in FOLDER.rglob("*.json")}
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    for path in differing:
        print(f"{'differs' if check else 'updated'}: {path.relative_to(FOLDER)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path]) if path in wanted else path.unlink()
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
