"""The other engines behind frontends; the tests of the frontends use the simulated one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb

from tests.support.calls import ask, first
from tests.support.frontends import frontend_channels, service_with_frontends
from tests.support.service import MODEL_ID
from tests.support.tensorrt import DOUBLE, SMALL_SIZE, make_engine, write_small_tokenizer

pytestmark = pytest.mark.slow


async def test_the_embedded_engine_answers_through_every_frontend(tmp_path: Path) -> None:
    settings = {"backend": "llama_cpp", "max_concurrency": 2, "context_length": 512}
    async with (
        service_with_frontends(tmp_path, **settings) as service,
        frontend_channels(service) as frontends,
    ):
        answers = [
            await asyncio.gather(
                frontend.generate_stub.Generate(ask("The sky is", max_tokens=8)),
                frontend.generate_stub.Generate(constrained()),
            )
            for frontend in frontends
        ]
        stream = frontends[0].generate_stub.GenerateStream(ask("Once upon", ignore_eos=True, max_tokens=400))
        await first(stream, 2)
        stream.cancel()
        await service.until("lodestream_requests_running", 0)

    texts = [[answer.choices[0].text for answer in pair] for pair in answers]
    assert texts[0] == texts[1]
    assert texts[0][0]
    assert texts[0][1] in ("yes", "no")


async def test_a_compiled_engine_answers_through_every_frontend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    (tokenizer := tmp_path / "tokenizer").mkdir()
    write_small_tokenizer(tokenizer)
    engine = make_engine(tmp_path / MODEL_ID, tokenizer, vocab_size=SMALL_SIZE)
    settings = {"backend": "tensorrt_llm", "engine": engine, "model": None}
    async with (
        service_with_frontends(tmp_path, **settings) as service,
        frontend_channels(service) as frontends,
    ):
        answers = [
            await frontend.generate_stub.Generate(ask("ab a b", max_tokens=12)) for frontend in frontends
        ]

    assert answers[0].choices == answers[1].choices
    assert answers[0].usage.completion_tokens > 0


def constrained() -> generate_pb.GenerateRequest:
    """A request whose answer is one of two words."""
    request = ask("Is the sky blue?")
    request.constraint.regex = "yes|no"
    return request
