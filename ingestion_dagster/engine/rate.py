"""A rate that requests keep to together: a token bucket, first come first served, that a server can make everybody wait at."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_SOON = 1e-6


class Rate:
    """At most so many requests a second, and `burst` of them at once (a tenth of a second's if not said).

    No second holds more than `per_second + burst` of them, whatever went before. Safe to share between the tasks of one event loop.
    """

    def __init__(
        self,
        per_second: float,
        burst: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if per_second <= 0:
            raise ValueError("a rate is larger than 0")
        self.per_second = per_second
        self.burst = max(1.0, per_second / 10 if burst is None else burst)
        self._clock = clock
        self._sleep = sleep
        self._full_at = float("-inf")
        """When the bucket would be full again if nobody came; every request puts it off by its own share of a second."""
        self._not_before = float("-inf")
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Return when a request may be made; whoever came first goes first."""
        async with self._turn:
            while (wait := self._wait()) > _SOON:
                await self._sleep(wait)
            self._full_at = max(self._full_at, self._clock()) + 1 / self.per_second

    def pause(self, seconds: float) -> None:
        """Let nobody through for so long; a longer pause that was asked for before stays as it is."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _wait(self) -> float:
        now = self._clock()
        return max(self._not_before - now, self._full_at - now - (self.burst - 1) / self.per_second)
