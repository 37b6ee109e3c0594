"""Runs the contract of all backends on the installed TensorRT-LLM. pytest runs this file by its name.

The engine's directory is in LODESTREAM_SMOKE_ENGINE.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from inference_service.backends.base import Backend
from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend
from inference_service.backends.types import BackendDescription
from inference_service.models.engine_directory import read_engine_model
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.backends.contract import CONTEXT_LENGTH, BackendContract, FreshBackend
from tests.inference_service.backends.contract_options import OptionsContract

ENGINE = "LODESTREAM_SMOKE_ENGINE"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_engine_model(_engine()).tokenizer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tokenizer: Tokenizer) -> AsyncIterator[tuple[Backend, BackendDescription]]:
    backend = _backend(tokenizer)
    yield backend, await backend.start()
    await backend.close()


@pytest.fixture(scope="module")
def backend(started: tuple[Backend, BackendDescription]) -> Backend:
    return started[0]


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_backend(tokenizer: Tokenizer) -> AsyncIterator[FreshBackend]:
    made: list[Backend] = []

    def make() -> Backend:
        made.append(_backend(tokenizer))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


class TestContract(BackendContract):
    """The contract of every backend."""


class TestOptions(OptionsContract):
    """The contract of the options that the backend does not refuse."""

    @pytest.fixture
    def refused(self, started: tuple[Backend, BackendDescription]) -> frozenset[str]:
        return started[1].refused


def _engine() -> Path:
    return Path(os.environ[ENGINE])


def _backend(tokenizer: Tokenizer) -> Backend:
    return TensorRtLlmBackend(_engine(), tokenizer, context_length=CONTEXT_LENGTH, max_concurrency=4)
