"""The only part of transformers that serving calls."""

from __future__ import annotations

import json
from pathlib import Path


class AutoTokenizer:
    """A tokenizer that only knows whether it is a fast one."""

    def __init__(self, *, is_fast: bool) -> None:
        self.is_fast = is_fast

    @staticmethod
    def from_pretrained(directory: str) -> AutoTokenizer:
        settings = json.loads((Path(directory) / "tokenizer_config.json").read_text())
        kind: str = settings.get("tokenizer_class", "PreTrainedTokenizerFast")
        return AutoTokenizer(is_fast=not kind.endswith("SlowTokenizer"))
