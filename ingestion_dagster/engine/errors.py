"""Why something was not accepted: problems with a code, a place and a next step, and the two kinds of failure."""

from dataclasses import asdict, dataclass
from typing import Literal

from ingestion_dagster.engine.one_line import one_line


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: a stable code, where it is, and what to do about it. Never a value of a record.

    Names of columns and files may be in it: what in them would end a line or move a cursor is spelt out.
    """

    code: str
    place: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", one_line(self.place))
        object.__setattr__(self, "message", one_line(self.message))

    def as_dict(self) -> dict[str, str]:
        """The problem as reports and `check --json` show it: `code`, `place`, `message`, `severity`."""
        return asdict(self)


class Refused(Exception):
    """The input can never be loaded as it is; retrying is pointless. Carries every problem found."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(", ".join(sorted({problem.code for problem in problems})))
        self.problems = problems


class Transient(Exception):
    """Something outside did not answer as it should; the same load may succeed later. `code` names the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ConfigurationError(Exception):
    """The project is set up in a way that cannot work; the message says what to change."""
