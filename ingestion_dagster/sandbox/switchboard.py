"""The switches of a server that is limited by a usage plan: what every call goes through, and the calls that set it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from aiohttp import web

from ingestion_dagster.sandbox.faults import Faults, aborted, garble, not_so
from ingestion_dagster.sandbox.serving import Handler
from ingestion_dagster.sandbox.usage import Bucket, Calls, Settings


@dataclass
class Switchboard:
    """How a server is set, what is to go wrong, and what it was asked."""

    faults: Faults
    settings: Settings
    calls: Calls = field(default_factory=Calls)
    bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.settings)

    def gate(self, operation: str, handler: Handler, own: Mapping[str, Handler] | None = None) -> Handler:
        """What every call goes through: how many are let through, the time it takes, and what is to go wrong with it.

        `own` are the kinds of faults that the server sees to itself, each with what handles the call then.
        """

        async def gate(request: web.Request) -> web.StreamResponse:
            self.calls.came()
            how = "cancelled"
            try:
                if not self.bucket.takes():
                    how = "429"
                    self.calls.throttled += 1
                    return self.faults.words(operation, "429") or web.Response(status=429)
                if self.settings.latency_ms:
                    await asyncio.sleep(self.settings.latency_ms / 1000)
                answer, how = await self._answer(request, operation, handler, own or {})
                return answer
            finally:
                self.calls.went(operation, how)

        return gate

    async def _answer(
        self, request: web.Request, operation: str, handler: Handler, own: Mapping[str, Handler]
    ) -> tuple[web.StreamResponse, str]:
        fault = self.faults.take(operation)
        if fault and fault.kind not in own:
            instead = await self.faults.answer(request, operation, fault)
            if instead is not None:
                return instead, fault.kind
        answer = await (own.get(fault.kind, handler) if fault else handler)(request)
        if fault and fault.kind == "lost":
            aborted(request)
            return answer, "lost"
        if fault and fault.kind == "bad_json":
            garble(answer)
            return answer, "bad_json"
        return answer, str(answer.status)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """The calls that set it and tell of it: method, path and what answers."""
        return [
            *self.faults.routes(),
            ("GET", "requests", self._requests),
            ("GET", "settings", self._settings),
            ("POST", "settings", self._set),
        ]

    def reset(self) -> None:
        """As at first start, but for the settings."""
        self.faults.clear()
        self.calls.clear()
        self.bucket.fill()

    async def _requests(self, _request: web.Request) -> web.Response:
        """Which calls came and how they ended."""
        return web.json_response(self.calls.told())

    async def _settings(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(self.settings))

    async def _set(self, request: web.Request) -> web.Response:
        try:
            self.settings.change(**await request.json())
        except (TypeError, ValueError) as error:
            return not_so(error)
        self.bucket.fill()
        return await self._settings(request)
