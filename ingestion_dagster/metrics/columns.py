"""The fields of points, read a column at a time: the coercion of a field applied to all points of a file at once.

Coercion is pydantic's lax mode, as in the UKHSA data dashboard: "10.5", true and 10.5 are numbers, "05" and 25.0 whole numbers,
epoch seconds date-times, midnight date-times dates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import GenericAlias
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from ingestion_dagster.metrics.problems import Code, Findings


class Mark(Enum):
    """What stands in a column, or for a default, where there is no value."""

    UNREAD = "the value has a problem, already reported"
    REQUIRED = "a field without a default"


UNREAD: Final = Mark.UNREAD
_CODES_BY_ERROR: Final = {
    "finite_number": Code.VALUE_NOT_A_NUMBER,
    "less_than": Code.VALUE_OUT_OF_RANGE,
    "greater_than": Code.VALUE_OUT_OF_RANGE,
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Points that hold a value, and where the file holds them: `time_series[3]` is the point at index 3 of that list."""

    field: str
    points: Sequence[dict[str, object]]
    indices: Sequence[int]

    def place(self, row: int, field: str) -> str:
        """Where a field of a row stands in the file."""
        return f"{self.field}[{self.indices[row]}].{field}" if self.field else field


class Column:
    """One field of points.

    `kind` is its type for pydantic; `code` and `message` report what is not of that type; `convert` maps what is, and may raise
    OverflowError for what cannot be held.
    """

    def __init__(
        self,
        name: str,
        kind: Any,
        code: Code,
        message: str,
        *,
        default: object = Mark.REQUIRED,
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name = name
        values: Any = GenericAlias(list, (kind,))
        self._values: TypeAdapter[list[Any]] = TypeAdapter(values)
        self._code = code
        self._message = message
        self._default = default
        self._convert = convert

    def read(self, rows: Rows, findings: Findings) -> list[Any]:
        """The field's value in each row; `UNREAD` where it has a problem, which is added to the findings."""
        try:
            if self._default is Mark.REQUIRED:
                return self._coerce([point[self.name] for point in rows.points])
            return self._coerce([point.get(self.name, self._default) for point in rows.points])
        except (KeyError, ValueError, OverflowError):
            return [self._read_one(rows, row, point, findings) for row, point in enumerate(rows.points)]

    def _coerce(self, values: list[object]) -> list[Any]:
        coerced = self._values.validate_python(values)
        return coerced if self._convert is None else list(map(self._convert, coerced))

    def _read_one(self, rows: Rows, row: int, point: dict[str, object], findings: Findings) -> Any:
        value = point.get(self.name, self._default)
        if value is Mark.REQUIRED:
            findings.add(Code.MISSING_FIELD, rows.place(row, self.name), f"add the field {self.name}")
            return UNREAD
        try:
            return self._coerce([value])[0]
        except ValidationError as error:
            code = _CODES_BY_ERROR.get(_first_error(error), self._code) if self._code is Code.WRONG_TYPE else self._code
        except OverflowError:
            code = self._code
        if value is None:
            findings.add(Code.NULL_FIELD, rows.place(row, self.name), f"{self.name} must not be null")
        else:
            findings.add(code, rows.place(row, self.name), self._message)
        return UNREAD


def _first_error(error: ValidationError) -> str:
    return error.errors(include_url=False, include_context=False, include_input=False)[0]["type"]
