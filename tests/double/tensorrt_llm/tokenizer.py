"""The tokenizer in the engine's directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

_read: dict[tuple[int, int], Any] = {}
"""Parsed files by inode and time of change, so that the engines of a test run share them."""


class Tokenizer:
    """Encodes and decodes with the tokenizer's files.

    Raises:
        OSError: the directory has none.

    """

    def __init__(self, directory: Path) -> None:
        self._library = _library(directory / "tokenizer.json")
        added = self._library.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        settings = json.loads((directory / "tokenizer_config.json").read_text())
        self.is_fast = not settings.get("tokenizer_class", "PreTrainedTokenizerFast").endswith(
            "SlowTokenizer"
        )
        self.eos_id: int = self._library.token_to_id(settings["eos_token"])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._library.decode(list(ids), skip_special_tokens=True)
        return text


def _library(file: Path) -> Any:
    facts: os.stat_result = file.stat()
    key = (facts.st_ino, facts.st_mtime_ns)
    if key not in _read:
        _read[key] = LibraryTokenizer.from_file(str(file))
    return _read[key]
