"""Waiting for something to be so, and not for ever."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0
"""Seconds after which what a test waits for is not to be expected any more."""


def until(is_so: Callable[[], Any]) -> None:
    """Wait until something is so; an AssertionError if it has not come to be."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it has not come to be"
        time.sleep(0.01)
