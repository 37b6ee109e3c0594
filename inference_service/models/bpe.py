"""Tokenizers rebuilt from GGUF metadata, with the ids that llama.cpp gives.

Two neighbouring tokens that form a token together are merged, the highest score first. The library takes
an ordered list of pairs; each token gives one pair for every place where it splits into two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from inference_service.models.files import ModelError
from inference_service.models.vocabulary import TokenType, Vocabulary
from inference_service.prompt.tokenizer import Encoder, Tokenizer


def encode_plain(library: LibraryTokenizer, text: str) -> list[int]:
    """The ids of a text, nothing added. By the library's batch call, which releases the GIL."""
    ids: list[int] = library.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _Rule:
    """The pattern by which a family of tokenizers splits text, and its other settings."""

    cuts: tuple[str, ...]
    """Regular expressions, each applied to the rest of the one before; unmatched text is a word too."""
    ignore_merges: bool = False
    """A word that is a token is that token, whatever the merges make of it."""
    adds_bos: bool = False


_BY_DIGIT = _Rule((r"\p{N}", _GPT2))
_PLAIN = _Rule((_GPT2,))
_LLAMA = _Rule((_LLAMA3,), ignore_merges=True, adds_bos=True)
_RULES = {
    "smollm": _BY_DIGIT,
    "starcoder": _BY_DIGIT,
    "refact": _BY_DIGIT,
    "codeshell": _BY_DIGIT,
    "minerva-7b": _BY_DIGIT,
    "gpt-2": _PLAIN,
    "llama-bpe": _LLAMA,
    "llama3": _LLAMA,
    "llama-v3": _LLAMA,
    "falcon3": _LLAMA,
    "smaug-bpe": _Rule((_LLAMA3,)),
    "qwen2": _Rule((_QWEN2,)),
    "deepseek-r1-qwen": _Rule((_QWEN2,)),
    "megrez": _Rule((_QWEN2,)),
}


def _byte_characters() -> dict[int, str]:
    """From the characters that stand for bytes to the characters of the same codes in Latin-1."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        0x100 + position: chr(byte) for position, byte in enumerate(hidden)
    }


_TO_LATIN_1 = _byte_characters()
_BYTE_CHARACTERS = {chr(code) for code in _TO_LATIN_1}


class ByteLevelEncoder:
    """The library's byte-level BPE without any special token.

    A byte that the vocabulary has no token for is left out, but still keeps its neighbours apart.

    Raises:
        ModelError: the rule by which it cuts words is not supported; names those that are.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        split = splitter(vocabulary)
        kinds = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        tokens = {token: index for index, (token, kind) in kinds if kind == TokenType.NORMAL}
        self._end = len(vocabulary.tokens)
        self._missing = {
            character: self._end + position
            for position, character in enumerate(sorted(_BYTE_CHARACTERS - tokens.keys()))
        }
        merges = byte_level_merges(vocabulary)
        model = models.BPE(vocab=tokens | self._missing, merges=merges, ignore_merges=split.ignore_merges)
        self._library = LibraryTokenizer(model)
        self._library.pre_tokenizer = split.pre_tokenizer

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids = encode_plain(self._library, text)
        return [index for index in ids if index < self._end] if self._missing else ids

    @staticmethod
    def piece(token: str, kind: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        if kind == TokenType.USER_DEFINED:
            return token.encode()
        if kind != TokenType.NORMAL:
            return b""
        try:
            return token.translate(_TO_LATIN_1).encode("latin-1")
        except UnicodeEncodeError:
            # Not written in the alphabet of bytes: some conversions keep added tokens as they are.
            return token.encode()


@dataclass(frozen=True, slots=True)
class Splitter:
    """How byte-level BPE cuts a text into words."""

    pre_tokenizer: pre_tokenizers.PreTokenizer
    ignore_merges: bool
    """A word that is a token is that token, whatever the merges make of it."""


def splitter(vocabulary: Vocabulary) -> Splitter:
    """The way of a byte-level vocabulary to cut texts.

    Raises:
        ModelError: the rule is not supported; names those that are.

    """
    rule = _rule(vocabulary.pre)
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in rule.cuts]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return Splitter(pre_tokenizers.Sequence([*cuts, to_bytes]), rule.ignore_merges)


def byte_level_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs that the vocabulary joins, of ordinary tokens only."""
    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    tokens = {token for token, kind in kinds if kind == TokenType.NORMAL}
    pairs = (_pair(merge) for merge in vocabulary.merges)
    return [pair for pair in pairs if tokens >= {*pair, "".join(pair)}]


def _rule(name: str) -> _Rule:
    if name not in _RULES:
        known = ", ".join(sorted(_RULES))
        raise ModelError(f"The model's tokenizer cuts words by the rule {name!r}; supported are: {known}.")
    return _RULES[name]


def _pair(merge: str) -> tuple[str, str]:
    # A part may itself be a space, but never an empty text.
    cut = merge.find(" ", 1)
    return merge[:cut], merge[cut + 1 :]


SPACE = "▁"
"""The character with which SentencePiece writes a space."""
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(0x100))
_TEXT = frozenset({TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED})


class SentencePieceEncoder:
    """The library's BPE without any special token; characters it has no token for become their bytes.

    Raises:
        ModelError: the vocabulary has no scores, or no tokens for bytes.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        every = {token: index for index, token in enumerate(vocabulary.tokens)}
        texts = _texts(vocabulary)
        fallback = {token: every[token] for token in _BYTES if token in every}
        if not vocabulary.scores or len(fallback) != len(_BYTES):
            raise ModelError(
                "The model's tokenizer lacks scores or byte tokens: convert or fetch the model again."
            )
        merges = scored_merges(vocabulary)
        model = models.BPE(vocab=texts | fallback, merges=merges, byte_fallback=True, fuse_unk=False)
        self._library = LibraryTokenizer(model)
        self._prefix = "" if vocabulary.add_space_prefix is False else SPACE

    def encode(self, text: str) -> list[int]:
        """The ids of a text, after a space where the model uses one."""
        written = self._prefix + text.replace(" ", SPACE)
        return encode_plain(self._library, written)

    @staticmethod
    def piece(token: str, kind: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        if kind == TokenType.NORMAL:
            return token.replace(SPACE, " ").encode()
        if kind == TokenType.USER_DEFINED:
            return token.encode()
        return bytes([_BYTES.index(token)]) if kind == TokenType.BYTE and token in _BYTES else b""


def scored_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs that a SentencePiece vocabulary joins, the highest score first."""
    texts = _texts(vocabulary)
    return sorted(_pairs(texts), key=lambda pair: -vocabulary.scores[texts["".join(pair)]])


def _texts(vocabulary: Vocabulary) -> dict[str, int]:
    kinds = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {token: index for index, (token, kind) in kinds if kind in _TEXT}


def _pairs(texts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for text in texts:
        cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        known = [(left, right) for left, right in cuts if left in texts and right in texts]
        yield from sorted(known, key=lambda pair: (texts[pair[0]], texts[pair[1]]))


class _Family(Encoder, Protocol):
    """A kind of tokenizer."""

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
        add_bos=adds_bos(vocabulary),
    )


def adds_bos(vocabulary: Vocabulary) -> bool:
    """Whether a prompt begins with the BOS token: as the file says, else as is usual for its kind."""
    if vocabulary.add_bos is not None:
        return vocabulary.add_bos
    return vocabulary.model == "llama" or _rule(vocabulary.pre).adds_bos


def _of_type(vocabulary: Vocabulary, kind: TokenType) -> dict[str, int]:
    kinds = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {token: index for index, (token, found) in kinds if found == kind and token}
