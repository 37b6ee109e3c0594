"""Features of requests beside plain text, from the caller to the service and back."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest
import structlog
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1.generate_service_pb2 import Choice

from tests.rest_bridge.bodies import CHAT, COMPLETIONS, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.rendering import payloads
from tests.support.scripted import (
    REPORT,
    Running,
    ScriptedService,
    answering,
    call_delta,
    delta,
    error_info,
    finished,
    logprob,
    refuse,
    script,
    started,
    summary,
    validated,
    whole_answer,
)

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _choices(text: str) -> list[dict[str, Any]]:
    return [choice for chunk in payloads(text.encode()) for choice in chunk["choices"]]


async def test_several_choices_stream_side_by_side(http: httpx.AsyncClient, service: ScriptedService) -> None:
    """Each has its role first and its own end; common metadata come once, at the end."""
    service.stream = script(
        started(),
        delta("a", 1),
        delta("b", 0),
        finished(1, pb.FINISH_REASON_LENGTH, pb.STOP_CAUSE_DEADLINE),
        delta("c", 0),
        finished(0, pb.FINISH_REASON_STOP, pb.STOP_CAUSE_STOP_SEQUENCE, stop_sequence="\n"),
        summary(REPORT),
    )
    body = chat(n=2, stream=True, stream_options={"include_usage": True})
    reply = await http.post(CHAT, json=body)
    found = _choices(reply.text)

    assert [c["index"] for c in found if c["delta"].get("role")] == [0, 1]
    for index, text, reason in ((0, "bc", "stop"), (1, "a", "length")):
        own = [choice for choice in found if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == text
        assert own[-1]["finish_reason"] == reason
    last = payloads(reply.content)[-1]
    assert last["usage"]["total_tokens"] == 5
    assert {e["index"]: (e["cause"], e["stop_sequence"]) for e in last["pg_metadata"]["choices"]} == {
        0: ("stop_sequence", "\n"),
        1: ("deadline", None),
    }


async def test_several_prompts_are_one_request(http: httpx.AsyncClient, running: Running) -> None:
    """The choices come in the order of the prompts."""
    whole = whole_answer()
    whole.choices.append(Choice(index=1, text="two", finished=finished(1).finished))
    running.service.answer = answering(whole)
    body = (await http.post(COMPLETIONS, json=completion(prompt=["x", "y"]))).json()

    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "Hello"), (1, "two")]
    assert MessageToDict(running.service.seen[0].request)["batch"] == {
        "prompts": [{"text": "x"}, {"text": "y"}]
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_arrive(
    http: httpx.AsyncClient, service: ScriptedService, stream: bool
) -> None:
    """Each token has one, whole and streamed, in the format of the endpoint."""
    tokens = [logprob("a", "ab"), logprob("b", "cd")]
    whole = whole_answer("ab")
    whole.choices[0].logprobs.extend(tokens)
    service.answer = answering(whole)
    deltas = [delta(t.token, ids=[t.token_id], logprobs=[t]) for t in tokens]
    service.stream = script(started(), *deltas, finished(), summary())
    reply = await http.post(CHAT, json=chat(logprobs=True, top_logprobs=2, stream=stream))
    legacy = await http.post(COMPLETIONS, json=completion(logprobs=2, stream=stream))

    choices = _choices(reply.text) if stream else reply.json()["choices"]
    content = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert [entry["token"] for entry in content] == ["a", "b"]
    assert [top["token"] for top in content[1]["top_logprobs"]] == ["c", "d"]
    choices = _choices(legacy.text) if stream else legacy.json()["choices"]
    logprobs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert [offset for one in logprobs for offset in one["text_offset"]] == [0, 1]
    assert [name for one in logprobs for name in one["tokens"]] == ["a", "b"]


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_arrive(http: httpx.AsyncClient, service: ScriptedService, stream: bool) -> None:
    """They arrive whole and in pieces."""
    whole = whole_answer("")
    whole.choices[0].tool_calls.add(id="call_1", name="f", arguments='{"a":1}')
    whole.choices[0].finished.reason = pb.FINISH_REASON_TOOL_CALLS
    service.answer = answering(whole)
    pieces = [
        call_delta(id="call_1", name="f"),
        call_delta(arguments='{"a":'),
        call_delta(arguments="1}"),
    ]
    ended = finished(0, pb.FINISH_REASON_TOOL_CALLS, pb.STOP_CAUSE_END_OF_SEQUENCE)
    service.stream = script(started(), *pieces, ended, summary())
    reply = await http.post(CHAT, json=chat(tools=[TOOL], stream=stream))

    choices = _choices(reply.text) if stream else reply.json()["choices"]
    turns = [choice["delta"] if stream else choice["message"] for choice in choices]
    calls = [call for turn in turns for call in turn.get("tool_calls", ())]
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert all(turn.get("content") is None for turn in turns)
    assert [call["id"] for call in calls if "id" in call] == ["call_1"]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a":1}'


async def test_a_filtered_prompt_is_an_empty_answer(
    http: httpx.AsyncClient, service: ScriptedService
) -> None:
    """It names the reason and the rule."""
    whole = whole_answer("")
    whole.choices[0].finished.CopyFrom(
        finished(
            0, pb.FINISH_REASON_CONTENT_FILTER, pb.STOP_CAUSE_CONTENT_FILTER, filter_rule="words"
        ).finished
    )
    service.answer = answering(whole)
    body = (await http.post(CHAT, json=chat())).json()

    assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == (
        "",
        "content_filter",
    )
    assert body["pg_metadata"]["choices"][0]["filter_rule"] == "words"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(validate_only=True, store=True)),
        (CHAT, chat(validate_only=True, stream=True, store=True)),
        (COMPLETIONS_STREAM, completion(validate_only=True, store=True)),
    ],
    ids=str,
)
async def test_a_validation_is_a_plain_reply(
    http: httpx.AsyncClient, running: Running, path: str, body: dict[str, Any]
) -> None:
    """This holds also for stream requests, since there is nothing to stream."""
    running.service.answer = answering(validated())
    reply = await http.post(path, json=body)
    body = reply.json()

    assert running.service.seen[0].request.validate_only
    assert (reply.status_code, body["object"], body["choices"]) == (200, "validation", [])
    assert body["usage"]["prompt_tokens"] == 3
    assert (body["parameters"]["max_tokens"], body["parameters"]["logit_bias"]) == (10, {"9": -100.0})
    assert body["queue_estimate_ms"] == 12.5
    assert body["ignored_parameters"][0] == "store"
    assert "x-queue-ms" not in reply.headers


async def test_a_reply_has_its_timings(http: httpx.AsyncClient, service: ScriptedService) -> None:
    """Headers have some, and the body all; the rest of the latency is the bridge's."""
    whole = whole_answer()
    whole.report.CopyFrom(REPORT)
    service.answer = answering(whole)
    reply = await http.post(CHAT, json=chat(store=True))
    metadata = reply.json()["pg_metadata"]

    assert (reply.headers["x-queue-ms"], reply.headers["x-prefill-ms"]) == ("1.0", "2.0")
    assert (reply.headers["x-decode-ms"], reply.headers["x-batch-size"]) == ("3.0", "11")
    assert reply.headers["x-cached-tokens"] == "1"
    assert float(reply.headers["x-bridge-ms"]) >= 0
    assert metadata["latency_ms"] >= metadata["queue_time_ms"] + metadata["inference_time_ms"]
    assert metadata["parameters"]["temperature"] == 0.1
    assert reply.headers["x-ignored-parameters"] == "store,field_99"
    assert metadata["ignored_parameters"] == ["store", "field 99"]


async def test_an_error_names_the_parameter_as_the_caller_wrote_it(
    http: httpx.AsyncClient, service: ScriptedService
) -> None:
    """This holds for plain requests and for streams before the first output."""

    async def fail(request: Any, context: Any) -> Any:
        field = "constraint.json_schema"
        wrong = error_details_pb2.BadRequest.FieldViolation(
            field=field, description="is no schema.", reason="INVALID_VALUE"
        )
        details = error_info("INVALID_VALUE"), error_details_pb2.BadRequest(field_violations=[wrong])
        await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, wrong.description, *details)

    async def fail_stream(request: Any, context: Any) -> Any:
        await fail(request, context)
        yield

    service.answer, service.stream = fail, fail_stream
    for stream in (False, True):
        error = (await http.post(CHAT, json=chat(guided_json={}, stream=stream))).json()["error"]
        assert (error["param"], error["message"]) == ("guided_json", "guided_json is no schema.")


async def test_probes_are_logged_for_debugging_only(http: httpx.AsyncClient) -> None:
    """Probes come every few seconds."""
    with structlog.testing.capture_logs() as logs:
        await http.get("/health/ready")
        await http.get("/v1/models")
        await http.get("/healthy")

    levels = {line["route"]: line["log_level"] for line in logs if line["event"] == "request"}
    assert levels == {"/health/ready": "debug", "/v1/models": "info", None: "info"}
