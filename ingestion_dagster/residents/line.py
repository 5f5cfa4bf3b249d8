"""One run's line to the API: opened when the first row is to be sent, and kept from file to file, with its rate and its patience."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TypeVar

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.residents.api_client import HereToHelp, open_api
from ingestion_dagster.residents.places import ApiAddress
from ingestion_dagster.settings import Settings

T = TypeVar("T")

_PING_SECONDS = 5.0


async def _ping(api: HereToHelp) -> None:
    await asyncio.wait_for(api.ping(), _PING_SECONDS)


class Line:
    """An event loop, and in it the API. Use it as a context."""

    def __init__(self, settings: Settings, address: ApiAddress) -> None:
        self._settings = settings
        self._address = address
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._api: HereToHelp | None = None

    def __enter__(self) -> "Line":
        self._runner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._runner.run(self._closed())
        finally:
            self._runner.close()

    def run(self, work: Callable[[HereToHelp], Awaitable[T]]) -> T:
        """Do something with the API until it is done."""
        return self._runner.run(self._with_api(work))

    def answers(self) -> bool:
        """Whether the API says that it is well, asked anew and without patience; whoever sends next has all the patience again."""
        try:
            self._runner.run(self._closed())
            self.run(_ping)
        except (Transient, ConfigurationError, TimeoutError):
            return False
        return True

    async def _closed(self) -> None:
        self._api = None
        await self._stack.aclose()

    async def _with_api(self, work: Callable[[HereToHelp], Awaitable[T]]) -> T:
        if self._api is None:
            settings = self._settings
            self._api = await self._stack.enter_async_context(
                open_api(
                    self._address.url,
                    self._address.key,
                    requests_per_second=settings.residents_requests_per_second / settings.runs_per_pipeline,
                    in_flight=settings.residents_requests_in_flight,
                    patience_seconds=settings.residents_api_patience_seconds,
                )
            )
        return await work(self._api)
