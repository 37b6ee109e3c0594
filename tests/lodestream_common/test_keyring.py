"""The keys of a running server: recognised, and followed as they change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lodestream_common.errors import OperatorError
from lodestream_common.keys import KeyFile, Keyring, Level


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def _soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds within some seconds; the servers promise one second."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _settle() -> None:
    """Wait for longer than a change takes to be noticed."""
    time.sleep(0.6)


def test_without_a_key_file_no_key_is_required(file: KeyFile) -> None:
    """Without a file no key is required, and no token is a key."""
    ring = Keyring(file.path)

    assert not ring.requires_key
    assert ring.verify("pg_" + "a" * 40) is None


def test_a_key_is_recognised_and_others_are_not(file: KeyFile) -> None:
    """Only the complete token is recognised; any other text gives None."""
    key, token = file.create("alice", Level.READ_ONLY)
    file.create("bob")
    ring = Keyring(file.path)

    assert ring.requires_key
    assert ring.verify(token) == key
    for wrong in (
        "",
        token[:-1],
        token + "a",
        token.upper(),
        key.digest,
        key.id,
        "pg_\udcff",
        "é",
        "a" * 10_000_000,
    ):
        assert ring.verify(wrong) is None


def test_a_new_key_is_noticed_without_a_restart(file: KeyFile) -> None:
    """The first key closes an open server, and its owner can still call it."""
    ring = Keyring(file.path)
    _, token = file.create("alice")

    assert _soon(lambda: ring.requires_key)
    assert ring.verify(token) is not None


def test_after_the_last_key_is_revoked_keys_are_still_required(file: KeyFile) -> None:
    """The revoked key is invalid, and keys are required, now and after a restart."""
    _, token = file.create("alice")
    ring = Keyring(file.path)
    assert ring.verify(token) is not None

    file.revoke("alice")

    assert _soon(lambda: ring.verify(token) is None)
    assert ring.requires_key
    assert Keyring(file.path).requires_key


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_a_file_damaged_at_run_time_has_no_effect_and_is_logged_once(
    file: KeyFile, damage: Callable[[Path], None]
) -> None:
    """If the file vanishes or breaks, the known keys stay valid, and one error is logged."""
    _, token = file.create("alice")
    ring = Keyring(file.path)

    with capture_logs() as logs:
        damage(file.path)
        for _ in range(3):
            _settle()
            assert ring.verify(token) is not None
            assert ring.requires_key

    errors = [line for line in logs if line["log_level"] == "error"]
    assert len(errors) == 1
    assert str(file.path) in errors[0]["reason"]


def test_a_restored_file_counts_again(file: KeyFile) -> None:
    """After damage, the next sound file is followed."""
    file.create("alice")
    ring = Keyring(file.path)
    file.path.unlink()
    _settle()
    assert ring.requires_key

    _, token = file.create("bob")

    assert _soon(lambda: ring.verify(token) is not None)


def test_an_emptied_file_ends_all_keys(file: KeyFile) -> None:
    """A file that is replaced by one without keys ends all keys, and keys are still required."""
    _, token = file.create("alice")
    ring = Keyring(file.path)

    file.path.write_text('{"version": 1, "keys": []}')

    assert _soon(lambda: ring.verify(token) is None)
    assert ring.requires_key


def test_a_damaged_file_at_the_start_is_an_operators_error(file: KeyFile) -> None:
    """A server does not start on keys that it cannot read."""
    file.path.write_text("{")

    with pytest.raises(OperatorError, match=str(file.path)):
        Keyring(file.path)


def test_the_file_is_looked_at_rarely(file: KeyFile) -> None:
    """Within the interval a change is not seen: no request pays for a look at the disk."""
    ring = Keyring(file.path, check_interval=3600)
    file.create("alice")
    _settle()

    assert not ring.requires_key
