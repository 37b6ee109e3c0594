"""Fixtures of all tests: the small model, downloaded once into the usual cache."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from inference_service.config import cache_home
from inference_service.models import catalog
from inference_service.models.files import ModelError
from inference_service.models.loader import LoadedModel, ModelFile, load, resolve
from inference_service.prompt.tokenizer import Tokenizer
from tests.support import llama31
from tests.support.tensorrt import double_on_path

# A shell starts background jobs with SIGINT ignored, and processes pass that on to those they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Services keep receipts there by default, and tests must not write into the home of whoever runs them.
_STATE = tempfile.TemporaryDirectory(prefix="lodestream-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

_SERVERS = frozenset(
    {
        "tests.support.processes",
        "tests.support.service",
        "tests.support.smg",
        "tests.support.transports",
        "tests.transports.metered",
    }
)
_FIXTURES = frozenset({"model_file", "default_model_file", "llama31_files"})


_SLOW = frozenset({"attacks", "benchmarks", "building"})
"""The directories whose tests all have the marker `slow`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a model file or a server with one, and tests in slow directories."""
    for item in items:
        if isinstance(item, pytest.Function) and _needs_a_model(item):
            item.add_marker("model")
        if item.path.parent.name in _SLOW:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the process: all modules and all tests."""
    gc.collect()
    gc.freeze()


def _needs_a_model(item: pytest.Function) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs
    if _FIXTURES & fixtures.keys():
        return True
    spaces = [vars(item.module), *(found[-1].func.__globals__ for found in fixtures.values() if found)]
    return any(_starts_servers(space) for space in spaces)


def _starts_servers(space: Mapping[str, Any]) -> bool:
    """Whether a module uses a function of a helper that starts servers."""
    return any(isinstance(value, FunctionType) and value.__module__ in _SERVERS for value in space.values())


@pytest.fixture(scope="session")
def model_file() -> ModelFile:
    """The small model's verified file."""
    return resolve(catalog.SMALL_ID, cache_home(), show_progress=True)


@pytest.fixture(scope="session")
def default_model_file() -> ModelFile:
    """The verified file of the default model, 491 MB, which few tests need."""
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
    """The double of TensorRT-LLM as the module `tensorrt_llm`."""
    with double_on_path() as package:
        yield package
