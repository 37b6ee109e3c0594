"""The tokenizer that lies beside the engine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer


class Tokenizer:
    """Ids, texts, and the tokens that are neither."""

    def __init__(self, directory: Path) -> None:
        library: Any = LibraryTokenizer.from_file(str(directory / "tokenizer.json"))
        added = library.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        settings = json.loads((directory / "tokenizer_config.json").read_text())
        self.eos_id: int = library.token_to_id(settings["eos_token"])
        self._library = library

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._library.decode(list(ids), skip_special_tokens=True)
        return text


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory, read once for as long as its file does not change.

    Raises:
        OSError: there is none.

    """
    return _load(directory, (directory / "tokenizer.json").stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load(directory: Path, _: int) -> Tokenizer:
    return Tokenizer(directory)
