"""SentencePiece BPE, as llama.cpp does it: the whole text at once, spaces written as `▁`.

Where two tokens meet that are a token together, they are merged, those of the highest score first.
The library wants the pairs themselves in order; each token gives one pair for every place where it can
be cut into two tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models

from inference_service.models.errors import ModelError
from inference_service.models.plain import encode_plain
from inference_service.models.vocabulary import TokenType, Vocabulary

_SPACE = "▁"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(0x100))
_TEXT = frozenset({TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED})


class SentencePieceEncoder:
    """The library's BPE without any special token; characters it has no token for become their bytes.

    Raises:
        ModelError: the vocabulary has no scores, or no tokens for bytes.

    """

    adds_bos = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
        every = {token: (index, kind) for index, (token, kind) in enumerate(kinds)}
        texts = {token: index for token, (index, kind) in every.items() if kind in _TEXT}
        fallback = {token: every[token][0] for token in _BYTES if token in every}
        if not vocabulary.scores or len(fallback) != len(_BYTES):
            raise ModelError(
                "The model's tokenizer lacks scores or byte tokens: convert or fetch the model again."
            )
        merges = sorted(_pairs(texts), key=lambda pair: -vocabulary.scores[texts["".join(pair)]])
        model = models.BPE(vocab=texts | fallback, merges=merges, byte_fallback=True, fuse_unk=False)
        self._library = LibraryTokenizer(model)
        self._prefix = "" if vocabulary.add_space_prefix is False else _SPACE

    def encode(self, text: str) -> list[int]:
        """The ids of a text, begun by a space where the model wants one."""
        written = self._prefix + text.replace(" ", _SPACE)
        return encode_plain(self._library, written)

    @staticmethod
    def piece(token: str, kind: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        if kind == TokenType.NORMAL:
            return token.replace(_SPACE, " ").encode()
        if kind == TokenType.USER_DEFINED:
            return token.encode()
        return bytes([_BYTES.index(token)]) if kind == TokenType.BYTE and token in _BYTES else b""


def _pairs(texts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for text in texts:
        cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        known = [(left, right) for left, right in cuts if left in texts and right in texts]
        yield from sorted(known, key=lambda pair: (texts[pair[0]], texts[pair[1]]))
