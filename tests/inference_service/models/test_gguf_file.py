from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.models import gguf
from inference_service.models.files import ModelError
from inference_service.models.gguf import read_header, read_model
from inference_service.models.loader import ModelFile
from tests.inference_service.models.tiny_llama import (
    CHAT_TEMPLATE,
    CONTROL,
    USER_DEFINED,
    byte_level_vocabulary,
    write_tiny_llama,
)

VOCABULARY = byte_level_vocabulary("smollm", extra={"<|tool|>": USER_DEFINED, "[x]": USER_DEFINED})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny.gguf"
    return write_tiny_llama(path, VOCABULARY, chat_template=CHAT_TEMPLATE)


def test_metadata_equals_that_of_the_gguf_library(tiny: Path) -> None:
    reader = GGUFReader(tiny)
    expected = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("GGUF.")}
    header = read_header(tiny)

    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in header.metadata.items()
    } == expected
    assert header.data_end == max(tensor.data_offset + tensor.n_bytes for tensor in reader.tensors)


def test_sizes_of_tensor_types_equal_those_of_the_gguf_library() -> None:
    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()} == gguf._BLOCKS
    assert gguf._DEFAULT_ALIGNMENT == GGUF_DEFAULT_ALIGNMENT


def test_the_default_model_is_read_completely(model_file: ModelFile) -> None:
    model = read_model(model_file.path)

    assert model.architecture == "llama"
    assert model.context_length == 8192
    assert model.vocabulary_size == 49152
    assert (model.vocabulary.bos_id, model.vocabulary.eos_id) == (1, 2)
    assert (model.vocabulary.model, model.vocabulary.pre) == ("gpt2", "smollm")
    assert read_header(model_file.path).data_end == model_file.path.stat().st_size


def test_all_end_tokens_are_known(model_file: ModelFile) -> None:
    """`<|endoftext|>` and `<|im_end|>` are end tokens by the file; `<reponame>` is one in llama.cpp."""
    assert read_model(model_file.path).vocabulary.end_ids == {0, 2, 4}


def test_a_turn_marker_is_a_control_token_even_if_the_file_says_otherwise(tiny: Path) -> None:
    vocabulary = read_model(tiny).vocabulary
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))

    assert types["<|tool|>"] == CONTROL
    assert types["[x]"] == USER_DEFINED


def test_a_chat_template_and_flags_are_read(tiny: Path, tmp_path: Path) -> None:
    flagged = write_tiny_llama(tmp_path / "flagged.gguf", VOCABULARY, ggml__add_bos_token=True)

    assert read_model(tiny).chat_template == CHAT_TEMPLATE
    assert read_model(tiny).vocabulary.add_bos is None
    assert read_model(flagged).vocabulary.add_bos is True
    assert read_model(flagged).chat_template is None


def test_the_error_for_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_bytes(b"PK\x03\x04 something else")

    with pytest.raises(ModelError, match=r"notes\.gguf is not a GGUF file: give --model a file"):
        read_model(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()

    with pytest.raises(ModelError, match="is not a GGUF file"):
        read_model(path)


def test_a_missing_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .* \(No such file or directory\)"):
        read_model(tmp_path / "gone.gguf")


def test_the_error_for_truncated_tensors_has_the_sizes(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[:-1])

    with pytest.raises(ModelError, match=f"is cut off: {len(content) - 1} of {len(content)} bytes are there"):
        read_model(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused_in_one_line(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = tiny.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    with pytest.raises(ModelError) as raised:
        read_model(path)
    assert "\n" not in str(raised.value)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any bytes give a model or a ModelError."""
    content = bytearray(tiny.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(4, 2000))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    path.write_bytes(content)

    with suppress(ModelError):
        assert read_model(path).vocabulary_size > 0


def written(path: Path, architecture: str, **fields: int) -> Path:
    writer = GGUFWriter(path, architecture)
    for key, value in fields.items():
        writer.add_uint32(key.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("gemma3", {}, "architecture 'gemma3'; served are: llama, qwen2"),
        ("llama", {"split__count": 3}, "one part of a split model: merge the parts"),
        ("llama", {}, "does not say its context length"),
        ("llama", {"llama__context_length": 64}, "has no tokenizer in it"),
        ("llama", {"llama__context_length": 64, "tokenizer__ggml__tokens": 3}, "has no tokenizer"),
    ],
)
def test_the_error_for_an_unsupported_model_has_the_reason(
    architecture: str, fields: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read_model(written(tmp_path / "model.gguf", architecture, **fields))
