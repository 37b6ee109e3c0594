"""GGUF files: the head of the file, and what a service needs to know of its model.

`gguf.GGUFReader` makes an array object of every string, seconds for a vocabulary; this reads the
same in milliseconds. The format is that of ggml's GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_service.models.files import ModelError
from inference_service.models.vocabulary import Vocabulary, read_vocabulary

_MAGIC = b"GGUF"
_VERSIONS = frozenset({2, 3})
_STRING = 8
_ARRAY = 9
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]
_MAX_DIMENSIONS = 8
_DEFAULT_ALIGNMENT = 32
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
"""Elements of a block and its bytes, for each of ggml's tensor types (`ggml.h`, `ggml_type`)."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The part of the file before the tensor data."""

    metadata: dict[str, Any]
    """By key: numbers, booleans, strings, and tuples of these."""
    data_end: int
    """Where the last tensor ends, in bytes: the least size of an unharmed file."""


def read_header(path: Path) -> GgufHeader:
    """Read the head of a GGUF file.

    Raises:
        ModelError: the file cannot be read, is no GGUF file, or is cut off or damaged.

    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(f"{path} is not a GGUF file: give --model a file that ends in .gguf.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _Reader(data).header()
    except OSError as error:
        raise ModelError(
            f"Cannot read {path} ({error.strerror}): check the path and its permissions."
        ) from error
    except (struct.error, ValueError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"{path} is cut off or damaged ({error}): fetch it again.") from error
    if header.data_end > size:
        raise ModelError(f"{path} is cut off: {size} of {header.data_end} bytes are there; fetch it again.")
    return header


class _Reader:
    """A position in the file, moved along by reading."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = len(_MAGIC)

    def header(self) -> GgufHeader:
        version = self._number(_U32)
        if version not in _VERSIONS:
            raise ValueError(f"GGUF version {version} is not one of {sorted(_VERSIONS)}")
        tensors, entries = self._number(_U64), self._number(_U64)
        metadata = {self._string(): self._value(self._number(_U32)) for _ in range(entries)}
        extents = [self._tensor_extent() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        return GgufHeader(metadata, start + max(extents, default=0))

    def _number(self, form: struct.Struct) -> Any:
        value = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return value

    def _string(self) -> str:
        start = self._at + _U64.size
        end = start + self._number(_U64)
        self._at = end
        if end > self._size:
            raise ValueError("a string runs past the end")
        return self._data[start:end].decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self) -> tuple[Any, ...]:
        kind, count = self._number(_U32), self._number(_U64)
        if count > self._size:
            raise ValueError("an array runs past the end")
        if kind not in _SCALARS:
            return tuple([self._value(kind) for _ in range(count)])
        form = struct.Struct(f"<{count}{_SCALARS[kind].format[-1]}")
        values = form.unpack_from(self._data, self._at)
        self._at += form.size
        return values

    def _tensor_extent(self) -> int:
        """Where a tensor ends, counted from the start of the tensor data."""
        self._string()
        rank = self._number(_U32)
        if rank > _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {rank} dimensions")
        elements = 1
        for _ in range(rank):
            elements *= self._number(_U64)
        kind, offset = self._number(_U32), self._number(_U64)
        # The engine checks a quantisation that is newer than the table.
        block, width = _BLOCKS.get(kind, (1, 0))
        return int(offset + elements // block * width)


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
    """Memory that a token takes in the KV cache, in 16-bit numbers; 0 where the file does not define it."""

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
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
