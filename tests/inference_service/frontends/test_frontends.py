"""Several frontends of one engine answer as one service does, and share its limits, quotas and receipts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb

from lodestream_common.keys import KeyFile, KeyLimits
from tests.support.calls import TIMEOUT_SECONDS, ask, collect, first, refusal
from tests.support.frontends import (
    FrontendChannel,
    ServiceWithFrontends,
    frontend_channels,
    service_with_frontends,
)
from tests.support.generations import ECHO_TOOL, TIME_TOOL, Generating, batch, both, spoken
from tests.support.service import Running, running_service

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
_module = pytest_asyncio.fixture(scope="module", loop_scope="module")

SLOTS, QUEUE = 4, 8
KEYS = {
    "plain": KeyLimits(requests_per_minute=0),
    "few": KeyLimits(requests_per_minute=3),
    "narrow": KeyLimits(requests_per_minute=0, max_concurrent=1),
    "short": KeyLimits(requests_per_minute=0, tokens_per_minute=40),
}
STALLED = "@sim(stall_at=2) hello"


class Keyed(Generating):
    """The stub of a frontend, whose calls carry a key."""

    def __init__(self, frontend: FrontendChannel, token: str) -> None:
        self._stub = frontend.generate_stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    @property
    def generate_stub(self) -> Any:
        return self

    def Generate(self, request: generate_pb.GenerateRequest, **options: Any) -> Any:  # noqa: N802
        return self._stub.Generate(request, **self._with_key(options))

    def GenerateStream(self, request: generate_pb.GenerateRequest, **options: Any) -> Any:  # noqa: N802
        return self._stub.GenerateStream(request, **self._with_key(options))

    def _with_key(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "metadata": (*self._metadata, *options.get("metadata", ()))}


class Frontends:
    """A service with two frontends, a connection to each, and the keys."""

    def __init__(
        self, service: ServiceWithFrontends, channels: Sequence[FrontendChannel], tokens: dict[str, str]
    ) -> None:
        self.service = service
        self.channels = channels
        self._tokens = tokens

    def of(self, key: str = "plain") -> list[Keyed]:
        """Both frontends, called with a key."""
        return [Keyed(frontend, self._tokens[key]) for frontend in self.channels]

    def metadata(self, key: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._tokens[key]}"),)

    async def is_free(self) -> None:
        """Wait until the engine has nothing to do."""
        await self.service.until("lodestream_requests_running", 0)


@_module
async def frontends(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Frontends]:
    home = tmp_path_factory.mktemp("frontends")
    file = KeyFile(home / "keys.json")
    tokens = {name: file.create(name, limits=limits)[1] for name, limits in KEYS.items()}
    settings = {"max_concurrency": SLOTS, "queue_limit": QUEUE, "stall_timeout": 600}
    async with (
        service_with_frontends(home, **settings) as service,
        frontend_channels(service) as channels,
    ):
        yield Frontends(service, channels, tokens)


@_module
async def alone() -> AsyncIterator[Running]:
    async with running_service(max_concurrency=SLOTS) as service:
        yield service


SCHEMA = pb.Constraint(json_schema='{"type": "object", "properties": {"a": {"enum": [1, 2]}}}')
REQUESTS = {
    "plain": ask("hello world", max_tokens=20),
    "stop sequence": ask("one two three four", stop=["two"]),
    "several choices": spoken("hello", output=pb.OutputOptions(n=3)),
    "log probabilities": spoken("hello", output=pb.OutputOptions(logprobs=True, top_logprobs=2)),
    "bias": ask("hello", sampling={"logit_bias": {5: 100.0}}, max_tokens=4),
    "schema": spoken("hello", constraint=SCHEMA),
    "regex": spoken("hello", constraint=pb.Constraint(regex="[ab]{3}c")),
    "tools": spoken(
        "call", ECHO_TOOL, TIME_TOOL, tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
    ),
    "batch": batch("one", [5, 6, 7]),
    "echo": ask("hello", max_tokens=3),
    "only validated": generate_pb.GenerateRequest(model=ask().model, prompt="hello", validate_only=True),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_each_frontend_answers_as_one_process_does(
    frontends: Frontends, alone: Running, name: str
) -> None:
    expected = await both(alone, REQUESTS[name])
    for frontend in frontends.of():
        answer = await both(frontend, REQUESTS[name])
        assert answer.choices == expected.choices
        assert answer.usage == expected.usage


@pytest.mark.parametrize(
    "request_",
    [
        ask("hello", max_tokens=100_000),
        spoken("hello", constraint=pb.Constraint(regex="(")),
        ask("@sim(fail_at=3) hello"),
    ],
    ids=["too long", "bad constraint", "failure in the engine"],
)
async def test_each_frontend_refuses_as_one_process_does(
    frontends: Frontends, alone: Running, request_: generate_pb.GenerateRequest
) -> None:
    expected = await refusal(alone.generate_stub.Generate(request_))
    for frontend in frontends.of():
        refused = await refusal(frontend.Generate(request_))
        assert (refused.code, refused.reason) == (expected.code, expected.reason)


async def test_a_caller_that_leaves_frees_the_engine(frontends: Frontends) -> None:
    for frontend in frontends.of() * 2:
        streams = [frontend.GenerateStream(ask(STALLED)) for _ in range(SLOTS)]
        for stream in streams:
            await first(stream, 2)
        assert await frontends.service.total("lodestream_requests_running") == SLOTS
        for stream in streams:
            stream.cancel()
        await frontends.is_free()


async def test_a_deadline_returns_the_answer_so_far(frontends: Frontends) -> None:
    for frontend in frontends.of():
        answer = await frontend.Generate(ask(STALLED), timeout=1.0)
        assert answer.choices[0].finished.cause == pb.STOP_CAUSE_DEADLINE
        assert answer.usage.completion_tokens == 2
    await frontends.is_free()


async def test_the_queue_is_that_of_all_frontends(frontends: Frontends) -> None:
    one, other = frontends.of()
    running = [frontend.GenerateStream(ask(STALLED)) for frontend in (one, other) * (SLOTS // 2)]
    for stream in running:
        await first(stream, 2)
    # Half of the places are for other keys.
    waiting = [frontend.GenerateStream(ask()) for frontend in (one, other) * (QUEUE // 4)]
    reads = [asyncio.create_task(collect(stream)) for stream in waiting]
    await frontends.service.until("lodestream_requests_waiting", len(waiting))

    for frontend in (one, other):
        refused = await refusal(frontend.Generate(ask()))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    for stream in running:
        stream.cancel()
    for read in reads:
        assert (await asyncio.wait_for(read, TIMEOUT_SECONDS))[-1].HasField("summary")
    await frontends.is_free()


async def test_quotas_of_keys_are_those_of_all_frontends(frontends: Frontends) -> None:
    one, other = frontends.of("few")
    for frontend in (one, other, one):
        await frontend.Generate(ask())
    assert (await refusal(other.Generate(ask()))).reason == "RATE_LIMIT_EXCEEDED"

    one, other = frontends.of("narrow")
    stream = one.GenerateStream(ask(STALLED))
    await first(stream, 2)
    assert "1 generations at once" in (await refusal(other.Generate(ask()))).message
    stream.cancel()
    await frontends.is_free()
    await other.Generate(ask())

    one, other = frontends.of("short")
    await one.Generate(ask("hello " * 30))
    assert "40 tokens a minute" in (await refusal(other.Generate(ask("hello " * 30)))).message


async def test_receipts_and_metrics_are_those_of_all_frontends(frontends: Frontends) -> None:
    before = await frontends.service.samples()
    ids = [f"frontend-{number}" for number in range(6)]
    for request_id, frontend in zip(ids, frontends.of() * 3, strict=True):
        await frontend.Generate(
            ask("a b c d e f g h", max_tokens=7), metadata=(("x-request-id", request_id),)
        )

    for channel, request_id in zip([*frontends.channels] * 3, reversed(ids), strict=True):
        found = await channel.usage_stub.GetUsage(
            usage_pb.GetUsageRequest(request_id=request_id), metadata=frontends.metadata("plain")
        )
        assert (found.receipt.request_id, found.receipt.completion_tokens) == (request_id, 7)
    after = await frontends.service.samples()
    name = ("lodestream_completion_tokens_total", frozenset({("model", ask().model)}))
    assert after[name] - before.get(name, 0) == 7 * len(ids)
