"""Writes Llama models of a few kilobytes with random weights, which llama.cpp can load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

WIDTH = 32
HEADS = 2

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the lazy dog doesn't care; it's 12345 o'clock.",
    "Als de vos de eend ziet, ziet de eend de vos. Größe, Straße, naïve café, señor, Ελληνικά, Привет мир.",
    "def fold(items):\n    total = 0\n    for item in items:\n        total += item\n    return total\n\n\n",
    "你好，世界。こんにちは世界 안녕하세요 세계 😀😃👍🏽 مرحبا بالعالم नमस्ते दुनिया ภาษาไทย",
    "I'll SAY it: we've DON'T they're 3.14159 + 2,718 = 100% <a href=\"x\">y</a>",
    " \t\ttabs\r\nlines   spaces    more",
] * 4
"""A text that yields a few hundred merges."""


@dataclass(frozen=True, slots=True)
class TinyVocabulary:
    """Tokens with their types, and the merges."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    """Special ids by name: `bos`, `eos`, ..."""


def byte_level_vocabulary(pre: str, *, extra: Mapping[str, int] | None = None) -> TinyVocabulary:
    """A byte-level vocabulary trained on CORPUS: control tokens first, `extra` tokens (with types) last."""
    library = LibraryTokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    special = {"<|begin_of_text|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL}
    learned = sorted(library.get_vocab().items(), key=lambda item: item[1])
    tokens = special | {token: NORMAL for token, _ in learned} | dict(extra or {})
    return TinyVocabulary(
        model="gpt2",
        pre=pre,
        tokens=list(tokens),
        types=list(tokens.values()),
        merges=[" ".join(pair) for pair in _merges(library)],
        ids={"bos": 0, "eos": 2},
    )


def _merges(library: LibraryTokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(library.to_str())["model"]["merges"]
    return merges


def sentence_piece_vocabulary(*, extra: Mapping[str, int] | None = None) -> TinyVocabulary:
    """A SentencePiece vocabulary trained on CORPUS, with the layout of Llama 2's."""
    library = LibraryTokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=900, show_progress=False))
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    for_bytes = {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    merged = dict.fromkeys(["".join(pair) for pair in _merges(library)], NORMAL)
    runs = {"▁" * length: NORMAL for length in (2, 3, 4, 8)}
    letters = {token: NORMAL for token in library.get_vocab() if token not in merged}
    tokens = special | for_bytes | merged | runs | dict(sorted(letters.items())) | dict(extra or {})
    return TinyVocabulary(
        model="llama",
        pre="",
        tokens=list(tokens),
        types=list(tokens.values()),
        scores=[-float(index) for index in range(len(tokens))],
        ids={"bos": 1, "eos": 2, "unknown": 0},
    )


def write_tiny_llama(path: Path, vocabulary: TinyVocabulary, **metadata: Any) -> Path:
    """Write a model of one layer that llama.cpp loads; `metadata` adds or replaces `tokenizer.*` entries."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    _add_vocabulary(writer, vocabulary)
    for key, value in metadata.items():
        add: Any = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(f"tokenizer.{key.replace('__', '.')}", value)
    for name, shape in _shapes(len(vocabulary.tokens)).items():
        values = np.random.default_rng(len(name)).standard_normal(shape, dtype=np.float32)
        writer.add_tensor(name, values * 0.1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter, vocabulary: TinyVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    for name, token_id in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)


def _shapes(vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    square = (WIDTH, WIDTH)
    layer = {
        **{f"attn_{part}.weight": square for part in ("q", "k", "v", "output")},
        **{f"ffn_{part}.weight": square for part in ("gate", "up", "down")},
        "attn_norm.weight": (WIDTH,),
        "ffn_norm.weight": (WIDTH,),
    }
    return {
        "token_embd.weight": (vocabulary_size, WIDTH),
        "output_norm.weight": (WIDTH,),
        **{f"blk.0.{name}": shape for name, shape in layer.items()},
    }
