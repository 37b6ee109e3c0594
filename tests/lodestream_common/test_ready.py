"""Ready files: how a server says where it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodestream_common.ready import READY_FILE, announce_ready, read_ready


def test_an_announced_address_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read before the announcement; after it, the address; and no draft is left."""
    path = tmp_path / "ready.json"
    monkeypatch.setenv(READY_FILE, str(path))

    assert read_ready(path) is None
    announce_ready("127.0.0.1:1234")
    assert read_ready(path) == "127.0.0.1:1234"
    assert path.read_text() == '{"event": "listening", "address": "127.0.0.1:1234"}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_variable_no_ready_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable an announcement does nothing."""
    monkeypatch.delenv(READY_FILE, raising=False)
    monkeypatch.chdir(tmp_path)

    announce_ready("127.0.0.1:1234")

    assert list(tmp_path.iterdir()) == []
