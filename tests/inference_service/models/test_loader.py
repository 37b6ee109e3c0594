from __future__ import annotations

import time
from pathlib import Path

import pytest

from inference_service.models.files import ModelError
from inference_service.models.loader import LoadedModel, ModelFile, load
from inference_service.prompt.conversation import ChatTurn
from lodestream_common.errors import OperatorError
from tests.inference_service.models.tiny_llama import CHAT_TEMPLATE, byte_level_vocabulary, write_tiny_llama


def tiny(path: Path, **metadata: str) -> ModelFile:
    return ModelFile("tiny", write_tiny_llama(path, byte_level_vocabulary("smollm"), **metadata), None)


def test_the_default_model_is_loaded(loaded_model: LoadedModel, model_file: ModelFile) -> None:
    assert (loaded_model.id, loaded_model.path) == (model_file.id, model_file.path)
    assert loaded_model.context_length == 8192
    assert loaded_model.chat_template is not None


def test_loading_reads_no_tensors_and_creates_no_arrays(model_file: ModelFile) -> None:
    start = time.monotonic()
    load(model_file)

    assert time.monotonic() - start < 5


def test_a_template_gets_the_special_tokens(tmp_path: Path) -> None:
    """The tiny template writes `bos_token` itself."""
    model = load(tiny(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE))

    assert model.chat_template is not None
    assert model.chat_template.render([ChatTurn("user", "hi")])[:2] == [0, 1]


def test_a_model_without_a_template_refuses_conversations(tmp_path: Path) -> None:
    assert load(tiny(tmp_path / "tiny.gguf")).chat_template is None


def test_an_invalid_template_is_an_operator_error(tmp_path: Path) -> None:
    file = tiny(tmp_path / "tiny.gguf", chat_template="{{ bos_token }}\n{% for %}")

    with pytest.raises(
        ModelError, match=r"The model tiny has a chat template that is not valid Jinja \(line 2: "
    ) as error:
        load(file)
    assert isinstance(error.value, OperatorError)
    assert "\n" not in str(error.value)
