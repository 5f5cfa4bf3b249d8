"""What becomes of a load whose file could not be read, or is refused: the same in every pipeline."""

import logging
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ingestion_dagster.engine.errors import ConfigurationError, Problem, Transient
from ingestion_dagster.engine.ledger import SUPERSEDED, Load, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing

log = logging.getLogger(__name__)

GONE = Problem("object_missing", "the whole file", "the file was removed before it was read; deliver it again")
EXHAUSTED = "transient_exhausted"
CRASHED = "crashed_repeatedly"
INTERNAL = "internal_error"
OUR_FAULT = frozenset({EXHAUSTED, CRASHED, INTERNAL})
"""Codes of loads that ended for a reason which is not in the file."""


def superseded(load: Load) -> Verdict:
    """A load whose object was overwritten before it was read."""
    return Verdict(load, Status.READY_FOR_ARCHIVING, problems=(SUPERSEDED,), why="overwritten before it was read")


def unread(load: Load, error: Exception, max_attempts: int) -> Verdict:
    """A load whose object could not be read: gone, overwritten, or the store did not answer (charged)."""
    if isinstance(error, Changed):
        return superseded(load)
    if isinstance(error, Missing):
        return Verdict(load, Status.READY_FOR_ERRORING, problems=(GONE,))
    code = error.code if isinstance(error, Transient) else kind_of(error)
    return charge(load, Problem(EXHAUSTED, "the whole file", f"could not be read in {max_attempts} attempts ({code})"), max_attempts)


def demand_readable(found: Sequence[tuple[Load, bytes | Exception]]) -> None:
    """Raise what reading raised if nothing at all of a batch can be read: that is the store's trouble, no file's.

    A load that is claimed by itself is charged all the same: it would fail every run for ever.
    """
    trouble = [raw for _, raw in found if isinstance(raw, Transient | ConfigurationError)]
    if trouble and len(trouble) == len(found) and not any(load.alone for load, _ in found):
        raise trouble[0]


def refused(verdict: Verdict, problems: Iterable[Problem], rows: int = 0) -> Verdict:
    """The same verdict, if the load is refused for these problems with so many rows."""
    return replace(verdict, to=Status.READY_FOR_ERRORING, problems=tuple(problems), rows_in=rows, rows_rejected=rows)


def tell(verdict: Verdict) -> None:
    """Log a refused load, by its codes."""
    if verdict.to == Status.READY_FOR_ERRORING:
        codes = ",".join(sorted({problem.code for problem in verdict.problems}))
        dataset = verdict.dataset or verdict.load.dataset or "unclassified"
        log.warning("load_id=%s dataset=%s status=%s codes=%s", verdict.load.id, dataset, verdict.to, codes)


def charge(load: Load, exhausted: Problem, max_attempts: int) -> Verdict:
    """A load that did not get through this time: tried again, until its attempts are used up."""
    if load.attempts + 1 >= max_attempts:
        return Verdict(load, Status.READY_FOR_ERRORING, problems=(exhausted,), charged=True)
    return Verdict(load, Status.READY, why="to be tried again", charged=True)


def defect(load: Load, error: BaseException) -> Problem:
    """As `internal_error`; the frames are logged, the message (it may quote a value) is not."""
    log.error("load_id=%s error=%s\n%s", load.id, kind_of(error), "".join(traceback.format_tb(error.__traceback__)))
    return internal_error(error)


def internal_error(error: BaseException) -> Problem:
    """A defect of ours that one file has brought to light. Its message may quote a value and is left out."""
    return Problem(INTERNAL, "the whole file", f"reading it failed with {kind_of(error)}; report it with the file")


def kind_of(error: BaseException) -> str:
    """What may be told of any exception: its type."""
    return type(error).__name__
