"""What every room's tests share: the served default model, fetched once into the ordinary cache."""

from __future__ import annotations

import pytest

from inference_service.config import cache_home
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models.loader import LoadedModel, load
from inference_service.models.store import ModelFile, resolve


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
