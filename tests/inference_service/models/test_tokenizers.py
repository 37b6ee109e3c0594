"""Every kind of tokenizer gives the same ids as llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from inference_service.models.bpe import build_tokenizer
from inference_service.models.files import ModelError
from inference_service.models.gguf import read_model
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.models.llama_cpp import LlamaCpp
from tests.inference_service.models.texts import CORPUS, texts
from tests.inference_service.models.tiny_llama import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    TinyVocabulary,
    byte_level_vocabulary,
    sentence_piece_vocabulary,
    write_tiny_llama,
)

EXTRA = {"<think>": USER_DEFINED, "  x  ": USER_DEFINED, "Ġunmergeable": NORMAL, "Ċwhole": NORMAL}

VOCABULARIES = {
    **{pre: byte_level_vocabulary(pre, extra=EXTRA) for pre in ("smollm", "gpt-2", "llama-bpe", "qwen2")},
    "sentencepiece": sentence_piece_vocabulary(extra={"<think>": USER_DEFINED, "  x  ": USER_DEFINED}),
}


@pytest.fixture(scope="module", params=VOCABULARIES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, LlamaCpp]:
    """Our tokenizer and llama.cpp's, of one model."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path, VOCABULARIES[request.param])
    return build_tokenizer(read_model(path).vocabulary), LlamaCpp(path)


def test_ids_equal_those_of_llama_cpp(both: tuple[Tokenizer, LlamaCpp]) -> None:
    ours, theirs = both

    for text in [*CORPUS, "an unmergeable b\nwhole unmergeable"]:
        assert ours.encode_text(text) == theirs.encode(text), text


@settings(max_examples=150, deadline=None)
@given(text=texts())
def test_ids_of_random_texts_equal_those_of_llama_cpp(both: tuple[Tokenizer, LlamaCpp], text: str) -> None:
    ours, theirs = both

    assert ours.encode_text(text) == theirs.encode(text)


def test_a_prompt_begins_with_bos_where_llama_cpp_has_it(both: tuple[Tokenizer, LlamaCpp]) -> None:
    ours, theirs = both

    assert ours.encode_prompt("hello there") == theirs.encode("hello there", add_special=True)


@settings(max_examples=100, deadline=None)
@given(text=texts())
def test_texts_never_become_control_tokens_and_decode_exactly(
    both: tuple[Tokenizer, LlamaCpp], text: str
) -> None:
    ours, _ = both
    ids = ours.encode_text(text)

    assert not set(ids) & set(ours.control_tokens.values())
    assert without_spaces(ours.decode(ids)) == without_spaces(text)


def without_spaces(text: str) -> str:
    """SentencePiece puts spaces of its own between added tokens and text, and writes them as U+2581."""
    return text.replace(" ", "").replace("▁", "")


def test_token_bytes_of_a_split_character_are_its_bytes(both: tuple[Tokenizer, LlamaCpp]) -> None:
    ours, _ = both
    ids = ours.encode_text("🧿")

    assert len(ids) > 1
    assert b"".join(map(ours.token_bytes, ids)).lstrip() == "🧿".encode()


def test_the_file_decides_whether_bos_is_added(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, VOCABULARIES["llama-bpe"], ggml__add_bos_token=False)
    ours, theirs = build_tokenizer(read_model(path).vocabulary), LlamaCpp(path)

    assert (
        ours.encode_prompt("hello") == theirs.encode("hello", add_special=True) == ours.encode_text("hello")
    )


def test_the_file_decides_about_the_space_prefix(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, VOCABULARIES["sentencepiece"], ggml__add_space_prefix=False)
    ours, theirs = build_tokenizer(read_model(path).vocabulary), LlamaCpp(path)

    for text in CORPUS:
        assert ours.encode_text(text) == theirs.encode(text)


def vocabulary_with(model: str, pre: str) -> TinyVocabulary:
    return TinyVocabulary(model, pre, ["<s>", "a"], [CONTROL, NORMAL], merges=["a a"])


@pytest.mark.parametrize(
    ("model", "pre", "message"),
    [
        ("bert", "", "of kind 'bert'; supported are: gpt2, llama"),
        ("gpt2", "tekken", "by the rule 'tekken'; supported are: codeshell, "),
        ("gpt2", "", "by the rule ''; supported are: "),
        ("llama", "", "lacks scores or byte tokens"),
    ],
)
def test_an_unsupported_tokenizer_is_named(model: str, pre: str, message: str, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", vocabulary_with(model, pre))

    with pytest.raises(ModelError, match=message):
        build_tokenizer(read_model(path).vocabulary)
