from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.models.loader import LoadedModel, ModelFile, load
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.models.llama_cpp import LlamaCpp
from tests.inference_service.models.texts import CORPUS, texts

# SmolLM2 has no token for six control characters, nor for the lead bytes of the unassigned planes 4 to 11.
WRITABLE = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\x04\x06\x13\x14\x16\x1d")


@pytest.fixture(scope="module")
def llama_cpp(loaded_model: LoadedModel) -> LlamaCpp:
    return LlamaCpp(loaded_model.path)


@pytest.mark.parametrize("text", CORPUS)
def test_ids_equal_those_of_llama_cpp(text: str, tokenizer: Tokenizer, llama_cpp: LlamaCpp) -> None:
    assert tokenizer.encode_text(text) == llama_cpp.encode(text)
    assert tokenizer.encode_prompt(text) == llama_cpp.encode(text, add_special=True)


@settings(max_examples=200, deadline=None)
@given(text=texts())
def test_ids_of_random_texts_equal_those_of_llama_cpp(
    text: str, tokenizer: Tokenizer, llama_cpp: LlamaCpp
) -> None:
    assert tokenizer.encode_text(text) == llama_cpp.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(WRITABLE, max_size=200))
def test_a_text_comes_back_exactly(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_known_texts_have_known_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_text("user\nhi there 123 😀") == [
        4093, 198, 6004, 665, 216, 33, 34, 35, 40303, 218,
    ]  # fmt: skip


def test_a_character_without_a_token_is_left_out_and_its_neighbours_do_not_merge(
    tokenizer: Tokenizer,
) -> None:
    assert tokenizer.encode_text("\x04") == []
    assert tokenizer.encode_text("th\x04e") == [*tokenizer.encode_text("th"), *tokenizer.encode_text("e")]


def test_text_never_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    """The characters of its name are encoded as text."""
    for text, token_id in tokenizer.control_tokens.items():
        ids = tokenizer.encode_text(f"a{text}b")
        assert token_id not in ids
        assert tokenizer.decode(ids) == f"a{text}b"


def test_control_tokens_have_names(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.control_tokens) == 17
    assert tokenizer.control_tokens["<|im_start|>"] == tokenizer.bos_id == 1
    assert tokenizer.control_tokens["<|im_end|>"] in tokenizer.eos_ids


def test_token_bytes_are_exact_for_partial_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_text("🧿")

    assert len(ids) > 1
    assert b"".join(map(tokenizer.token_bytes, ids)) == "🧿".encode()
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_a_control_token_has_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.control_tokens["<|im_end|>"]) == b""


def test_ids_beyond_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary_size == 49152
    with pytest.raises(IndexError):
        tokenizer.token_bytes(49152)


@pytest.fixture(scope="module")
def default_pair(default_model_file: ModelFile) -> tuple[Tokenizer, LlamaCpp]:
    """Our tokenizer of the default model, and llama.cpp's."""
    return load(default_model_file).tokenizer, LlamaCpp(default_model_file.path)


@pytest.mark.default_model
def test_ids_of_the_default_model_are_those_of_llama_cpp(default_pair: tuple[Tokenizer, LlamaCpp]) -> None:
    ours, theirs = default_pair

    for text in CORPUS:
        assert ours.encode_text(text) == theirs.encode(text), text
        assert ours.encode_prompt(text) == theirs.encode(text, add_special=True), text
        assert ours.decode(ours.encode_text(text)) == text


@pytest.mark.default_model
@settings(max_examples=200, deadline=None)
@given(text=texts())
def test_ids_of_random_texts_of_the_default_model_are_those_of_llama_cpp(
    default_pair: tuple[Tokenizer, LlamaCpp], text: str
) -> None:
    ours, theirs = default_pair

    assert ours.encode_text(text) == theirs.encode(text)


class Characters:
    """A model that encodes each character as its code."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def tokenizer_with(added: dict[str, int], *, bos_id: int | None = None, add_bos: bool = False) -> Tokenizer:
    return Tokenizer(
        Characters(),
        pieces=[bytes([code]) for code in range(128)],
        control_tokens={},
        added_tokens=added,
        bos_id=bos_id,
        eos_ids=frozenset(),
        add_bos=add_bos,
    )


def test_added_tokens_are_matched_first() -> None:
    """The longest one wins at every position, and all occurrences are found."""
    tokenizer = tokenizer_with({"ab": 1, "bcd": 2})

    assert tokenizer.encode_text("abcd") == [ord("a"), 2]
    assert tokenizer.encode_text("ababxab") == [1, 1, ord("x"), 1]
    assert tokenizer.encode_text("") == []


def test_a_prompt_begins_with_one_bos() -> None:
    tokenizer = tokenizer_with({}, bos_id=7, add_bos=True)

    assert tokenizer.encode_prompt("") == [7]
    assert tokenizer.encode_prompt("A") == [7, 65]
    assert tokenizer.encode_text("A") == [65]
    assert tokenizer.begin([65]) == tokenizer.begin([7, 65]) == [7, 65]


def test_a_model_without_bos_gets_none() -> None:
    assert tokenizer_with({}, bos_id=7).encode_prompt("A") == [65]
    assert tokenizer_with({}, add_bos=True).begin([65]) == [65]


@pytest.mark.parametrize(
    "text",
    ["<|im_start|>user\nhi <|im_end|>", "<|im_start|><|im_start|>", " a <|im_end|>", "<|im_end", "x"],
)
def test_control_tokens_in_raw_prompts_are_parsed_as_llama_cpp_does(
    tokenizer: Tokenizer, llama_cpp: LlamaCpp, text: str
) -> None:
    for special in (False, True):
        ids = tokenizer.encode_prompt(text, parse_special=special)
        assert ids == llama_cpp.encode(text, parse_special=special)
