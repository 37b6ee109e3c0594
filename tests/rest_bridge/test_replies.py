from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference_client import Choice, Finished, FinishReason, Generation, StopCause, ToolCall, Usage
from rest_bridge.openai.response_schemas import ChatCompletion, Completion, Validation
from rest_bridge.openai.responses import CHAT_RESPONSE, COMPLETION_RESPONSE, ResponseShape, finish_reason
from tests.rest_bridge.rendering import ENDED, REPORT, TIMINGS, response_context, token

GENERATION = Generation(
    request_id="r",
    model="served-id",
    created=7,
    choices=(Choice(0, "Paris", (1, 2), 2, ENDED, (token("Pa"), token("ris"))),),
    usage=Usage(prompt_tokens=27, completion_tokens=8, cached_tokens=5),
    timings=TIMINGS,
    report=REPORT,
)


def rendered(reply: ResponseShape, generation: Generation = GENERATION, **flags: bool) -> dict[str, Any]:
    """The reply as the caller parses it."""
    found = reply.render(generation, response_context("my-alias", "store", **flags))
    arrived: dict[str, Any] = json.loads(json.dumps(found))
    return arrived


def test_a_chat_reply_has_every_field() -> None:
    """The reply validates against the documented schema, and has the caller's name of the model."""
    reply = rendered(CHAT_RESPONSE)

    ChatCompletion.model_validate(reply)
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "my-alias"
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert reply["usage"] == {
        "prompt_tokens": 27,
        "completion_tokens": 8,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 5},
    }


def test_cached_tokens_are_absent_if_the_engine_does_not_report_them() -> None:
    """They are absent in body and headers, and the reply still validates."""
    unknown = replace(GENERATION, usage=Usage(prompt_tokens=27, completion_tokens=8, cached_tokens=None))
    reply = rendered(CHAT_RESPONSE, unknown)

    ChatCompletion.model_validate(reply)
    assert reply["usage"] == {"prompt_tokens": 27, "completion_tokens": 8, "total_tokens": 35}
    assert "x-cached-tokens" not in response_context("m").headers(unknown)
    assert response_context("m").headers(GENERATION)["x-cached-tokens"] == "5"


def test_a_completion_reply_has_every_field() -> None:
    """It has the text and the requested token ids."""
    reply = rendered(COMPLETION_RESPONSE, token_ids=True)

    Completion.model_validate(reply)
    assert reply["id"].startswith("cmpl-")
    assert reply["choices"][0]["text"] == "Paris"
    assert reply["choices"][0]["token_ids"] == [1, 2]


def test_a_reply_has_the_metadata_of_the_request() -> None:
    """They are the region, the times, the parameters, and the end of each choice."""
    metadata = rendered(CHAT_RESPONSE)["pg_metadata"]

    assert metadata["region"] == "here"
    assert (metadata["queue_time_ms"], metadata["inference_time_ms"], metadata["model_load_time_ms"]) == (
        1,
        50,
        0,
    )
    assert metadata["latency_ms"] == 52
    assert metadata["timings"] == {
        "queue_ms": 1.4,
        "prefill_ms": 20.3,
        "decode_ms": 30.1,
        "bridge_ms": 0.0,
        "time_to_first_token_ms": 21.7,
    }
    assert metadata["batch_size"] == 3
    assert metadata["parameters"] == {
        "max_tokens": 150,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "seed": 5,
        "logit_bias": {"7": -100.0},
    }
    assert metadata["ignored_parameters"] == ["store", "top_p"]
    assert metadata["choices"] == [
        {
            "index": 0,
            "cause": "max_tokens",
            "stop_sequence": None,
            "stop_token_id": None,
            "filter_rule": None,
        }
    ]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Finished(0, FinishReason.STOP, StopCause.STOP_SEQUENCE, stop_sequence="\n"), "stop"),
        (Finished(0, FinishReason.STOP, StopCause.STOP_TOKEN, stop_token_id=9), "stop"),
        (Finished(0, FinishReason.LENGTH, StopCause.DEADLINE), "length"),
        (Finished(0, FinishReason.CONTENT_FILTER, StopCause.UNKNOWN, filter_rule="words"), "content_filter"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_each_choice_has_its_finish_reason_and_stop(ending: Finished, reason: str) -> None:
    """The choice has the reason, and the metadata have the matched stop."""
    reply = rendered(CHAT_RESPONSE, replace(GENERATION, choices=(Choice(0, "", (), 0, ending),)))
    (choice,) = reply["pg_metadata"]["choices"]

    assert reply["choices"][0]["finish_reason"] == reason
    assert choice == {
        "index": 0,
        "cause": ending.cause.value,
        "stop_sequence": ending.stop_sequence,
        "stop_token_id": ending.stop_token_id,
        "filter_rule": ending.filter_rule,
    }


def test_log_probabilities_are_included_on_request() -> None:
    """They have the format of the endpoint."""
    chat = rendered(CHAT_RESPONSE, logprobs=True)
    text = rendered(COMPLETION_RESPONSE, logprobs=True)

    ChatCompletion.model_validate(chat)
    Completion.model_validate(text)
    assert [entry["token"] for entry in chat["choices"][0]["logprobs"]["content"]] == ["Pa", "ris"]
    assert text["choices"][0]["logprobs"] == {
        "tokens": ["Pa", "ris"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Pa": -0.5}, {"ris": -0.5}],
        "text_offset": [0, 2],
    }


@pytest.mark.parametrize(("text", "content"), [("", None), ("Let me see.", "Let me see.")])
def test_tool_calls_are_in_the_message(text: str, content: str | None) -> None:
    """The text beside them is null if there is none."""
    ending = Finished(0, FinishReason.TOOL_CALLS, StopCause.END_OF_SEQUENCE)
    choice = Choice(0, text, (), 0, ending, (), (ToolCall("call_1", "f", "{}"), ToolCall("call_2", "g", "")))
    reply = rendered(CHAT_RESPONSE, replace(GENERATION, choices=(choice,)), tool_calls=True)

    ChatCompletion.model_validate(reply)
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
        ],
    }


def test_a_validation_reports_the_parameters_in_effect() -> None:
    """It has the prompt's length, the parameters and the queue, and no choice."""
    checked = replace(GENERATION, choices=(), usage=Usage(27, 0, 0))
    reply = CHAT_RESPONSE.validation(checked, response_context("my-alias", "store"))

    Validation.model_validate(reply)
    assert (reply["object"], reply["choices"]) == ("validation", [])
    assert reply["usage"]["prompt_tokens"] == 27
    assert reply["parameters"]["max_tokens"] == 150
    assert reply["queue_estimate_ms"] == 12.5
    assert reply["ignored_parameters"] == ["store", "top_p"]


def test_an_unknown_finish_reason_still_ends_the_choice() -> None:
    """A finish reason that is newer than the bridge becomes `stop`, which callers know."""
    assert finish_reason(FinishReason.UNKNOWN) == "stop"
    assert finish_reason(FinishReason.CONTENT_FILTER) == "content_filter"
