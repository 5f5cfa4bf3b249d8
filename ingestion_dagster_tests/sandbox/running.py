"""A server of the sandbox in a thread of the test, whose state the test can reach into."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Protocol

from aiohttp import web

from ingestion_dagster.sandbox import serving


class Server(Protocol):
    def app(self) -> web.Application: ...


@contextmanager
def running(server: Server) -> Iterator[str]:
    """The server's URL, while it runs."""
    urls: SimpleQueue[str] = SimpleQueue()
    ends: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def answer() -> None:
        until = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.put(lambda: loop.call_soon_threadsafe(until.set))
        await serving.serve(server.app(), 0, urls.put, until)

    thread = threading.Thread(target=lambda: asyncio.run(answer()))
    thread.start()
    end = ends.get(timeout=10)
    try:
        yield urls.get(timeout=10)
    finally:
        end()
        thread.join(timeout=10)
        assert not thread.is_alive()
