"""Asks hosts whether they speak TLS: one HEAD request each to its root, at public addresses only."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

AT_ONCE = 100
TOTAL_SECONDS = 600
"""However many hosts there are, and however slow: then those that have not answered have not."""

_HIDDEN = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("2002::/16"))
"""IPv6 networks whose addresses stand for others of IPv4."""

Answer = tuple[bool, str]


def is_public(address: str) -> bool:
    """Whether an address may be asked: of the public Internet, and none that stands for another."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed.teredo or any(parsed in network for network in _HIDDEN) or not parsed.is_global:
            return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved and not parsed.is_unspecified


class Forbidden(OSError):
    """A name leads to an address that must not be asked."""


class PublicResolver(AbstractResolver):
    """Resolves names, and lets only allowed addresses through: the connection is made to what was looked at."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """See AbstractResolver. Raises `Forbidden` if one of the addresses is not allowed: such a name is not trusted at all."""
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        found = [(info[0], str(info[4][0])) for info in infos]
        if not found or not all(self._is_allowed(address) for _, address in found):
            raise Forbidden
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in found
        ]

    async def close(self) -> None:
        """Nothing to close."""


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
