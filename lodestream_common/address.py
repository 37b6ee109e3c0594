"""Addresses of servers: parsing, whether other machines can reach them, whether they are free."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any

from lodestream_common.errors import OperatorError, SettingError

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})")
_UNIX = re.compile(r"unix:(?://)?(?P<path>[^\s]+)")
_ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not listened on


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on or to call, printed as `host:port`, `[v6]:port` or `unix:path`."""

    host: str
    """A name or an IP address without brackets; `unix:path` for a socket file."""
    port: int = 0
    """0 to 65535; 0 lets the system choose; a socket file has none."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[v6]:port` or `unix:path`.

        Raises:
            ValueError: it is none of these, or the port is over 65535.

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
        """The address that a caller on this machine uses: 127.0.0.1 for 0.0.0.0, and ::1 for ::."""
        return Address(_ANY_HOSTS.get(self.host, self.host), self.port)

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, setting: str = "address") -> Address:
    """Parse the address in a setting.

    Raises:
        SettingError: the address is malformed; the message begins with `setting`.

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
    """Whether only this machine can reach `host`: all its addresses are loopback addresses.

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


def check_open_address(address: Address | str, requires_key: bool, setting: str = "address") -> None:
    """Check that a server without keys listens on loopback only.

    Raises:
        OperatorError: other machines could reach `address`, and `requires_key` is False.

    """
    address = address if isinstance(address, Address) else parse_address(address, setting)
    if not requires_key and not is_loopback(address.host):
        raise OperatorError(
            f"{setting}: without a key the server is open, and will not listen on {address} where other "
            "machines reach it; create a key first: lodestream keys create --name NAME"
        )


def check_free(address: Address, setting: str) -> None:
    """Check that a server could listen on an address, without listening there.

    The gRPC core would write the reason of a failure only to stderr, in lines of its own.

    Raises:
        OperatorError: another program listens there, or this machine does not allow it.

    """
    try:
        if address.is_unix:
            _check_socket_file(address.host.removeprefix("unix:").removeprefix("//"))
        else:
            _check_port(address)
    except OSError as error:
        raise cannot_listen(address, setting, error) from error


def reserve(address: Address, setting: str) -> tuple[socket.socket, Address]:
    """Bind an address without listening, for processes that share its port: they alone get connections.

    Returns:
        The socket, which holds the port until it is closed, and the address with the port that it got.

    Raises:
        OperatorError: another program listens there, or this machine does not allow it.

    """
    check_free(address, setting)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        # A name like localhost has addresses of both families; callers expect IPv4.
        family, *_, place = min(found, key=lambda info: info[0] != socket.AF_INET)
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(place[:2])
    except OSError as error:
        raise cannot_listen(address, setting, error) from error
    return reserved, Address(address.host, reserved.getsockname()[1])


def _check_port(address: Address) -> None:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failures = [error for info in found if (error := _bind_failure(info[0], info[4]))]
    # A name can have an address of a family that this machine lacks. An address that is in use always counts.
    taken = next((error for error in failures if error.errno == errno.EADDRINUSE), None)
    if taken or len(failures) == len(found):
        raise taken or failures[0]


def _bind_failure(family: int, place: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
    except OSError as error:
        return error
    return None


def _check_socket_file(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        # The file of a server that has ended refuses connections; the new server replaces it.
        if probe.connect_ex(path) == 0:
            raise OSError(errno.EADDRINUSE, "Address already in use")


def cannot_listen(address: Address, setting: str, error: OSError) -> OperatorError:
    """Make the error of a server that could not listen: the reason, and what to do."""
    flag = "--" + setting.replace("_", "-")
    other = f"choose another one, as {flag} {address if address.is_unix else Address(address.host, 0)}"
    reasons = {
        errno.EADDRINUSE: f"another program listens there; end it, or {other} (0: any free port)",
        errno.EADDRNOTAVAIL: f"this machine has no such address; give {flag} one that it has",
        errno.EACCES: f"the system does not permit it, as with ports below 1024; {other} (0: any free port)",
    }
    reason = reasons.get(error.errno or 0) or f"{error.strerror or error}; {other}"
    return OperatorError(f"{setting}: cannot listen on {address}: {reason}")
