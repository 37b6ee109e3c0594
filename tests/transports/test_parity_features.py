"""Every feature over both transports, whole and streamed, on every engine: equal answers and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.answers import Answer, check_equal
from tests.support.transports import Transports, running_transports
from tests.transports.feature_requests import BAD, BAD_IN_REST_ONLY, EXPECTED_ANSWERS, GOOD, SCRIPTED, Body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["simulated", "llama_cpp", "tensorrt_llm"]
)
async def transports(request: pytest.FixtureRequest) -> AsyncIterator[Transports]:
    # One thread: two threads that wait for each other stop whenever another process takes a core.
    settings: dict[str, Any] = {"backend": request.param, "threads": 1, "max_concurrency": 8}
    if request.param == "tensorrt_llm":
        settings = request.getfixturevalue("serve_engine")()
    async with running_transports(**settings) as both:
        yield both


@pytest.mark.parametrize("name", GOOD)
async def test_features_are_the_same_over_both_transports(transports: Transports, name: str) -> None:
    """Texts, ids, calls with their ids, log probabilities, endings, usage and parameters in effect."""
    engine, body = transports.service.server.config.backend, GOOD[name]
    if engine == "llama_cpp" and name in SCRIPTED:
        pytest.skip("the output of a real model cannot be scripted")
    first, *others = [await ask(body) for ask in transports.ways]
    if engine == "tensorrt_llm" and _asks_for_alternatives(body):
        refused = ("unsupported_parameter", "unsupported_parameter")
        assert (first.error, others[0].error) == refused == (others[1].error, others[2].error)
        return

    assert first.error is None, first.message
    if name in EXPECTED_ANSWERS and engine != "llama_cpp":
        assert _summary(first) == EXPECTED_ANSWERS[name]
    for other in others:
        check_equal(first, other, tolerance=0.01 if engine == "llama_cpp" else 1e-12)


def _summary(answer: Answer) -> tuple[str, str, str, list[tuple[str, str]]]:
    choice = answer.choices[0]
    assert choice.ending is not None
    calls = [(name, arguments) for _, name, arguments in choice.tool_calls]
    return choice.text, choice.finish_reason, choice.ending[0], calls


def _asks_for_alternatives(body: Body) -> bool:
    return bool(body.get("top_logprobs") or ("prompt" in body and body.get("logprobs")))


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_are_refused_alike(transports: Transports, name: str) -> None:
    """Both transports name the same code, and the parameter by the name that it has there."""
    bad = BAD[name]
    over_grpc = [await ask(bad.body) for ask in transports.ways[:2]]
    over_rest = [await ask(bad.body) for ask in transports.ways[2:]]

    for answer in over_grpc:
        assert (answer.error, answer.param) == (bad.code, bad.param)
    for answer in over_rest:
        assert (answer.error, answer.param) == (bad.code, bad.rest_param or bad.param)
    for answer in (*over_grpc, *over_rest):
        assert bad.message in answer.message


@pytest.mark.parametrize("name", BAD_IN_REST_ONLY)
async def test_bad_requests_that_only_rest_can_express_are_refused(transports: Transports, name: str) -> None:
    bad = BAD_IN_REST_ONLY[name]
    for answer in [await ask(bad.body) for ask in transports.ways[2:]]:
        assert (answer.error, answer.param) == (bad.code, bad.param)
