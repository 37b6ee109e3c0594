"""Behaviour of a compiled engine over both transports, beside the tests for all engines."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from inference_client import InvalidRequestError
from tests.double.tensorrt_llm.answers import log_probability
from tests.double.tensorrt_llm.sampling_params import SamplingParams
from tests.support import llama31
from tests.support.health import Watcher
from tests.support.processes import server_process
from tests.support.service import MODEL_ID
from tests.support.tensorrt import DOUBLE, sampling_params_without
from tests.support.transports import Transports, grpc_request, running_transports
from tests.transports.conftest import ServeEngine

CHAT_PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {
    "model": MODEL_ID,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France? 😀"},
    ],
    "temperature": 0,
    "max_tokens": 100,
}


async def _wait_for(status: int, transports: Transports) -> float:
    """Seconds until the bridge's readiness has this HTTP status."""
    began = time.monotonic()
    while (await transports.http.get("/health/ready")).status_code != status:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_conversation_is_streamed_in_whole_characters_and_counted(serve_engine: ServeEngine) -> None:
    """The answer ends with a token without text, which is counted."""
    async with running_transports(**serve_engine(tps=200)) as transports:
        answer = await transports.by_stream(CHAT)

        assert answer == await transports.by_rest(CHAT) == await transports.by_grpc(CHAT)
        assert answer.text is not None
        assert answer.text.endswith("What is the capital of France? 😀assistant\n\n")
        assert answer.finish_reason == "stop"
        assert answer.token_ids is not None
        assert answer.usage == (29, len(answer.token_ids) + 1)


async def test_model_page_says_what_is_served(serve_engine: ServeEngine) -> None:
    async with running_transports(**serve_engine()) as transports:
        model = (await transports.http.get(f"/v1/models/{MODEL_ID}")).json()
        served = await transports.client.list_models()

    assert model["id"] == MODEL_ID
    assert (served[0].backend, served[0].vocabulary_size) == ("tensorrt_llm", llama31.VOCABULARY_SIZE)
    assert (served[0].max_concurrency, served[0].context_length) == (16, 8192)


async def test_a_parameter_that_the_library_lacks_is_refused_over_both_transports(
    serve_engine: ServeEngine, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library has no field that excludes the prompt from penalties."""
    monkeypatch.setattr(
        double, "SamplingParams", sampling_params_without(double.SamplingParams, "prompt_ignore_length")
    )
    body = {**CHAT, "presence_penalty": 0.5}
    async with running_transports(**serve_engine()) as transports:
        answer = await transports.by_grpc(body)

        assert (answer.error, answer.param) == ("unsupported_parameter", "presence_penalty")
        assert answer == await transports.by_rest(body) == await transports.by_stream(body)


async def test_log_probabilities_are_returned_over_both_transports(serve_engine: ServeEngine) -> None:
    """Every visible token has one; the end token has none on this engine."""
    message = grpc_request(CHAT)
    message.output.logprobs = True
    async with running_transports(**serve_engine()) as transports:
        choice = (await transports.client.generate_request(message)).choices[0]
        reply = (await transports.http.post(CHAT_PATH, json={**CHAT, "logprobs": True})).json()["choices"][0]

        expected = [log_probability(token_id, SamplingParams()) for token_id in choice.token_ids]
        assert [entry.logprob for entry in choice.logprobs] == expected
        content = reply["logprobs"]["content"]
        assert [entry["logprob"] for entry in content] == expected
        assert b"".join(bytes(entry["bytes"] or ()) for entry in content).decode() == choice.text
        assert not any(entry["top_logprobs"] for entry in content)


async def test_alternatives_are_refused_by_name(serve_engine: ServeEngine) -> None:
    message = grpc_request(CHAT)
    message.output.logprobs, message.output.top_logprobs = True, 2
    async with running_transports(**serve_engine()) as transports:
        with pytest.raises(InvalidRequestError) as refused:
            await transports.client.generate_request(message)

        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "output.top_logprobs")
        answer = await transports.by_rest({**CHAT, "logprobs": True, "top_logprobs": 2})
        assert (answer.error, answer.param) == ("unsupported_parameter", "top_logprobs")


async def test_forbidden_tokens_occur_over_neither_transport(serve_engine: ServeEngine) -> None:
    async with running_transports(**serve_engine()) as transports:
        usual = (await transports.by_rest(CHAT)).token_ids
        assert usual is not None
        forbidden = sorted(set(usual[3:6]))
        message = grpc_request(CHAT)
        message.sampling.logit_bias.update(dict.fromkeys(forbidden, -100.0))
        body = {**CHAT, "logit_bias": {str(token_id): -100 for token_id in forbidden}}

        choice = (await transports.client.generate_request(message)).choices[0]

        assert list(choice.token_ids) == [index for index in usual if index not in forbidden]
        assert (await transports.by_rest(body)).text == (await transports.by_stream(body)).text == choice.text


async def test_an_answer_with_a_schema_follows_it_over_both_transports(serve_engine: ServeEngine) -> None:
    """The double would prefer another text, which the grammar excludes."""
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}, "people": {"type": "integer", "minimum": 1000}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    scripted = {"messages": [{"role": "user", "content": '@say<<{"city": "Rome"}>>'}]}
    message = grpc_request({**CHAT, **scripted})
    message.constraint.json_schema = json.dumps(schema)
    named = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    body = {**CHAT, **scripted, "response_format": named}
    async with running_transports(**serve_engine()) as transports:
        choice = (await transports.client.generate_request(message)).choices[0]
        answers = [await transports.by_rest(body), await transports.by_stream(body)]

        assert choice.finish_reason.value == "stop"
        found = json.loads(choice.text)
        assert found["city"] == "Paris"
        assert found["people"] >= 1000
        assert [(answer.text, answer.finish_reason) for answer in answers] == [(choice.text, "stop")] * 2


@pytest.mark.parametrize(
    ("field", "members"),
    [
        ("_return_log_probs", {"logprobs": True}),
        ("embedding_bias", {"logit_bias": {"5": 1}}),
        ("guided_decoding", {"response_format": {"type": "json_object"}}),
    ],
)
async def test_an_option_that_the_library_lacks_is_refused_by_name(
    serve_engine: ServeEngine,
    double: Any,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    members: dict[str, Any],
) -> None:
    monkeypatch.setattr(double, "SamplingParams", sampling_params_without(double.SamplingParams, field))
    async with running_transports(**serve_engine()) as transports:
        answer = await transports.by_rest({**CHAT, **members})

        assert (answer.error, answer.param) == ("unsupported_parameter", next(iter(members)))


async def test_a_top_k_above_the_engine_s_limit_is_refused(serve_engine: ServeEngine) -> None:
    async with running_transports(**serve_engine()) as transports:
        answer = await transports.by_rest({**CHAT, "top_k": 1025})

        assert (answer.error, answer.param) == ("invalid_value", "top_k")
        assert (await transports.by_rest({**CHAT, "top_k": 1024})).error is None


async def test_a_dead_engine_is_reported_at_once_and_to_later_requests(serve_engine: ServeEngine) -> None:
    """Running streams end, too, although the engine does not end them."""
    async with running_transports(**serve_engine(tps=50)) as transports:
        watcher = Watcher(transports.service.channel)
        assert await watcher.serving()
        running = transports.service.generate_stub.GenerateStream(
            grpc_request({**CHAT, "ignore_eos": True, "max_tokens": 4000})
        )
        for _ in range(3):
            assert await running.read() is not grpc.aio.EOF

        with pytest.raises(grpc.aio.AioRpcError) as killed:
            await transports.service.generate_stub.Generate(
                grpc_request({"model": MODEL_ID, "prompt": "@sim(die_at=0)"})
            )
        died = time.monotonic()
        assert not await watcher.serving()
        seconds = time.monotonic() - died
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await _read_all(running)

        print(f"NOT_SERVING {seconds * 1e3:.0f} ms after the engine died")
        assert seconds < 5.0
        assert killed.value.code() is ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await _wait_for(503, transports) < 5
        for ask in (transports.by_grpc, transports.by_rest, transports.by_stream):
            assert (await ask(CHAT)).error == "not_ready"
        await watcher.leave()


async def test_a_thousand_disconnected_callers_leave_no_task_or_slot(serve_engine: ServeEngine) -> None:
    """They cancel over gRPC, at different moments of their streams."""
    async with running_transports(**serve_engine(prefill_tps=5_000, tps=200)) as transports:
        body = {**CHAT, "ignore_eos": True, "max_tokens": 4000}
        await transports.by_grpc({**CHAT, "max_tokens": 1})
        tasks = len(asyncio.all_tasks())

        async def leave_many(lane: int) -> None:
            for number in range(20):
                call = transports.service.generate_stub.GenerateStream(grpc_request(body))
                await call.read()
                await asyncio.sleep((lane * number % 13) / 100)
                call.cancel()

        await asyncio.gather(*(leave_many(lane) for lane in range(50)))
        stats = transports.service.loaded.backend.stats
        for _ in range(500):
            if not stats().running and not len(transports.service.server.calls):
                break
            await asyncio.sleep(0.01)

        assert (stats().running, stats().aborts_pending) == (0, 0)
        assert len(asyncio.all_tasks()) <= tasks
        assert (await transports.by_grpc(CHAT)).finish_reason == "stop"


async def test_process_ends_when_its_engine_has_died(
    serve_engine: ServeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lodestream serve --engine DIR` exits with status 1, which a supervisor sees."""
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    engine = serve_engine()["engine"]
    async with (
        server_process("serve", tmp_path, grpc_address="127.0.0.1:0", engine=engine) as service,
        server_process(
            "bridge", tmp_path, grpc_address=service.address, http_address="127.0.0.1:0"
        ) as bridge,
        httpx.AsyncClient(base_url=f"http://{bridge.address}", timeout=30) as http,
    ):
        answered = await http.post(CHAT_PATH, json=CHAT)
        assert answered.status_code == 200, answered.text
        killed = await http.post("/v1/completions", json={"model": MODEL_ID, "prompt": "@sim(die_at=0)"})
        assert (killed.status_code, killed.json()["error"]["code"]) == (503, "not_ready")

        assert await service.wait(30) == 1
