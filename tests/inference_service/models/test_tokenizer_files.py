"""The written files give the library's own loader the ids that the service uses."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer as LibraryTokenizer

from inference_service.models.bpe import build_tokenizer
from inference_service.models.gguf import read_model
from inference_service.models.tokenizer_files import CONFIG_FILE, TOKENIZER_FILE, tokenizer_files
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.models.test_tokenizers import VOCABULARIES
from tests.inference_service.models.texts import CORPUS, texts
from tests.inference_service.models.tiny_llama import CHAT_TEMPLATE, write_tiny_llama


@pytest.fixture(scope="module", params=VOCABULARIES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, LibraryTokenizer]:
    """Our tokenizer, and the library's with the written file."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path, VOCABULARIES[request.param])
    written = LibraryTokenizer.from_buffer(tokenizer_files(path)[TOKENIZER_FILE])
    return build_tokenizer(read_model(path).vocabulary), written


def test_ids_are_those_of_the_service(both: tuple[Tokenizer, LibraryTokenizer]) -> None:
    ours, written = both

    for text in CORPUS:
        assert written.encode(text).ids == ours.encode_prompt(text, parse_special=True), text


@settings(max_examples=150, deadline=None)
@given(text=texts())
def test_ids_of_random_texts_are_those_of_the_service(
    both: tuple[Tokenizer, LibraryTokenizer], text: str
) -> None:
    ours, written = both

    assert written.encode(text).ids == ours.encode_prompt(text, parse_special=True)


def test_ids_decode_to_the_text(both: tuple[Tokenizer, LibraryTokenizer]) -> None:
    _, written = both

    assert written.decode(written.encode("Größe, naïve 😀\n x").ids) == "Größe, naïve 😀\n x"


def test_the_config_has_the_template_and_the_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, VOCABULARIES["llama-bpe"], chat_template=CHAT_TEMPLATE)

    config = orjson.loads(tokenizer_files(path)[CONFIG_FILE])

    assert config["chat_template"] == CHAT_TEMPLATE
    assert config["eos_token"] == "<|im_end|>"
