"""Numbers beyond the 32-bit floats of engines never cause a failure in the engine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from inference_service.request.options import LEAST_REPETITION
from tests.support.transports import running_transports
from tests.transports.conftest import ServeEngine
from tests.transports.feature_requests import chat, completion

SMALL = (5e-324, 1e-46, 1e-40, 1.2e-38, 1e-20, 1e-9, 1.1e-5)
PARAMETERS = (
    "temperature",
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)
LARGE = (1e39, 10**39, -1e39, 1e308)
FAILURES = ("internal_error", "not_ready")


def small_requests() -> Iterator[dict[str, Any]]:
    """Requests for each parameter with each number, and for several parameters together."""
    for name, value in product(PARAMETERS, SMALL):
        yield completion(max_tokens=2, **{name: value})
    for value in SMALL:
        yield completion(max_tokens=2, **dict.fromkeys(PARAMETERS, value))
        yield completion(max_tokens=2, temperature=1.1e-5, repetition_penalty=value)
        yield completion(max_tokens=2, logit_bias={"30": 100, "31": value}, repetition_penalty=value)


@pytest.fixture(params=["llama_cpp", "simulated", "tensorrt_llm"])
def engine(request: pytest.FixtureRequest, serve_engine: ServeEngine) -> dict[str, Any]:
    """The settings for each engine."""
    if request.param == "tensorrt_llm":
        return serve_engine()
    return {"backend": request.param, "context_length": 512, "max_concurrency": 1}


async def test_numbers_beyond_32_bit_floats_do_not_fail_in_the_engine(engine: dict[str, Any]) -> None:
    async with running_transports(**engine) as transports:
        failed = [body for body in small_requests() if (await transports.by_rest(body)).error in FAILURES]

    assert failed == []


async def test_numbers_that_would_become_infinite_are_refused_by_name() -> None:
    async with running_transports() as transports:
        for name, value in product((*PARAMETERS, "top_k", "max_tokens", "seed"), LARGE):
            answer = await transports.by_rest({**completion(), name: value})
            assert (answer.error, answer.param) == ("invalid_value", name)


async def test_the_report_has_the_number_in_effect() -> None:
    """A penalty that would round to 0 becomes the smallest valid one; a temperature becomes 0."""
    small = chat(repetition_penalty=1e-46, temperature=1e-9, top_p=1e-46, validate_only=True)
    async with running_transports() as transports:
        answers = [await ask(small) for ask in transports.ways]

    for answer in answers:
        assert answer.parameters is not None
        assert answer.parameters["repetition_penalty"] == LEAST_REPETITION
        assert answer.parameters["temperature"] == answer.parameters["top_p"] == 0


async def test_a_repetition_penalty_of_zero_is_refused() -> None:
    async with running_transports() as transports:
        for ask in transports.ways:
            answer = await ask(chat(repetition_penalty=0.0))
            assert (answer.error, answer.param) == ("invalid_value", "repetition_penalty")
