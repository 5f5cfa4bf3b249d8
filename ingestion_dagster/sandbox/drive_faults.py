"""What goes wrong on the sandbox's Google Drive, as often as it is told to."""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from ingestion_dagster.sandbox.drive_files import Refusal

DAMAGES = frozenset({"truncated", "corrupt"})
AT = frozenset({"token", "list", "get", "media", "export", "create", "update", "piece", "status"})
KINDS = frozenset({"429", "403", "500", "503", "hang", "reset", "html", "quota", "forbidden"})
LOST = frozenset({"lost", "lost_503", "lost_session"})
"""Faults of the last piece of an upload: it is done, but the answer breaks off, or is 503, which is all that ever comes of it."""

REFUSALS = {
    "403": Refusal(403, "userRateLimitExceeded", "User Rate Limit Exceeded"),
    "429": Refusal(429, "rateLimitExceeded", "Too many requests"),
    "500": Refusal(500, "internalError", "Internal Error"),
    "503": Refusal(503, "backendError", "Backend Error"),
    "quota": Refusal(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded."),
    "forbidden": Refusal(403, "cannotDownloadFile", "This file cannot be downloaded by the user."),
}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Fault:
    """What is to go wrong: `at` one kind of call, so many `times`, after `skip` that go well."""

    at: str
    kind: str
    times: int = 1
    skip: int = 0
    retry_after: str | None = None

    def __post_init__(self) -> None:
        if self.at not in AT or self.kind not in KINDS | {"piece": LOST, "media": DAMAGES}.get(self.at, frozenset()):
            raise ValueError(f"no fault of this kind: {self.at} {self.kind}")


@dataclass
class Faults:
    """What is to go wrong, and how often each kind of call has come in."""

    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    async def misbehaves(self, request: web.Request, at: str) -> web.Response | None:
        """The answer in place of the right one; None if all is well."""
        answer, _kind = await self.damages(request, at, frozenset())
        return answer

    async def damages(self, request: web.Request, at: str, own: frozenset[str]) -> tuple[web.Response | None, str]:
        """As `misbehaves`, and the kind of a fault that the caller sees to itself, "" for none."""
        self.calls[at] += 1
        fault = self._fault(at)
        if fault is None or fault.kind in own:
            return None, fault.kind if fault else ""
        match fault.kind:
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                return aborted(request), ""
            case "html":
                return web.Response(text="<!DOCTYPE html><html><body>Sign in to the network</body></html>", content_type="text/html"), ""
        return refused(REFUSALS[fault.kind], fault.retry_after), ""

    def _fault(self, at: str) -> Fault | None:
        for fault in self.faults:
            if fault.at == at and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


def refused(refusal: Refusal, retry_after: str | None = None) -> web.Response:
    """An error as the API answers it."""
    reason = {"domain": "global", "reason": refusal.reason, "message": str(refusal)}
    error = {"error": {"errors": [reason], "code": refusal.status, "message": str(refusal)}}
    return web.json_response(error, status=refusal.status, headers={"Retry-After": retry_after} if retry_after else {})


def aborted(request: web.Request) -> web.Response:
    """No answer: the connection breaks off."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def sent(request: web.Request, content: bytes, damage: str) -> web.StreamResponse:
    """A file's content, or the part that is asked for, perhaps with one thing wrong with it."""
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    start, end = (int(found[1]), min(int(found[2] or len(content)) + 1, len(content))) if found else (0, len(content))
    if found and start >= len(content):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
    answer = web.StreamResponse(status=206 if found else 200, headers={"Content-Type": "application/octet-stream"})
    if found:
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    answer.content_length = end - start
    await answer.prepare(request)
    part = content[start:end]
    if damage == "corrupt":
        part = bytes([part[0] ^ 1]) + part[1:]
    if damage == "truncated":
        await answer.write(part[: len(part) // 2])
        assert request.transport is not None
        request.transport.close()
        return answer
    await answer.write(part)
    await answer.write_eof()
    return answer
