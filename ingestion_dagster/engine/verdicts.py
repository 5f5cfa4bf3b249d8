"""What becomes of a load that could not be read: the same in every pipeline."""

from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.ledger import SUPERSEDED, Load, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing

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


def charge(load: Load, exhausted: Problem, max_attempts: int) -> Verdict:
    """A load that did not get through this time: tried again, until its attempts are used up."""
    if load.attempts + 1 >= max_attempts:
        return Verdict(load, Status.READY_FOR_ERRORING, problems=(exhausted,), charged=True)
    return Verdict(load, Status.READY, why="to be tried again", charged=True)


def internal_error(error: BaseException) -> Problem:
    """A defect of ours that one file has brought to light. Its message may quote a value and is left out."""
    return Problem(INTERNAL, "the whole file", f"reading it failed with {kind_of(error)}; report it with the file")


def kind_of(error: BaseException) -> str:
    """What may be told of any exception: its type."""
    return type(error).__name__
