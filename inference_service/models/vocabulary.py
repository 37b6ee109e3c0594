"""A model's tokens and what they are for, read as llama.cpp reads them.

The file format does not define which tokens end a generation, nor which further tokens are control tokens.
llama.cpp decides both by the texts of the tokens, and so does this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from inference_service.models.files import ModelError

_PREFIX = "tokenizer.ggml."

END_TEXTS = frozenset({
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
    "<end_of_turn>", "<turn|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>", "</s>", "<eos>",
    "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>",
})  # fmt: skip
"""Texts of tokens that end a turn, a message or a text."""

_ENDS_OF_INFILL = frozenset({
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
    "<|file_sep|>",
})  # fmt: skip
"""Texts of infill tokens that end a generation too."""

_INFILL = frozenset({
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
})  # fmt: skip

_CONTROL_TEXTS = END_TEXTS | _ENDS_OF_INFILL | _INFILL

_USUAL_IDS = {("llama", "bos"): 1, ("llama", "eos"): 2}
"""Special tokens where a file names none, by kind of tokenizer."""

_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


class TokenType(IntEnum):
    """GGUF's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens. An id is an index into `tokens`, `types` and `scores`."""

    model: str
    """The kind of tokenizer: `gpt2` (byte-level BPE) or `llama` (SentencePiece)."""
    pre: str
    """Name of the rule that cuts text into words before BPE; empty where the file names none."""
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    """Values of TokenType."""
    scores: tuple[float, ...]
    """Empty, or one for each token."""
    merges: tuple[str, ...]
    """Pairs of tokens joined by a space, most important first."""
    bos_id: int | None
    eos_id: int | None
    end_ids: frozenset[int]
    """Every token that ends a generation, `eos_id` included."""
    add_bos: bool | None
    """Whether a text begins with the BOS token; None: as is usual for this kind of tokenizer."""
    add_space_prefix: bool | None
    """Whether a text begins with a space; None: as is usual."""

    def text_of(self, token_id: int | None) -> str:
        """A token as it is written in the file; empty for none."""
        return "" if token_id is None else self.tokens[token_id]


def read_vocabulary(metadata: Mapping[str, Any], path: Path) -> Vocabulary:
    """Find the vocabulary in a file's metadata.

    Raises:
        ModelError: there is none, or its parts do not fit together.

    """
    fields = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    tokens = fields.get("tokens", ())
    model = fields.get("model")
    if not tokens or not model:
        raise ModelError(f"{path} has no tokenizer in it: convert or fetch the model again.")
    types = _corrected_types(tokens, fields.get("token_type") or (TokenType.NORMAL,) * len(tokens))
    scores = fields.get("scores", ())
    if len(types) != len(tokens) or len(scores) not in {0, len(tokens)}:
        raise ModelError(
            f"{path} has a tokenizer whose parts differ in length: convert or fetch the model again."
        )
    ids = {key: _token_id(fields, key, len(tokens)) for key in ("bos", *_END_KEYS)}
    return Vocabulary(
        model=model,
        pre=fields.get("pre", ""),
        tokens=tokens,
        types=types,
        scores=scores,
        merges=fields.get("merges", ()),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        end_ids=_end_ids(tokens, [ids[key] for key in _END_KEYS]),
        add_bos=fields.get("add_bos_token"),
        add_space_prefix=fields.get("add_space_prefix"),
    )


def _corrected_types(tokens: tuple[str, ...], types: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        [
            TokenType.CONTROL if _is_control(token, kind) else kind
            for token, kind in zip(tokens, types, strict=False)
        ]
    )


def _is_control(token: str, kind: int) -> bool:
    """Whether a token is one that callers must not be able to write, whatever the file calls it.

    llama.cpp decides by the text alone. This also covers a marker of turns that a conversion added to the
    vocabulary as ordinary text, which llama.cpp accepts from callers.
    """
    is_marker = token.startswith(("<|", "<｜")) and token.endswith(("|>", "｜>"))
    return token in _CONTROL_TEXTS or (kind == TokenType.USER_DEFINED and is_marker)


def _token_id(fields: Mapping[str, Any], key: str, size: int) -> int | None:
    value = fields.get(f"{key}_token_id", _USUAL_IDS.get((fields["model"], key)))
    return value if isinstance(value, int) and 0 <= value < size else None


def _end_ids(tokens: tuple[str, ...], named: list[int | None]) -> frozenset[int]:
    by_text = {index for index, token in enumerate(tokens) if token in END_TEXTS or token in _ENDS_OF_INFILL}
    return frozenset(by_text.union(index for index in named if index is not None))
