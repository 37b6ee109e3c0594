"""Failed keys of one address are refused later and later, within bounds."""

from __future__ import annotations

import pytest

from lodestream_common.failed_keys import FailedKeys, host_of_peer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_few_failures_are_free_and_further_ones_are_delayed() -> None:
    failed = FailedKeys(Clock())

    assert [failed.delay("10.0.0.1") for _ in range(14)] == [0] * 5 + [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert failed.delay("10.0.0.2") == 0


def test_two_failures_a_second_are_delayed_and_one_is_not() -> None:
    for pace, slowed in ((0.5, True), (1.0, False)):
        clock = Clock()
        failed = FailedKeys(clock)
        delays = []
        for _ in range(60):
            delays.append(failed.delay("10.0.0.1"))
            clock.now += pace
        assert (max(delays) == 5) is slowed
        assert any(delays) is slowed


def test_failed_keys_are_forgotten_after_the_wait() -> None:
    clock = Clock()
    failed = FailedKeys(clock)
    for _ in range(100):
        failed.delay("10.0.0.1")

    clock.now += 10

    assert [failed.delay("10.0.0.1") for _ in range(6)] == [0] * 5 + [1]


def test_addresses_of_one_network_are_one_source() -> None:
    failed = FailedKeys(Clock())
    for number in range(9):
        failed.delay(f"2001:db8::{number}")

    assert failed.delay("2001:db8::ffff%eth0") == 5
    assert failed.delay("2001:db8:0:1::1") == 0
    assert [failed.delay("::ffff:10.0.0.1") for _ in range(6)][-1] == failed.delay("10.0.0.1") - 1


def test_memory_is_bounded() -> None:
    failed = FailedKeys(Clock())
    for number in range(12_000):
        failed.delay(f"host {number}")

    assert len(failed) == 10_000


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("unix:/run/it", "unix"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_hosts_of_peers(peer: str, host: str) -> None:
    assert host_of_peer(peer) == host
