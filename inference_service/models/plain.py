from __future__ import annotations

from tokenizers import Tokenizer as LibraryTokenizer


def encode_plain(library: LibraryTokenizer, text: str) -> list[int]:
    """The ids of a text, nothing added. By the library's batch call, which lets go of the GIL."""
    ids: list[int] = library.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids
