"""Fault points: where a crash test may kill, or stop, the process that reaches them."""

import os
import signal
from collections import Counter

_VARIABLE = "INGESTION_TEST_FAULT"
_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Do nothing, unless INGESTION_TEST_FAULT is `name`, `name:N` or `name:N:SIGSTOP`.

    Then the first or N-th passage sends this process SIGKILL, or the signal named.
    """
    wanted = os.environ.get(_VARIABLE)
    if wanted is None:
        return
    point, passage, kind = [*wanted.split(":"), "", ""][:3]
    if point == name:
        _passed[name] += 1
        if _passed[name] == int(passage or 1):
            os.kill(os.getpid(), signal.Signals[kind or "SIGKILL"])
