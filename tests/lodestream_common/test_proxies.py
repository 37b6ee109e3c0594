"""The caller's address behind trusted proxies, from headers that callers may forge."""

from __future__ import annotations

import pytest

from lodestream_common.proxies import TrustedProxies, forwarded_addresses

PROXIES = ("10.0.0.0/8", "192.168.1.7", "2001:db8:1::/48", "::1")


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        # Not from a trusted proxy: the header is its sender's own text.
        ("203.0.113.5", "198.51.100.1", "203.0.113.5"),
        ("192.168.1.8", "198.51.100.1", "192.168.1.8"),
        ("unix", "198.51.100.1", "unix"),
        ("", "198.51.100.1", ""),
        # One proxy, and a caller that wrote addresses of its own before.
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "127.0.0.1, 10.9.9.9, 198.51.100.1", "198.51.100.1"),
        # Chains.
        ("10.1.2.3", "198.51.100.1, 192.168.1.7, 10.4.4.4", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6,198.51.100.1 ,2001:db8:1::9", "198.51.100.1"),
        ("10.1.2.3", "10.5.5.5, 10.4.4.4", "10.5.5.5"),
        # Ports and IPv6.
        ("10.1.2.3", "198.51.100.1:4711", "198.51.100.1"),
        ("::1", "2001:DB8:2::7", "2001:db8:2::7"),
        ("::1", "[2001:db8:2::7]:443", "2001:db8:2::7"),
        ("::1", "[2001:db8:2::7]", "2001:db8:2::7"),
        ("::ffff:10.1.2.3", "::ffff:198.51.100.1", "198.51.100.1"),
        # Without an address only the nearest proxy is known.
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1, _hidden", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1, garbage\r\n, 10.4.4.4", "10.4.4.4"),
        ("10.1.2.3", "fe80::1%eth0", "10.1.2.3"),
        ("10.1.2.3", "999.1.1.1", "10.1.2.3"),
        ("10.1.2.3", "[2001:db8:2::7]443", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1,", "10.1.2.3"),
        ("10.1.2.3", ",".join(["198.51.100.1", *["10.1.1.1"] * 5000]), "10.1.1.1"),
    ],
)
def test_the_caller_is_the_first_from_the_right_that_is_no_proxy(peer: str, header: str, client: str) -> None:
    assert TrustedProxies(PROXIES).client(peer, forwarded_addresses([header])) == client


def test_without_trusted_proxies_the_peer_is_the_caller() -> None:
    nobody = TrustedProxies()

    assert not nobody
    assert nobody.client("127.0.0.1", ["198.51.100.1"]) == "127.0.0.1"


def test_peers_on_a_socket_file_are_trusted_by_name() -> None:
    assert TrustedProxies(["unix"]).client("unix", ["198.51.100.1"]) == "198.51.100.1"


def test_several_headers_are_one_list() -> None:
    assert forwarded_addresses(["a, b", "c"]) == ["a", " b", "c"]


@pytest.mark.parametrize(
    ("header", "addresses"),
    [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
        ('For="[2001:db8:cafe::17]:4711"', ["[2001:db8:cafe::17]:4711"]),
        ("for=192.0.2.43, for=198.51.100.17", ["192.0.2.43", "198.51.100.17"]),
        ("proto=https;for=192.0.2.43", ["192.0.2.43"]),
        ("proto=https", [""]),
        ("before=192.0.2.43", [""]),
    ],
)
def test_the_standard_header_is_read_where_the_usual_one_is_missing(
    header: str, addresses: list[str]
) -> None:
    assert forwarded_addresses([], [header]) == addresses
    assert forwarded_addresses(["198.51.100.1"], [header]) == ["198.51.100.1"]


@pytest.mark.parametrize("entry", ["", "proxy.example", "10.0.0.0/33", "10.0.0.1/8", "*", "1.2.3"])
def test_what_is_no_address_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        TrustedProxies([entry])
