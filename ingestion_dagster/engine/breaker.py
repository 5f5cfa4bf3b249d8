"""A circuit breaker: while a server fails, one request at a time finds out whether it is back, and at some point nobody waits any more."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ingestion_dagster.engine.errors import Transient

UNAVAILABLE = "http_unavailable"

_LOOK = 0.1


class Breaker:
    """Opens after `failures` in a row; times are seconds.

    While it is open callers wait, and one of them at a time goes to see, after a pause of `first_pause`, then of twice that, up to
    `longest_pause`. A good answer, to whomever, closes it. Once the server has failed for `patience`, callers get `Transient`
    (http_unavailable) at once. Safe to share between the tasks of one event loop.
    """

    def __init__(
        self,
        failures: int = 10,
        patience: float = 30.0,
        *,
        first_pause: float = 1.0,
        longest_pause: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._failures = failures
        self._patience = patience
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._clock = clock
        self._sleep = sleep
        self._in_a_row = 0
        self._failing_since: float | None = None
        self._pause = first_pause
        self._probing = False
        self._not_before = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether callers have to wait."""
        return self._in_a_row >= self._failures or self._clock() < self._not_before

    async def enter(self) -> bool:
        """Return when a request may be made, and whether it is the one that goes to see; then `leave` must follow.

        Raises `Transient` when the server has failed for too long.
        """
        while self.is_open:
            self._give_up()
            if not self._probing:
                return await self._probe()
            await self._sleep(min(_LOOK, self._left()))
        return False

    def leave(self, was_probe: bool) -> None:
        """The request is over, one way or the other."""
        if was_probe:
            self._probing = False

    def good(self) -> None:
        """An answer came, and shows that the server is well."""
        self._in_a_row = 0
        self._failing_since = None
        self._pause = self._first_pause
        self._not_before = float("-inf")

    def bad(self) -> None:
        """No answer came, or one that shows that the server is not well."""
        if self._failing_since is None:
            self._failing_since = self._clock()
        self._in_a_row += 1

    def shut(self, seconds: float) -> None:
        """The server wants no request for so long, which is too long to wait for: callers get `Transient` until then."""
        self._not_before = self._clock() + seconds

    async def _probe(self) -> bool:
        self._probing = True
        try:
            until = self._clock() + min(self._pause, self._left())
            self._pause = min(self._longest_pause, self._pause * 2)
            while self.is_open and (rest := until - self._clock()) > 0:
                await self._sleep(min(_LOOK, rest))
            if self.is_open:
                self._give_up()
                return True
        except BaseException:
            self._probing = False
            raise
        self._probing = False
        return False

    def _left(self) -> float:
        """Seconds of patience that are left."""
        return self._patience if self._failing_since is None else self._failing_since + self._patience - self._clock()

    def _give_up(self) -> None:
        if self._left() <= 0 or self._clock() < self._not_before:
            raise Transient(UNAVAILABLE, "the server has not been well for some time, and is left alone for now")
