"""Tokenizers rebuilt from GGUF metadata, so that they give the ids that llama.cpp gives."""

from __future__ import annotations

from inference_service.generation.tokenizer import Tokenizer
from inference_service.models import byte_level
from inference_service.models.errors import ModelError
from inference_service.models.vocabulary import Vocabulary


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Rebuild a model's tokenizer.

    Raises:
        ModelError: its kind, or its rule of cutting words, is not supported; names those that are.

    """
    if vocabulary.model == "gpt2":
        return byte_level.build(vocabulary)
    raise ModelError(f"The model's tokenizer is of kind {vocabulary.model!r}; supported are: gpt2.")
