"""What keeps a step from its end, as Dagster shows it: one line that says what to do, and never what a database or a row says."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import psycopg

from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.engine.dagster import no_retry_of_mistakes
from ingestion_dagster.engine.errors import Refused, Transient


@contextmanager
def shown(*, busy: str = "", then: str) -> Iterator[None]:
    """Fail the step for what is raised in the block. `busy`: what to do about another's work; `then`: what goes on after a fault.

    What is refused, or set up wrongly, is not tried again at once; a fault of what is outside is.
    """
    with no_retry_of_mistakes():
        try:
            yield
        except Refused as error:
            told = "; ".join(f"{problem.code}: {problem.place}: {problem.message}" for problem in error.problems)
            raise dg.Failure(told, allow_retries=False) from None
        except Busy as error:
            raise dg.Failure(f"{error}{busy}", allow_retries=False) from None
        except Transient as error:
            raise dg.Failure(f"{error}; {then}", allow_retries=True) from None
        except psycopg.Error as error:
            # Its own text quotes rows, and statements.
            state = f", SQLSTATE {error.sqlstate}" if error.sqlstate else ""
            raise dg.Failure(f"a database ended a statement ({type(error).__name__}{state}); {then}", allow_retries=True) from None
