"""Metric files: from bytes to a judged file, or to every reason why not."""

from dataclasses import dataclass, field
from datetime import datetime

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.metrics.columns import Rows
from ingestion_dagster.metrics.header import read_texts
from ingestion_dagster.metrics.payload import UNCLASSIFIED, content_hash, dataset_of, decode
from ingestion_dagster.metrics.points import REFRESH_DATE, HeadlinePoint, TimeSeriesPoint, headlines, time_series
from ingestion_dagster.metrics.problems import Code, Findings
from ingestion_dagster.metrics.publicity import judge_publicity, non_public
from ingestion_dagster.metrics.rules import reference

__all__ = [
    "UNCLASSIFIED",
    "HeadlinePoint",
    "MetricFile",
    "TimeSeriesPoint",
    "content_hash",
    "dataset_of",
    "decode",
    "judge",
    "parse",
]


@dataclass(frozen=True, slots=True)
class MetricFile:
    """One accepted file: the known values of one combination of metric, geography, age, sex and stratum.

    `sex` and `metric_frequency` are the stored letters (no frequency for headlines), `refresh_date` is UTC. `points` are distinct,
    in file order; `duplicates` were equal to one of them, `null_points` had no value.
    """

    theme: str
    sub_theme: str
    topic: str
    metric_group: str
    metric: str
    geography_type: str
    geography: str
    geography_code: str
    age: str
    sex: str
    stratum: str
    metric_frequency: str | None
    refresh_date: datetime
    is_public: bool
    points: tuple[TimeSeriesPoint, ...] | tuple[HeadlinePoint, ...] = field(repr=False)
    duplicates: int
    null_points: int
    warnings: tuple[Problem, ...]

    @property
    def dataset(self) -> str:
        """The dataset the file belongs to: its metric group."""
        return self.metric_group

    @property
    def is_headline(self) -> bool:
        """Whether the points are headlines."""
        return self.metric_frequency is None


def parse(raw: bytes, name: str) -> MetricFile:
    """The judged file in `raw`, delivered under the key `name`. Raises `Refused` with every problem found, not only the first."""
    return judge(decode(raw), name)


def judge(payload: dict[str, object], name: str) -> MetricFile:
    """Hold a decoded payload, delivered under the key `name`, against all rules of metric files.

    Only the base name of the key counts. Raises `Refused` with every problem found; places and messages hold no value of the file.
    """
    if not isinstance(payload, dict):
        raise Refused(Problem(Code.NOT_AN_OBJECT.value, "file", "the content must be one JSON object"))
    findings = Findings()
    headline = _is_headline(payload)
    list_field = "data" if headline else "time_series"
    texts = read_texts(payload, headline, findings)
    refresh_date = REFRESH_DATE.read(Rows("", [payload], [0]), findings)[0]
    listed = _read_list(payload, list_field, findings)
    warnings = judge_publicity(payload.get("metric"), name, list_field, listed, findings)
    rows, null_points = _rows(list_field, listed, findings)
    points = _points(headline, rows, findings)
    findings.refuse_if_any()
    return MetricFile(
        theme=texts["parent_theme"],
        sub_theme=texts["child_theme"],
        topic=texts["topic"],
        metric_group=texts["metric_group"],
        metric=texts["metric"],
        geography_type=texts["geography_type"],
        geography=texts["geography"],
        geography_code=texts["geography_code"],
        age=texts["age"],
        sex=reference().sexes[texts["sex"].lower()],
        stratum=texts["stratum"],
        metric_frequency=None if headline else reference().frequencies[texts["metric_frequency"].lower()],
        refresh_date=refresh_date,
        is_public=not non_public(texts["metric"]),
        points=points,
        duplicates=len(rows.points) - len(points),
        null_points=null_points,
        warnings=warnings,
    )


def _is_headline(payload: dict[str, object]) -> bool:
    """The metric group tells the shape. Where it is no known group, the list that is there does, so that its points are judged too."""
    if (group := dataset_of(payload)) == UNCLASSIFIED:
        return "data" in payload and "time_series" not in payload
    return group == reference().groups.headline


def _points(headline: bool, rows: Rows, findings: Findings) -> tuple[TimeSeriesPoint, ...] | tuple[HeadlinePoint, ...]:
    return headlines(rows, findings) if headline else time_series(rows, findings)


def _read_list(payload: dict[str, object], list_field: str, findings: Findings) -> list[object]:
    """The list of points; empty, with a problem, where there is none."""
    points = payload.get(list_field)
    if isinstance(points, list):
        return points
    if list_field not in payload:
        findings.add(Code.MISSING_FIELD, list_field, f"add the list {list_field}; it may be empty")
    elif points is None:
        findings.add(Code.NULL_FIELD, list_field, f"{list_field} must not be null; it may be an empty list")
    else:
        findings.add(Code.WRONG_TYPE, list_field, f"{list_field} must be a list")
    return []


def _rows(list_field: str, listed: list[object], findings: Findings) -> tuple[Rows, int]:
    """The points that hold a value or should, and the number of those whose value is null, which are not judged any further."""
    points: list[dict[str, object]] = []
    indices: list[int] = []
    null_points = 0
    for index, point in enumerate(listed):
        if not isinstance(point, dict):
            findings.add(Code.WRONG_TYPE, f"{list_field}[{index}]", "a point must be a JSON object")
        elif point.get("metric_value", ...) is None:
            null_points += 1
        else:
            points.append(point)
            indices.append(index)
    return Rows(list_field, points, indices), null_points
