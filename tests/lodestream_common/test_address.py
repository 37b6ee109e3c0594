"""Addresses: parsed, printed, and whether other machines can reach them."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from lodestream_common.address import (
    Address,
    cannot_listen,
    check_free,
    check_open_address,
    is_loopback,
    parse_address,
)
from lodestream_common.errors import OperatorError, SettingError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("localhost:0", "localhost", 0),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("[::1]:50051", "::1", 50051),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("bridge.example:80", "bridge.example", 80),
        ("unix:/run/lodestream.sock", "unix:/run/lodestream.sock", 0),
    ],
)
def test_an_address_survives_reading_and_printing(text: str, host: str, port: int) -> None:
    """Each form is read into its parts, and printed as it was written."""
    address = parse_address(text)

    assert (address.host, address.port) == (host, port)
    assert str(address) == text


def test_unix_url_and_unix_path_are_one_place() -> None:
    """unix:///path is unix:/path."""
    assert parse_address("unix:///run/x.sock") == parse_address("unix:/run/x.sock")


@pytest.mark.parametrize(
    "text",
    [
        *("", "8000", ":8000", "127.0.0.1", "127.0.0.1:", "::1:8000", "[::1]", "[::1]8000", "[127.0.0.1]:1"),
        *("127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:http", "http://127.0.0.1:8000", "unix:", "a b:1"),
        *("h:1 ", "h:１"),
    ],
)
def test_an_invalid_address_is_refused_by_the_name_of_its_setting(text: str) -> None:
    """Anything else raises SettingError, which begins with the setting."""
    with pytest.raises(SettingError, match=r"^--http-address: "):
        parse_address(text, "--http-address")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1", "unix:/run/x"]
)
def test_loopback_hosts_are_known(host: str) -> None:
    """The whole of 127/8, ::1, mapped forms, names and socket files stay on this machine."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "2001:db8::1"]
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    """Addresses that other machines can reach are not loopback, wildcards included."""
    assert not is_loopback(host)


def test_a_host_that_does_not_resolve_is_an_operators_error() -> None:
    """An unknown name cannot be judged, so it is refused by name."""
    with pytest.raises(OperatorError, match=r"nowhere\.invalid"):
        is_loopback("nowhere.invalid")


def test_an_open_server_stays_on_loopback() -> None:
    """Without a key an address that others reach is refused, and the message says how to make a key."""
    with pytest.raises(OperatorError, match=r"grpc_address: .* 0\.0\.0\.0:50051 .*lodestream keys create"):
        check_open_address("0.0.0.0:50051", requires_key=False, setting="grpc_address")

    check_open_address("127.0.0.1:50051", requires_key=False)
    check_open_address(Address("0.0.0.0", 50051), requires_key=True)


@pytest.mark.parametrize(
    ("listening", "calling"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")],
)
def test_a_wildcard_is_called_over_loopback(listening: str, calling: str) -> None:
    """An every-interface address is no destination; its loopback one is."""
    assert str(parse_address(listening).reachable) == calling


def test_a_taken_port_is_named_with_its_setting() -> None:
    """The error of a failed bind names setting, address and reason in one line."""
    error = OSError(errno.EADDRINUSE, "Address already in use")
    message = str(cannot_listen(parse_address("127.0.0.1:80"), "http_address", error))

    assert message.startswith("http_address: cannot listen on 127.0.0.1:80: another program listens there")
    assert "--http-address 127.0.0.1:0" in message
    assert "\n" not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_noticed_beforehand(host: str) -> None:
    """This holds for every name of the host, and the check does not occupy a free port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match="another program listens there"):
            check_free(Address(host, port), "grpc_address")
    for _ in range(2):
        check_free(Address(host, port), "grpc_address")


def test_a_socket_file_counts_as_taken_only_if_a_server_uses_it(tmp_path: Path) -> None:
    """A file of a dead server does not block the address."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(OperatorError, match="another program listens there"):
            check_free(parse_address(f"unix:{path}"), "grpc_address")
    check_free(parse_address(f"unix:{path}"), "grpc_address")


def test_an_address_of_another_machine_is_named_as_such() -> None:
    with pytest.raises(OperatorError, match="this machine has no such address"):
        check_free(parse_address("192.0.2.1:0"), "grpc_address")
