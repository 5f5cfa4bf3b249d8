"""A clock that jumps to the next moment at which somebody wakes, so that minutes of waiting take none."""

import asyncio
import heapq
from collections.abc import Coroutine
from itertools import count
from typing import Any

_TURNS = 20


class VirtualTime:
    """Stands in for `time.monotonic` and `asyncio.sleep` of what runs in `run`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = count()
        self._asleep: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Return so many seconds later."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._asleep, (self.now + max(seconds, 0.0), next(self._order), future))
        await future

    def run(self, *what: Coroutine[Any, Any, Any]) -> list[Any]:
        """What comes of each, exceptions too; they run at the same time."""
        return asyncio.run(self._run(*what))

    async def _run(self, *what: Coroutine[Any, Any, Any]) -> list[Any]:
        whole = asyncio.ensure_future(asyncio.gather(*what, return_exceptions=True))
        while not whole.done():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if self._asleep and not whole.done():
                wakes, _, future = heapq.heappop(self._asleep)
                self.now = max(self.now, wakes)
                if not future.done():
                    future.set_result(None)
        return await whole
