"""What all tests share: the small model, fetched once into the ordinary cache."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_service.config import cache_home
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models import catalog
from inference_service.models.errors import ModelError
from inference_service.models.loader import LoadedModel, load
from inference_service.models.store import ModelFile, resolve
from tests.support import llama31
from tests.support.tensorrt import double_on_path

# A shell starts background jobs with SIGINT ignored, and processes pass that on to those they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_file() -> ModelFile:
    """The small model's verified file."""
    return resolve(catalog.SMALL_ID, cache_home(), show_progress=True)


@pytest.fixture(scope="session")
def default_model_file() -> ModelFile:
    """The verified file of the model that is served by default, 491 MB; only few tests need it."""
    try:
        return resolve(catalog.DEFAULT_ID, cache_home(), show_progress=True)
    except ModelError as error:
        pytest.skip(f"the default model cannot be had: {error}")


@pytest.fixture(scope="session")
def loaded_model(model_file: ModelFile) -> LoadedModel:
    """The small model's metadata, tokenizer and chat template."""
    return load(model_file)


@pytest.fixture(scope="session")
def tokenizer(loaded_model: LoadedModel) -> Tokenizer:
    """The small model's tokenizer."""
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
