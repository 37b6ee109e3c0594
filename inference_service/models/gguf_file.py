"""What a service needs to know of a GGUF model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_service.models.errors import ModelError
from inference_service.models.gguf_header import read_header
from inference_service.models.vocabulary import Vocabulary, read_vocabulary

_ARCHITECTURES = ("llama", "qwen2")
_BYTES_PER_NUMBER = 2


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A model's metadata."""

    architecture: str
    name: str
    context_length: int
    """Most tokens that the model was made for."""
    vocabulary: Vocabulary
    chat_template: str | None
    """Jinja source."""
    kv_bytes_per_token: int
    """Memory that a token takes in the KV cache, in 16-bit numbers; 0 where the file does not say."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return len(self.vocabulary.tokens)


def read_model(path: Path) -> GgufModel:
    """Read a model's metadata; no tensor is loaded.

    Raises:
        ModelError: the file is no whole GGUF file of a supported architecture.

    """
    try:
        return _model(read_header(path).metadata, path)
    except (TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} holds metadata of unexpected types: convert or fetch the model again."
        ) from error


def _model(metadata: dict[str, Any], path: Path) -> GgufModel:
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{path} holds a model of architecture {architecture!r}; served are: {', '.join(_ARCHITECTURES)}."
        )
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one part of a split model: merge the parts (llama-gguf-split --merge) first."
        )
    return GgufModel(
        architecture=architecture,
        name=metadata.get("general.name", path.stem),
        context_length=_context_length(metadata, architecture, path),
        vocabulary=read_vocabulary(metadata, path),
        chat_template=metadata.get("tokenizer.chat_template") or None,
        kv_bytes_per_token=_kv_bytes(metadata, architecture),
    )


def _context_length(metadata: dict[str, Any], architecture: str, path: Path) -> int:
    length = metadata.get(f"{architecture}.context_length")
    if not isinstance(length, int) or length < 1:
        raise ModelError(f"{path} does not say its context length: convert or fetch the model again.")
    return length


def _kv_bytes(metadata: dict[str, Any], architecture: str) -> int:
    def field(name: str, default: int = 0) -> int:
        value = metadata.get(f"{architecture}.{name}", default)
        return value if isinstance(value, int) else default

    heads = field("attention.head_count", 1)
    width = field("embedding_length") // max(heads, 1)
    both = field("attention.key_length", width) + field("attention.value_length", width)
    return field("block_count") * field("attention.head_count_kv", heads) * both * _BYTES_PER_NUMBER
