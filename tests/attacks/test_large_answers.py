"""Whole answers that are larger than gRPC's usual limit of 4 MiB.

Before, a legal request (2 choices of 4,096 tokens with 20 alternatives each) was computed to its end and then
failed with a 500: the answer exceeded the message limit of the bridge's client. Callers of the service met
the same limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from inference_client import Client, InvalidRequestError
from inference_service.rpc import services
from tests.support.comparable_answer import check_equal
from tests.support.messages import grpc_request
from tests.support.service import MODEL_ID, running_service
from tests.support.transports import Transports, running_transports

GRPC_DEFAULT_LIMIT = 4 * 1024 * 1024
LARGEST: dict[str, Any] = {
    "model": MODEL_ID,
    "prompt": "Hello",
    "n": 2,
    "max_tokens": 4096,
    "logprobs": 20,
    "ignore_eos": True,
    "seed": 1,
    "temperature": 0,
}


async def test_the_largest_legal_answer_arrives_over_both_transports() -> None:
    async with running_transports() as transports:
        answers = [await ask(LARGEST) for ask in transports.ways]
        size = await _bytes_over_rest(transports)

    assert size > GRPC_DEFAULT_LIMIT
    for answer in answers:
        assert answer.usage is not None, answer.message
        assert answer.usage[1] == 8192
        check_equal(answer, answers[0])


async def _bytes_over_rest(transports: Transports) -> int:
    reply = await transports.http.post("/v1/completions", json=LARGEST, timeout=100)
    assert reply.status_code == 200, reply.text[:500]
    return len(reply.content)


async def test_the_largest_legal_answer_arrives_at_a_blocking_client() -> None:
    async with running_service() as service:

        def ask() -> int:
            with Client(service.address) as client:
                return client.generate_request(grpc_request(LARGEST), timeout=100).usage.completion_tokens

        assert await asyncio.to_thread(ask) == 8192


async def test_an_answer_too_large_for_one_message_is_refused_before_it_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the whole answer over gRPC is refused; the stream and the REST reply arrive."""
    monkeypatch.setattr(services, "MAX_ANSWER_BYTES", GRPC_DEFAULT_LIMIT)
    async with running_transports() as transports:
        with pytest.raises(InvalidRequestError) as refused:
            await transports.client.generate_request(grpc_request(LARGEST))
        streamed, over_rest = await transports.by_grpc_stream(LARGEST), await transports.by_rest(LARGEST)

    assert [violation.field for violation in refused.value.violations] == ["stopping.max_tokens"]
    assert "in one message it may have 4194304. Ask for a stream." in str(refused.value)
    assert streamed.usage is not None
    assert over_rest.usage is not None
