"""Where servers listen, and whether other machines can reach them there."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from lodestream_common.errors import OperatorError, SettingError

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})")
_UNIX = re.compile(r"unix:(?://)?(?P<path>[^\s]+)")
_ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not listened on


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen or to call, printed as `host:port`, `[v6]:port` or `unix:path`."""

    host: str
    """A name or an IP address without brackets; `unix:path` for a socket file."""
    port: int = 0
    """0 to 65535; 0 lets the system choose, and says nothing for a socket file."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[v6]:port` or `unix:path`.

        Raises:
            ValueError: it is none of these, or the port is over 65535; the message is fit to show.

        """
        if unix := _UNIX.fullmatch(text):
            return cls("unix:" + unix["path"])
        match = _HOST_AND_PORT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not host:port (as 127.0.0.1:8000, or [::1]:8000)")
        if int(match["port"]) > 65535:
            raise ValueError(f"port {match['port']} is not in 0..65535")
        if match["v6"] and not _is_v6(match["v6"]):
            raise ValueError(f"{match['v6']!r} in brackets is not an IPv6 address")
        return cls(match["v6"] or match["host"], int(match["port"]))

    @property
    def is_unix(self) -> bool:
        """Whether this is a socket file."""
        return self.host.startswith("unix:")

    @property
    def reachable(self) -> Address:
        """The same place as a caller on this machine names it: 0.0.0.0 becomes 127.0.0.1, :: becomes ::1."""
        return Address(_ANY_HOSTS.get(self.host, self.host), self.port)

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, setting: str = "address") -> Address:
    """Read an address that came out of `setting`, a flag or the like.

    Raises:
        SettingError: as `Address.parse` raises ValueError; the message begins with `setting`.

    """
    try:
        return Address.parse(text)
    except ValueError as error:
        raise SettingError(f"{setting}: {error}") from None


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: every address that it resolves to is a loopback one.

    Raises:
        OperatorError: the name does not resolve.

    """
    if host.startswith("unix:"):
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OperatorError(
            f"the host {host!r} does not resolve; use an IP address of this machine"
        ) from error
    return all(_is_loopback_ip(str(info[4][0])) for info in found)


def _is_loopback_ip(text: str) -> bool:
    ip = ipaddress.ip_address(text)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def check_open_address(address: Address | str, guarded: bool, setting: str = "address") -> None:
    """Refuse to listen beyond this machine as long as no key guards the door.

    Raises:
        OperatorError: other machines could reach `address`, and `guarded` is False.

    """
    address = address if isinstance(address, Address) else parse_address(address, setting)
    if not guarded and not is_loopback(address.host):
        raise OperatorError(
            f"{setting}: without a key the server is open, and will not listen on {address} where other "
            "machines reach it; create a key first: lodestream keys create --name NAME"
        )


def cannot_listen(address: Address | str, setting: str, reason: object) -> OperatorError:
    """Make the error of a server that could not bind its port."""
    return OperatorError(f"{setting}: cannot listen on {address}: {reason}; is another server running there?")
