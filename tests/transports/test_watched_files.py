"""Watched files are read while the servers are idle, and a broken file is logged once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lodestream_common.keys import KeyFile
from tests.support.filtering import write
from tests.support.service import MODEL_ID
from tests.support.transports import running_transports

HERON = ("[[rules]]", "name = 'heron'", "phrases = ['heron']", "action = 'block'")
QUIET = 1.5
"""Seconds within which a line that came with every check would have come again."""


async def _soon(question: Callable[[], object]) -> None:
    for _ in range(400):
        if question():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true within 20 seconds")


def _about(logs: Sequence[Mapping[str, Any]], *events: str) -> list[str]:
    return [line["event"] for line in logs if line["event"] in events]


async def test_a_filter_file_that_breaks_while_idle_is_one_error(tmp_path: Path) -> None:
    """Without requests one error is logged, and the old rules stay in force."""
    path = write(tmp_path / "rules.toml", *HERON)
    unusable = "content_filter_unusable"
    with capture_logs() as logs:
        async with running_transports(content_filter_file=path) as transports:
            write(path, *HERON, "frases = []")
            await _soon(lambda: _about(logs, unusable))
            await asyncio.sleep(QUIET)
            assert _about(logs, unusable) == [unusable]

            blocked = await transports.by_grpc({"model": MODEL_ID, "prompt": "a heron"})
            assert [choice.finish_reason for choice in blocked.choices] == ["content_filter"]

            write(path, *HERON, "whole_word = true")
            await _soon(lambda: _about(logs, "content_filter_reloaded"))


async def test_a_key_file_that_breaks_while_idle_is_one_error_of_each_server(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyFile(path).create("alice")
    unusable = "keys_unusable"
    with capture_logs() as logs:
        async with running_transports(keys_file=path):
            path.write_text("{")
            await _soon(lambda: len(_about(logs, unusable)) == 2)
            await asyncio.sleep(QUIET)

    assert _about(logs, unusable) == [unusable] * 2


pytestmark = pytest.mark.timeout(60)
