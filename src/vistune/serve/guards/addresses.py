"""Which addresses of the internet a stranger may make this machine connect to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, ip_address, ip_network

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

# What the oldest Python that we run on takes for global, or is global and yet not the public's
_NOT_FOR_STRANGERS = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # carriers' own; a cloud's metadata too
        "168.63.129.16/32",  # a cloud's own service to its machines
        "192.0.0.0/24",  # IETF protocols; a cloud's metadata too
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # IETF protocols, Teredo among them, which wraps an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which wraps an IPv4 address
        "3fff::/20",  # documentation
    )
)
_IPV6_UNICAST = ip_network("2000::/3")  # all that is given out; outside: mapped, NAT64, local, multicast


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet (IANA's special-purpose registries).

    IPv6 addresses that wrap one of IPv4 are not: what they lead to depends on the network.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if not parsed.is_global or parsed.is_multicast or parsed.is_reserved:
        return False
    if any(parsed in network for network in _NOT_FOR_STRANGERS):
        return False
    return isinstance(parsed, IPv4Address) or (parsed in _IPV6_UNICAST and parsed.scope_id is None)


class NotPublicError(Exception):
    """A name leads to an address that is not public."""


class PublicResolver(AbstractResolver):
    """Looks names up and refuses a name if one of its addresses is not public.

    aiohttp connects to the addresses that it is given here and looks nothing up again, so that a name
    cannot lead elsewhere between the check and the connection. It asks for names only: an address in
    the place of a name never comes here and must be refused before.
    """

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As aiohttp asks it.

        Raises:
            NotPublicError: of one of the addresses.
            OSError: the name is not known.
        """
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(entry["host"]) for entry in found):
            raise NotPublicError(host)
        return found

    async def close(self) -> None:
        await self._inner.close()
