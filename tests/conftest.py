"""What every room's tests share: the served default model, fetched once into the ordinary cache."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_service.config import cache_home
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models.loader import LoadedModel, load
from inference_service.models.store import ModelFile, resolve
from tests.support import llama31
from tests.support.tensorrt import double_on_path

# A shell starts background jobs with SIGINT ignored, and processes pass that on to those they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_file() -> ModelFile:
    """The default model's verified file."""
    return resolve("smollm2-135m-instruct", cache_home(), show_progress=True)


@pytest.fixture(scope="session")
def loaded_model(model_file: ModelFile) -> LoadedModel:
    """The default model's metadata, tokenizer and chat template."""
    return load(model_file)


@pytest.fixture(scope="session")
def tokenizer(loaded_model: LoadedModel) -> Tokenizer:
    """The default model's tokenizer."""
    return loaded_model.tokenizer


@pytest.fixture(scope="session")
def llama31_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tokenizer files of Llama 3.1, its vocabulary fetched once like the model."""
    directory = tmp_path_factory.mktemp("llama31")
    llama31.write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def double() -> Iterator[Any]:
    """The double of TensorRT-LLM, as whoever imports `tensorrt_llm` gets it."""
    with double_on_path() as package:
        yield package
