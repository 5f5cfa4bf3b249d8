"""Addresses of the public Internet, and connections to no other: what data name must not lead into the network that we stand in."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

_HIDDEN = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("2002::/16"))
"""IPv6 networks whose addresses stand for others of IPv4."""


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

    def __init__(self, is_allowed: Callable[[str], bool] = is_public, trusted: frozenset[str] = frozenset()) -> None:
        self._is_allowed = is_allowed
        self._trusted = trusted
        """Hosts that may have any address."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """See AbstractResolver. Raises `Forbidden` if one of the addresses is not allowed: such a name is not trusted at all."""
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        found = [(info[0], str(info[4][0])) for info in infos]
        if not found or not (host in self._trusted or all(self._is_allowed(address) for _, address in found)):
            raise Forbidden
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in found
        ]

    async def close(self) -> None:
        """Nothing to close."""


def may_be_asked(host: str, trusted: frozenset[str]) -> bool:
    """Whether a host that is an address may be asked; of a name the resolver decides."""
    bare = host.strip("[]")
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return True
    return bare in trusted or is_public(bare)
