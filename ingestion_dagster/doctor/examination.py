"""One check by itself: cut off when it hangs, its failure a finding of its own, its words without a secret."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.secrets import secrets_of, without
from ingestion_dagster.settings import Settings

SECONDS = 8.0
"""How long a check may take."""


class Level(StrEnum):
    """How a finding reads: nothing to do, worth a look, to be mended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Said:
    """What a check says of one thing, and what is to be done about it."""

    level: Level
    what: str
    do: str = ""


def ok(what: str) -> Said:
    """Nothing to do."""
    return Said(Level.OK, what)


def warning(what: str, do: str) -> Said:
    """Worth a look."""
    return Said(Level.WARNING, what, do)


def problem(what: str, do: str) -> Said:
    """To be mended."""
    return Said(Level.PROBLEM, what, do)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at: it says what it finds, one thing after the other, and may raise what it likes."""

    name: str
    look: Callable[[], Iterable[Said]]
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    check: str
    level: Level
    what: str
    do: str

    def as_dict(self) -> dict[str, str]:
        """The finding as `doctor --json` shows it."""
        return {"check": self.check, "level": str(self.level), "what": self.what, "do": self.do}


@dataclass(slots=True)
class _Running:
    check: Check
    said: list[Said] = field(default_factory=list)
    thread: threading.Thread | None = None
    until: float = 0.0

    def begin(self) -> None:
        self.until = time.monotonic() + self.check.seconds
        # Not waited for at the end of the process: what hangs does so beyond our reach.
        self.thread = threading.Thread(target=self._look, name=f"doctor {self.check.name}", daemon=True)
        self.thread.start()

    def _look(self) -> None:
        try:
            for said in self.check.look():
                self.said.append(said)
        except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and no other check's
            self.said.append(_broken(error))

    def end(self) -> Iterator[Said]:
        assert self.thread is not None
        self.thread.join(max(0.0, self.until - time.monotonic()))
        late = self.thread.is_alive()
        yield from list(self.said)
        if late:
            yield problem(
                f"no answer within {self.check.seconds:g} s", "see to what it asks: a firewall drops packets, or it is overloaded"
            )


def examine(checks: Sequence[Check], settings: Settings | None) -> list[Finding]:
    """What all of them find, side by side, in their order."""
    hidden = secrets_of(settings) if settings is not None else ()
    running = [_Running(check) for check in checks]
    for each in running:
        each.begin()
    return [
        Finding(each.check.name, said.level, one_line(without(said.what, hidden)), one_line(without(said.do, hidden)))
        for each in running
        for said in each.end()
    ]


def _broken(error: Exception) -> Said:
    """What ended a check. Only our own errors are known to quote nothing."""
    if isinstance(error, ConfigurationError):
        return problem(str(error), "correct that setting")
    if isinstance(error, Transient):
        return problem(f"{error.code}: {error.message}", f"ingestion explain {error.code}")
    if isinstance(error, Refused):
        first = error.problems[0]
        return problem(f"{first.code}: {first.place}: {first.message}", f"ingestion explain {first.code}")
    return problem(f"it could not be looked at ({type(error).__name__})", "report it with the name of this check")
