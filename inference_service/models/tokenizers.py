"""Tokenizers rebuilt from GGUF metadata, so that they give the ids that llama.cpp gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from inference_service.generation.tokenizer import Encoder, Tokenizer
from inference_service.models.byte_level import ByteLevelEncoder
from inference_service.models.errors import ModelError
from inference_service.models.sentence_piece import SentencePieceEncoder
from inference_service.models.vocabulary import TokenType, Vocabulary


class _Family(Encoder, Protocol):
    """A kind of tokenizer."""

    adds_bos: bool
    """Whether a prompt begins with the BOS token where the file does not say."""

    def piece(self, token: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        ...


_FAMILIES: dict[str, Callable[[Vocabulary], _Family]] = {
    "gpt2": ByteLevelEncoder,
    "llama": SentencePieceEncoder,
}


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Rebuild a model's tokenizer.

    Raises:
        ModelError: its kind, or its rule of cutting words, is not supported; names those that are.

    """
    family = _FAMILIES.get(vocabulary.model)
    if family is None:
        known = ", ".join(_FAMILIES)
        raise ModelError(f"The model's tokenizer is of kind {vocabulary.model!r}; supported are: {known}.")
    encoder = family(vocabulary)
    kinds = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return Tokenizer(
        encoder,
        pieces=[encoder.piece(token, kind) for token, kind in kinds],
        control_tokens=_of_type(vocabulary, TokenType.CONTROL),
        added_tokens=_of_type(vocabulary, TokenType.USER_DEFINED),
        bos_id=vocabulary.bos_id,
        eos_ids=vocabulary.end_ids,
        add_bos=encoder.adds_bos if vocabulary.add_bos is None else vocabulary.add_bos,
    )


def _of_type(vocabulary: Vocabulary, wanted: TokenType) -> dict[str, int]:
    kinds = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {token: index for index, (token, kind) in kinds if kind == wanted and token}
