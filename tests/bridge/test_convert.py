from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from inference_client import Choice, Finished, FinishReason, Generation, StopCause, Timings, Usage
from rest_bridge import convert
from rest_bridge.errors import ApiError
from rest_bridge.parse import parse_body
from rest_bridge.schemas.chat import ChatCompletion, ChatCompletionRequest
from rest_bridge.schemas.completions import Completion, CompletionRequest
from rest_bridge.schemas.fields import RequestModel
from tests.bridge.bodies import chat, completion

GENERATION = Generation(
    request_id="r",
    model="served-id",
    created=7,
    choices=(Choice(0, "Paris", (1, 2), 2, Finished(0, FinishReason.LENGTH, StopCause.MAX_TOKENS)),),
    usage=Usage(prompt_tokens=27, completion_tokens=8, cached_tokens=5),
    timings=Timings(queue_ms=1.4, prefill_ms=20.3, decode_ms=30.1, time_to_first_token_ms=21.7),
)


def sent(body: dict[str, Any]) -> dict[str, Any]:
    """What goes to the service for a body, field by field."""
    raw = json.dumps(body).encode()
    if "prompt" in body:
        message = convert.completion_request(parse_body(CompletionRequest, raw))
    else:
        message = convert.chat_request(parse_body(ChatCompletionRequest, raw))
    return MessageToDict(message, preserving_proto_field_name=True)


def test_only_what_the_caller_set_is_sent() -> None:
    """No default of the bridge reaches the service."""
    assert sent(chat()) == {"model": "m", "chat": {"messages": [{"role": "ROLE_USER", "content": "hi"}]}}
    assert sent(completion()) == {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize(
    ("schema", "body"), [(ChatCompletionRequest, chat()), (CompletionRequest, completion())]
)
def test_null_is_unset(schema: type[RequestModel], body: dict[str, Any]) -> None:
    """Every optional parameter may be null, as the API's own SDK sends them."""
    optional = [name for name, field in schema.model_fields.items() if not field.is_required()]

    assert sent({**body, **dict.fromkeys(optional)}) == sent(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 0.25),
        ("top_p", 0.0),
        ("top_k", -1),
        ("min_p", 0.0),
        ("frequency_penalty", -2.0),
        ("presence_penalty", 0.0),
        ("repetition_penalty", 1.1),
    ],
)
def test_zero_is_not_unset(name: str, value: float) -> None:
    """A knob that is set goes out as it is, zero like any other value."""
    assert sent(chat(**{name: value}))["sampling"] == {name: value}


def test_every_knob_arrives_in_its_place() -> None:
    """Seed, limits, stops and the user keep their values."""
    message = sent(
        completion(
            seed=-(2**63), max_tokens=5, stop=["a", "b"], stop_token_ids=[0, 7], ignore_eos=False, user="u"
        )
    )

    assert message["sampling"] == {"seed": str(-(2**63))}
    assert message["stopping"] == {
        "max_tokens": 5,
        "stop": ["a", "b"],
        "stop_token_ids": [0, 7],
        "ignore_eos": False,
    }
    assert message["user"] == "u"


@pytest.mark.parametrize("given", [{"max_tokens": 9}, {"max_completion_tokens": 9}])
def test_both_names_of_the_limit_are_one(given: dict[str, int]) -> None:
    """`max_completion_tokens` is `max_tokens`; both may be given if they agree."""
    assert sent(chat(**given))["stopping"] == {"max_tokens": 9}
    assert sent(chat(max_tokens=9, max_completion_tokens=9))["stopping"] == {"max_tokens": 9}


def test_two_limits_that_differ_are_refused() -> None:
    """The caller has to decide."""
    with pytest.raises(ApiError) as caught:
        sent(chat(max_tokens=9, max_completion_tokens=8))

    assert (caught.value.status, caught.value.param) == (400, "max_completion_tokens")


@pytest.mark.parametrize(
    ("body", "param", "bounds"),
    [
        (chat(max_tokens=2**31), "max_tokens", "[1, 4096]"),
        (chat(max_completion_tokens=-(2**40)), "max_tokens", "[1, 4096]"),
        (chat(top_k=2**31), "top_k", "[-1, 2147483647]"),
        (chat(seed=2**63), "seed", "[-9223372036854775808, 9223372036854775807]"),
        (chat(seed=-(10**100)), "seed", "[-9223372036854775808, 9223372036854775807]"),
        (chat(stop_token_ids=[0, -1]), "stop_token_ids[1]", "[0, 4294967295]"),
        (completion(prompt=[1, 2**32]), "prompt[1]", "[0, 4294967295]"),
    ],
    ids=str,
)
def test_a_number_of_too_many_bits_is_refused(body: dict[str, Any], param: str, bounds: str) -> None:
    """What fits no field of the protocol is a 400 that names the parameter and its range."""
    with pytest.raises(ApiError) as caught:
        sent(body)

    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.endswith(f"it must be in {bounds}.")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("x", {"prompt": "x"}),
        (["x"], {"prompt": "x"}),
        ("", {"prompt": ""}),
        ([1, 2], {"token_ids": {"ids": [1, 2]}}),
        ([[1, 2]], {"token_ids": {"ids": [1, 2]}}),
    ],
)
def test_a_prompt_comes_in_four_forms(prompt: Any, expected: dict[str, Any]) -> None:
    """Text or ids, each also as the only element of an array."""
    assert sent(completion(prompt=prompt)) == {"model": "m", **expected}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "system", "content": "s"}, ("ROLE_SYSTEM", "s")),
        ({"role": "developer", "content": "s"}, ("ROLE_SYSTEM", "s")),
        ({"role": "assistant", "content": None, "refusal": None, "tool_calls": None}, ("ROLE_ASSISTANT", "")),
        ({"role": "assistant"}, ("ROLE_ASSISTANT", "")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
            ("ROLE_USER", "a b"),
        ),
        ({"role": "user", "content": "\u0000 \U0001f600"}, ("ROLE_USER", "\u0000 \U0001f600")),
    ],
    ids=str,
)
def test_a_message_comes_in_many_forms(message: dict[str, Any], expected: tuple[str, str]) -> None:
    """Roles and contents are brought into the protocol's own; text parts are joined without a gap."""
    turn = sent(chat(messages=[message]))["chat"]["messages"][0]

    assert (turn["role"], turn.get("content", "")) == expected


def test_a_single_stop_is_a_list_of_one() -> None:
    """`stop` may be a string."""
    assert sent(chat(stop="a"))["stopping"] == {"stop": ["a"]}


def test_a_chat_reply_has_every_field() -> None:
    """The reply validates against the documented schema, and names the model as the caller did."""
    reply = convert.chat_reply(GENERATION, "my-alias", "here", with_token_ids=False)

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
    assert reply["pg_metadata"] == {
        "region": "here",
        "latency_ms": 52,
        "queue_time_ms": 1,
        "inference_time_ms": 50,
    }


def test_a_completion_reply_has_every_field() -> None:
    """As above, with the text itself and the ids that were asked for."""
    reply = convert.completion_reply(GENERATION, "m", "here", with_token_ids=True)

    Completion.model_validate(json.loads(json.dumps(reply)))
    assert reply["id"].startswith("cmpl-")
    assert reply["choices"][0]["text"] == "Paris"
    assert reply["choices"][0]["token_ids"] == (1, 2)


def test_a_reason_without_a_name_still_ends_the_choice() -> None:
    """A finish reason newer than the bridge is told as a natural end: callers know no other."""
    assert convert.finish_reason(FinishReason.UNKNOWN) == "stop"
    assert convert.finish_reason(FinishReason.CONTENT_FILTER) == "content_filter"
