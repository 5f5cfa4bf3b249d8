"""A server of the sandbox in a thread of the test, whose state the test can reach into."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from ingestion_dagster.sandbox.dmap_feed import DmapFeed, serve


@contextmanager
def running(feed: DmapFeed) -> Iterator[str]:
    """The server's URL, while it runs."""
    urls: SimpleQueue[str] = SimpleQueue()
    ends: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def answer() -> None:
        until = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.put(lambda: loop.call_soon_threadsafe(until.set))
        await serve(feed, 0, urls.put, until)

    thread = threading.Thread(target=lambda: asyncio.run(answer()))
    thread.start()
    end = ends.get(timeout=10)
    try:
        yield urls.get(timeout=10)
    finally:
        end()
        thread.join(timeout=10)
        assert not thread.is_alive()
