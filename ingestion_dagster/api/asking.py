"""What every route may want to know of a request: who asks, and what its body is."""

from typing import Annotated

from fastapi import Depends, Request

from ingestion_dagster.life_events.requests import Caller


def caller_of(request: Request) -> Caller:
    """Who asks, as `Access` has found."""
    caller: Caller = request.state.caller
    return caller


async def body_of(request: Request) -> bytes | None:
    """The body of a request that says it is JSON; None for any other."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return await request.body() if kind == "application/json" else None


TheCaller = Annotated[Caller, Depends(caller_of)]
TheBody = Annotated[bytes | None, Depends(body_of)]
