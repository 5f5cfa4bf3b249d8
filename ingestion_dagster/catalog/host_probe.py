"""Asks hosts whether they speak TLS: one HEAD request each to its root, at public addresses only."""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Sequence

import aiohttp

from ingestion_dagster.engine.public_addresses import Forbidden, PublicResolver, is_public

AT_ONCE = 100
TOTAL_SECONDS = 600
"""However many hosts there are, and however slow: then those that have not answered have not."""

Answer = tuple[bool, str]


def probe(
    hosts: Sequence[str],
    seconds: float,
    *,
    port: int = 443,
    is_allowed: Callable[[str], bool] = is_public,
    context: ssl.SSLContext | None = None,
    total_seconds: float = TOTAL_SECONDS,
) -> dict[str, Answer]:
    """For each host whether it speaks TLS, and why that is believed. It does if HEAD / is answered with 2xx, 3xx or 4xx in time.

    Raises nothing: a host that fails does not speak it. No redirect is followed, no proxy used.
    """
    return asyncio.run(_probe(hosts, seconds, port, is_allowed, context, total_seconds))


async def _probe(
    hosts: Sequence[str],
    seconds: float,
    port: int,
    is_allowed: Callable[[str], bool],
    context: ssl.SSLContext | None,
    total_seconds: float,
) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    waiting = iter(hosts)
    connector = aiohttp.TCPConnector(
        limit=AT_ONCE, resolver=PublicResolver(is_allowed), ssl=context or ssl.create_default_context(), force_close=True
    )
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds), trust_env=False) as session:

        async def work() -> None:
            for host in waiting:
                answers[host] = await _ask(session, host, port, is_allowed)

        workers = [asyncio.create_task(work()) for _ in range(min(AT_ONCE, len(hosts)))]
        if workers:
            _, late = await asyncio.wait(workers, timeout=total_seconds)
            for worker in late:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return {host: answers.get(host, (False, "not asked in time")) for host in hosts}


async def _ask(session: aiohttp.ClientSession, host: str, port: int, is_allowed: Callable[[str], bool]) -> Answer:
    if _is_address(host) and not is_allowed(host.strip("[]")):
        return False, "address is not public"
    try:
        async with session.head(f"https://{host}:{port}/", allow_redirects=False) as response:
            return 200 <= response.status < 500, f"status {response.status}"
    except TimeoutError:
        return False, "no answer in time"
    except aiohttp.ClientConnectorError as error:
        return False, "address is not public" if isinstance(error.os_error, Forbidden) else "no connection"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return False, type(error).__name__


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
