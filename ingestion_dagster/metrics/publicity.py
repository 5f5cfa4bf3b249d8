"""Whether a metric file is public: the metric's prefix decides, and file name and flags must agree with it."""

import re
from typing import Final

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.metrics.problems import Code, Findings

NON_PUBLIC_PREFIX: Final = "OFF-SENS_"
NEARLY_NON_PUBLIC: Final = (
    f"begins almost, but not exactly, with {NON_PUBLIC_PREFIX}: correct the prefix, or, if it is public, say is_public true in each point"
)

_NEAR = 16


def non_public(name: str) -> bool:
    """Whether a metric, or the base name of a file, is marked as not public. Source: UKHSA data dashboard, exact case."""
    return name.startswith(NON_PUBLIC_PREFIX)


def judge_publicity(metric: object, name: str, field: str, points: list[object], findings: Findings) -> tuple[Problem, ...]:
    """Hold the key of the file and the flags of all its points, also of those without a value, against the metric's prefix.

    Returns the warnings. Never defaults to public, unlike the source: a missing flag follows from the prefix.
    """
    flags = _flags(field, points, findings)
    if len(set(flags)) > 1:
        findings.add(Code.MIXED_PUBLIC_FLAGS, field, "is_public must be the same in all points of a file")
    if isinstance(metric, str):
        if non_public(metric) is not non_public(name.rpartition("/")[2]):
            message = f"the file name and the metric must both start with {NON_PUBLIC_PREFIX}, or neither"
            findings.add(Code.FILE_NAME_CONTRADICTS_PREFIX, "file name", message)
        if set(flags) == {non_public(metric)}:
            message = f"is_public must be false where the metric starts with {NON_PUBLIC_PREFIX}, and true elsewhere"
            findings.add(Code.PUBLIC_FLAG_CONTRADICTS_PREFIX, field, message)
    warnings = []
    if isinstance(metric, str) and _nearly_non_public(metric):
        if flags and len(flags) == len(points) and all(flags):
            warnings.append(Problem(Code.PREFIX_NEARLY_NON_PUBLIC.value, "metric", NEARLY_NON_PUBLIC, severity="warning"))
        else:
            findings.add(Code.PREFIX_NEARLY_NON_PUBLIC, "metric", NEARLY_NON_PUBLIC)
    if missing := sum("is_public" not in point for point in points if isinstance(point, dict)) if len(flags) < len(points) else 0:
        message = f"{missing} of {len(points)} points have no is_public; it follows from the metric's prefix"
        warnings.append(Problem(Code.PUBLIC_FLAG_MISSING.value, field, message, severity="warning"))
    return tuple(warnings)


def _nearly_non_public(metric: str) -> bool:
    """Whether a metric that counts as public begins almost like one that does not: in another case, with other or no separators."""
    return not non_public(metric) and re.sub(r"[^a-z]", "", metric[:_NEAR].lower()).startswith("offsens")


def _flags(field: str, points: list[object], findings: Findings) -> list[bool]:
    """The flags that are there and are JSON booleans."""
    try:
        flags = [point["is_public"] for point in points]  # type: ignore[index]
        if set(map(type, flags)) <= {bool}:
            return flags
    except (KeyError, TypeError, IndexError):
        pass
    flags = []
    for index, point in enumerate(points):
        flag = point.get("is_public", ...) if isinstance(point, dict) else ...
        if isinstance(flag, bool):
            flags.append(flag)
        elif flag is None:
            findings.add(Code.NULL_FIELD, f"{field}[{index}].is_public", "true or false, or leave the field out")
        elif flag is not ...:
            findings.add(Code.WRONG_TYPE, f"{field}[{index}].is_public", "true or false, as a JSON boolean")
    return flags
