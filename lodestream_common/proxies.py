"""The address of a caller behind proxies that the operator trusts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

UNIX = "unix"
"""The address of every peer on a socket file."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HOPS = 32
"""Entries of a header that are read, from the right."""
_V4_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")
_V6_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](:[0-9]{1,5})?")
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*"?([^";]*?)"?\s*(?:;|$)', re.IGNORECASE)


class TrustedProxies:
    """The proxies whose headers about their callers count.

    Args:
        proxies: addresses and networks (CIDR) of IPv4 and IPv6, and `unix` for all peers on a socket file.

    Raises:
        ValueError: an entry is none of these.

    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        texts = tuple(proxies)
        self._networks = tuple(_network(text) for text in texts if text != UNIX)
        self._trusts_unix = UNIX in texts

    def __bool__(self) -> bool:
        return self._trusts_unix or bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        if address == UNIX:
            return self._trusts_unix
        found = _address(address)
        return found is not None and self._contains(found)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address of the caller.

        Each proxy appends the address of its own peer. So from the right, the first address that is not that
        of a trusted proxy is the caller; a caller may have forged the entries left of it.

        Args:
            peer: the address at the other end of the connection.
            forwarded: the addresses that proxies appended, with or without a port, the last one last.

        Returns:
            The peer, if it is not trusted; else the caller. If an entry is no address, the last known
            proxy.

        """
        if not self or not self.trusts(peer):
            return peer
        client = peer
        for entry in reversed(forwarded[-_MOST_HOPS:]):
            address = _address(_without_port(entry.strip()))
            if address is None:
                break
            client = str(address)
            if not self._contains(address):
                break
        return client

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def forwarded_addresses(for_headers: Sequence[str], forwarded_headers: Sequence[str] = ()) -> list[str]:
    """The addresses that proxies appended, the last one last.

    Args:
        for_headers: the values of `X-Forwarded-For`, in their order.
        forwarded_headers: those of `Forwarded` (RFC 7239). They count only without `X-Forwarded-For`: a proxy
            that writes only one of them passes its caller's other one on.

    """
    if for_headers:
        return ",".join(for_headers).split(",")
    if not forwarded_headers:
        return []
    found = (_FOR.search(element) for element in ",".join(forwarded_headers).split(","))
    return [match[1] if match else "" for match in found]


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is no address, no network such as 10.0.0.0/8, and not unix") from None


def _address(text: str) -> Address | None:
    """An address; those of IPv4 in IPv6 (::ffff:a.b.c.d) are IPv4. None: it is none, or it has a zone."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    return found.ipv4_mapped or (None if found.scope_id is not None else found)


def _without_port(text: str) -> str:
    match = _V4_PORT.fullmatch(text) or _V6_PORT.fullmatch(text)
    return match[1] if match else text
