"""What makes the sandbox's events platform slow, scarce or faulty, and what can be set on it."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from ingestion_dagster.sandbox.events_platform_answers import error, oauth_error
from ingestion_dagster.sandbox.here_to_help_answers import abort
from ingestion_dagster.sandbox.here_to_help_switches import Fault as AnyFault
from ingestion_dagster.sandbox.here_to_help_switches import Settings as AnySettings

OPERATIONS = frozenset({"token", "publish", "list", "get", "consume", "admin"})
STATUSES = frozenset({"400", "401", "403", "404", "429", "500", "502", "503", "504"})
KINDS = STATUSES | {"hang", "reset", "lost", "slow_then_ok", "html", "bad_json"}

_HTML = "<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>"
_LATER = 3600.0


@dataclass
class Fault(AnyFault):
    """What is to go wrong: with an operation or any, so many `times` or until it is cleared; `skip` calls go well first.

    A status is answered in place of acting. `reset` ends the connection before anything is done, `lost` after it is done and before it is
    told; `bad_json` does it and garbles the answer; `html` answers 200 with a page, and `hang` not at all.
    """

    def __post_init__(self) -> None:
        self.kind = str(self.kind)
        if self.kind not in KINDS or self.op not in OPERATIONS | {"any"}:
            raise ValueError(f"there are the kinds {', '.join(sorted(KINDS))} and the operations any, {', '.join(sorted(OPERATIONS))}")

    def is_for(self, operation: str) -> bool:
        """Whether it is one for this operation, and is not used up."""
        return self.op in {operation, "any"} and (self.until or self.times > 0)


@dataclass
class Settings(AnySettings):
    """How long a call takes, how many are let through, how long a token lasts, and how the delete job goes about it."""

    rate: float = 0.0
    """Calls per second; 0: as many as come."""
    token_seconds: float = 3600.0
    delete_seconds: float = 10.0
    """How long the delete job waits between two turns, 60 in the real one; 0: it makes none by itself."""
    keep_unsubscribed: float = 0.0
    """1: what nobody has ever subscribed to is kept, while the real one has it deleted at once."""
    callback_seconds: float = 10.0
    """How long a supplier that is called back has to answer."""


async def misbehave(request: web.Request, operation: str, fault: Fault) -> web.Response | None:
    """The answer in place of the right one; None if the call goes on."""
    match fault.kind:
        case "hang":
            await asyncio.sleep(_LATER)
        case "slow_then_ok":
            await asyncio.sleep(fault.seconds)
        case "reset":
            abort(request)
            return web.Response()
        case "html":
            return web.Response(text=_HTML, content_type="text/html")
        case kind if kind in STATUSES:
            status = int(kind)
            answer = oauth_error("server_error", status) if operation == "token" else error(status, "This was asked for")
            if fault.retry_after is not None:
                answer.headers["Retry-After"] = str(fault.retry_after)
            return answer
    return None
