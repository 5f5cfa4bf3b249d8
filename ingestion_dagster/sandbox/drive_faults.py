"""What goes wrong on the sandbox's Google Drive, and how it says so."""

import re

from aiohttp import web

from ingestion_dagster.sandbox.drive_files import Refusal
from ingestion_dagster.sandbox.faults import UNTOLD

REFUSALS = {
    "403": Refusal(403, "userRateLimitExceeded", "User Rate Limit Exceeded"),
    "429": Refusal(429, "rateLimitExceeded", "Too many requests"),
    "500": Refusal(500, "internalError", "Internal Error"),
    "503": Refusal(503, "backendError", "Backend Error"),
    "quota": Refusal(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded."),
    "forbidden": Refusal(403, "cannotDownloadFile", "This file cannot be downloaded by the user."),
}
DAMAGES = frozenset({"truncated", "corrupt"})
"""Faults of what is downloaded."""
LOST = frozenset({"lost", "lost_503", "lost_session"})
"""Faults of the last piece of an upload: it is done, but the answer breaks off, or is 503, which is all that ever comes of it."""

_KINDS = UNTOLD | REFUSALS.keys()
KINDS = {
    **dict.fromkeys(("token", "list", "get", "export", "create", "update", "status"), _KINDS),
    "media": _KINDS | DAMAGES,
    "piece": _KINDS | LOST,
}
"""Which faults there are, by kind of call."""
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def words(_operation: str, kind: str) -> web.Response | None:
    """The refusal of that kind; None for what is damaged or lost."""
    return refused(REFUSALS[kind]) if kind in REFUSALS else None


def refused(refusal: Refusal) -> web.Response:
    """An error as the API answers it."""
    reason = {"domain": "global", "reason": refusal.reason, "message": str(refusal)}
    return web.json_response({"error": {"errors": [reason], "code": refusal.status, "message": str(refusal)}}, status=refusal.status)


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
