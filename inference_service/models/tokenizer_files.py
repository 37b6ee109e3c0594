"""Writes a model's tokenizer and chat template as Hugging Face's files, for programs that tokenize elsewhere.

The ids are those of `Tokenizer.encode_prompt(..., parse_special=True)`: a program that has the file can write
control tokens.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as LibraryTokenizer

from inference_service.models.bpe import SPACE, adds_bos, byte_level_merges, scored_merges, splitter
from inference_service.models.files import ModelError
from inference_service.models.gguf import read_model
from inference_service.models.vocabulary import TokenType, Vocabulary

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_COPIED = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "generation_config.json")
"""The tokenizer's files in an engine directory. Its config.json is the engine's, not the model's."""
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def tokenizer_files(model: Path) -> dict[str, bytes]:
    """The files of a model's tokenizer, content by name; `tokenizer.json` is always among them.

    Args:
        model: a GGUF file, or an engine directory.

    Raises:
        ModelError: the model cannot be read, or its tokenizer is of a kind that is not supported.

    """
    try:
        if model.is_dir():
            names = (*_COPIED, *_TEMPLATES)
            return {name: (model / name).read_bytes() for name in names if (model / name).is_file()}
    except OSError as error:
        raise ModelError(f"The tokenizer of {model} cannot be read ({error}): copy it again.") from error
    gguf = read_model(model)
    return {
        TOKENIZER_FILE: _library(gguf.vocabulary).to_str().encode(),
        CONFIG_FILE: orjson.dumps(_config(gguf.vocabulary, gguf.chat_template)),
    }


def _config(words: Vocabulary, chat_template: str | None) -> dict[str, object]:
    document: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos(words),
        "eos_token": words.text_of(words.eos_id) or None,
        "bos_token": words.text_of(words.bos_id) or None,
        "chat_template": chat_template,
    }
    return {name: value for name, value in document.items() if value is not None}


def _library(words: Vocabulary) -> LibraryTokenizer:
    library = _byte_level(words) if words.model == "gpt2" else _sentence_piece(words)
    # The longest first, as llama.cpp looks for them; the library keeps this order.
    added = [
        (text, kind)
        for text, kind in zip(words.tokens, words.types, strict=True)
        if text and kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    for text, kind in sorted(added, key=lambda token: len(token[0].encode()), reverse=True):
        token = AddedToken(text, special=kind == TokenType.CONTROL, normalized=False)
        library.add_special_tokens([token]) if token.special else library.add_tokens([token])
    if adds_bos(words) and words.bos_id is not None:
        bos = words.text_of(words.bos_id)
        library.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, words.bos_id)]
        )
    return library


def _byte_level(words: Vocabulary) -> LibraryTokenizer:
    vocabulary = _ids(words)
    split = splitter(words)
    library = LibraryTokenizer(
        models.BPE(vocab=vocabulary, merges=byte_level_merges(words), ignore_merges=split.ignore_merges)
    )
    library.pre_tokenizer = split.pre_tokenizer
    library.decoder = decoders.ByteLevel()
    return library


def _sentence_piece(words: Vocabulary) -> LibraryTokenizer:
    library = LibraryTokenizer(
        models.BPE(vocab=_ids(words), merges=scored_merges(words), byte_fallback=True, fuse_unk=False)
    )
    has_prefix = words.add_space_prefix is not False
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if has_prefix else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    library.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return library


def _ids(words: Vocabulary) -> dict[str, int]:
    return {text: index for index, text in enumerate(words.tokens)}
