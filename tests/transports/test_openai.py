"""OpenAI's own SDK with the real service: every feature on the simulated engine and on real ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.rest_bridge.running import running_bridge
from tests.support.service import MODEL_ID, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENGINES = ("simulated", "llama_cpp", "tensorrt_llm")
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name a city on the Rhine."}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Basel"]}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    """The type of parsed replies, which are short whatever the model writes."""

    name: Literal["Bonn", "Basel", "Köln"]
    on_the_rhine: bool


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    compiled = request.param == "tensorrt_llm"
    settings = request.getfixturevalue("serve_engine")() if compiled else {"backend": request.param}
    async with (
        running_service(**settings) as service,
        running_bridge(service.address) as bridge,
        openai.AsyncOpenAI(
            base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0, timeout=60
        ) as client,
    ):
        yield client


def ask(**more: Any) -> dict[str, Any]:
    """A short chat request that is the same at every call."""
    return {"model": MODEL_ID, "messages": MESSAGES, "seed": 7, "max_tokens": 12, **more}


async def folded(client: openai.AsyncOpenAI, **more: Any) -> Any:
    """Stream an answer and let the SDK join it."""
    async with client.chat.completions.stream(**ask(**more)) as stream:
        async for _ in stream:
            pass
        # The SDK raises instead of returning a completion that ended with `length`.
        return stream.current_completion_snapshot


def extra(reply: Any, name: str) -> Any:
    """Get a member that OpenAI's API does not have."""
    return (reply.model_extra or {})[name]


async def test_choices_are_the_same_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    """Three choices with their own seeds; the prompt is counted once."""
    whole = await client.chat.completions.create(**ask(n=3))
    stream = await folded(client, n=3)
    single = await client.chat.completions.create(**ask())

    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [c.message.content for c in whole.choices] == [c.message.content for c in stream.choices]
    assert len({choice.message.content for choice in whole.choices}) > 1
    assert whole.choices[0].message.content == single.choices[0].message.content
    assert whole.usage is not None
    assert single.usage is not None
    assert whole.usage.prompt_tokens == single.usage.prompt_tokens
    assert whole.usage.completion_tokens > single.usage.completion_tokens


@pytest.fixture
def with_alternatives(request: pytest.FixtureRequest) -> None:
    """Skip tests of alternatives on compiled engines, which refuse them."""
    if request.node.callspec.params["client"] == "tensorrt_llm":
        pytest.skip("this engine tells no alternatives")


async def test_log_probabilities_without_alternatives(client: openai.AsyncOpenAI) -> None:
    """Every engine reports them; the joined bytes are the text."""
    whole = await client.chat.completions.create(**ask(logprobs=True))
    stream = await folded(client, logprobs=True)
    logprobs = whole.choices[0].logprobs

    assert logprobs is not None
    assert logprobs.content
    assert all(entry.logprob <= 0 and not entry.top_logprobs for entry in logprobs.content)
    text = b"".join(bytes(entry.bytes or []) for entry in logprobs.content).decode()
    assert text.strip() == (whole.choices[0].message.content or "").strip()
    assert stream.choices[0].logprobs.model_dump() == logprobs.model_dump()


@pytest.mark.usefixtures("with_alternatives")
async def test_log_probabilities_cover_the_text(client: openai.AsyncOpenAI) -> None:
    """The joined bytes are the text, none is above 0, the likeliest come first, and streams have the same."""
    raw = await client.chat.completions.with_raw_response.create(**ask(logprobs=True, top_logprobs=3))
    whole = ChatCompletion.model_validate_json(raw.text, strict=True)
    stream = await folded(client, logprobs=True, top_logprobs=3)
    logprobs = whole.choices[0].logprobs

    assert logprobs is not None
    assert logprobs.content
    assert b"".join(bytes(entry.bytes or []) for entry in logprobs.content).decode().strip() == (
        (whole.choices[0].message.content or "").strip()
    )
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in logprobs.content)
    for entry in logprobs.content:
        likely = [top.logprob for top in entry.top_logprobs]
        assert likely == sorted(likely, reverse=True)
    assert stream.choices[0].logprobs.model_dump() == logprobs.model_dump()


async def test_a_bias_forbids_a_token(client: openai.AsyncOpenAI) -> None:
    """The first token of the answer without the bias does not occur any more."""
    body = {"temperature": 0, "extra_body": {"return_token_ids": True}}
    free = await client.chat.completions.create(**ask(**body))
    first = extra(free.choices[0], "token_ids")[0]
    biased = await client.chat.completions.create(**ask(**body, logit_bias={str(first): -100}))

    assert first not in extra(biased.choices[0], "token_ids")


@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_replies_are_parsed(client: openai.AsyncOpenAI, temperature: float) -> None:
    """The SDK parses them into the model whose schema was sent, whole and streamed."""
    options = ask(max_tokens=60, temperature=temperature, response_format=City)
    whole = await client.chat.completions.parse(**options)
    async with client.chat.completions.stream(**options) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()

    assert isinstance(whole.choices[0].message.parsed, City)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed
    assert [event.parsed for event in events if event.type == "content.done"] == [
        whole.choices[0].message.parsed
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"guided_regex": "(yes|no)!"}, {"yes!", "no!"}),
        ({"guided_grammar": 'root ::= "left" | "right"'}, {"left", "right"}),
        ({"guided_json": {"enum": ["a", "b"]}}, {'"a"', '"b"'}),
        ({"response_format": {"type": "regex", "regex": "[01]"}}, {"0", "1"}),
    ],
    ids=["guided_regex", "guided_grammar", "guided_json", "response_format"],
)
async def test_constraints_by_the_names_of_other_servers(
    client: openai.AsyncOpenAI, body: dict[str, Any], expected: set[str]
) -> None:
    reply = await client.chat.completions.create(**ask(max_tokens=30, extra_body=body))

    assert reply.choices[0].message.content in expected
    assert reply.choices[0].finish_reason == "stop"


async def test_a_bad_schema_is_refused_by_the_name_it_came_under(client: openai.AsyncOpenAI) -> None:
    """The error names `guided_json`, or the path in `response_format`."""
    bad = {"type": "object", "properties": {"x": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError) as guided:
        await client.chat.completions.create(**ask(extra_body={"guided_json": bad}))
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": bad}}
    with pytest.raises(openai.BadRequestError) as formatted:
        await client.chat.completions.create(**ask(response_format=response_format))

    assert (guided.value.param or "").startswith("guided_json")
    assert (formatted.value.param or "").startswith("response_format.json_schema.schema")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_demanded_tool_calls(client: openai.AsyncOpenAI, choice: Any) -> None:
    """Their arguments follow the schema, whole and as events of a stream."""
    options = ask(max_tokens=80, tools=[WEATHER], tool_choice=choice)
    whole = await client.chat.completions.create(**options)
    async with client.chat.completions.stream(**options) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    new = [event for event in events if event.type == "tool_calls.function.arguments.delta"]

    calls = whole.choices[0].message.tool_calls
    assert calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    arguments = json.loads(calls[0].function.arguments)
    assert arguments["city"] in {"Bonn", "Basel"}
    assert set(arguments) == {"city", "unit"}
    assert [event.arguments for event in done] == [c.function.arguments for c in calls]
    assert "".join(event.arguments_delta for event in new) == "".join(event.arguments for event in done)
    assert final.choices[0].finish_reason == "tool_calls"


async def test_calls_in_several_choices(client: openai.AsyncOpenAI) -> None:
    """They have log probabilities and no text, and are the same whole and streamed."""
    options = {"max_tokens": 80, "n": 2, "tools": [WEATHER], "tool_choice": "required", "logprobs": True}
    whole = await client.chat.completions.create(**ask(**options))
    stream = await folded(client, **options)

    for one, other in zip(whole.choices, stream.choices, strict=True):
        assert (one.finish_reason, one.message.content) == ("tool_calls", None)
        assert (other.finish_reason, other.message.content) == ("tool_calls", None)
        assert [c.function.arguments for c in one.message.tool_calls or ()] == [
            c.function.arguments for c in other.message.tool_calls
        ]
        assert one.logprobs is not None
        assert one.logprobs.model_dump() == other.logprobs.model_dump()


async def test_a_conversation_with_tools(client: openai.AsyncOpenAI) -> None:
    """The call is sent back with its result, and the model continues."""
    options = ask(max_tokens=80, tools=[WEATHER])
    first = await client.chat.completions.create(**options, tool_choice="required")
    message = first.choices[0].message
    assert message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    history = {**options, "messages": [*MESSAGES, message, *results]}
    second = await client.chat.completions.create(**history, tool_choice="none")

    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].message.content
    nameless = {"role": "tool", "content": "rain"}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**{**history, "messages": [*MESSAGES, nameless]})
    assert caught.value.param == "messages[1].tool_call_id"


async def test_completions_of_several_prompts(client: openai.AsyncOpenAI) -> None:
    """The choices come in the order of the prompts, and equal those of separate requests."""
    options: dict[str, Any] = {"model": MODEL_ID, "temperature": 0, "max_tokens": 6}
    both = await client.completions.create(prompt=["Once upon a time", "The Rhine"], **options)
    alone = [
        await client.completions.create(prompt=prompt, **options)
        for prompt in ("Once upon a time", "The Rhine")
    ]

    assert [choice.index for choice in both.choices] == [0, 1]
    assert [choice.text for choice in both.choices] == [reply.choices[0].text for reply in alone]


async def test_completions_echo_the_prompt(client: openai.AsyncOpenAI) -> None:
    """The prompt precedes the text, also in streams."""
    options: dict[str, Any] = {"model": MODEL_ID, "temperature": 0, "max_tokens": 6, "prompt": "The Rhine is"}
    plain = await client.completions.create(**options)
    echoed = await client.completions.create(**options, echo=True)
    stream = await client.completions.create(**options, echo=True, stream=True)
    joined = "".join([chunk.choices[0].text async for chunk in stream])

    assert echoed.choices[0].text == "The Rhine is" + plain.choices[0].text == joined


@pytest.mark.usefixtures("with_alternatives")
async def test_completions_report_log_probabilities(client: openai.AsyncOpenAI) -> None:
    """They are four lists of equal length; the offsets point into the text."""
    reply = await client.completions.create(
        model=MODEL_ID, prompt="The Rhine is", temperature=0, max_tokens=6, logprobs=2
    )
    logprobs, text = reply.choices[0].logprobs, reply.choices[0].text

    assert logprobs is not None
    assert logprobs.tokens
    assert logprobs.text_offset
    assert logprobs.token_logprobs
    assert logprobs.top_logprobs
    assert (
        len(logprobs.tokens)
        == len(logprobs.text_offset)
        == len(logprobs.token_logprobs)
        == len(logprobs.top_logprobs)
    )
    for name, offset, likely in zip(
        logprobs.tokens, logprobs.text_offset, logprobs.top_logprobs, strict=True
    ):
        assert name in likely
        assert text[offset : offset + len(name)] == name


async def test_a_refusal_names_the_parameter_of_completions(client: openai.AsyncOpenAI) -> None:
    """In completions `logprobs` is the number of alternatives."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=MODEL_ID, prompt="x", logprobs=21)

    assert caught.value.param == "logprobs"
    assert "top_logprobs" not in str(caught.value.body)


async def test_a_stop_sequence_can_be_kept(client: openai.AsyncOpenAI) -> None:
    """The choice names it, too."""
    free = await client.chat.completions.create(**ask(temperature=0))
    text = free.choices[0].message.content or ""
    word = text.split()[1]
    body = {"include_stop_str_in_output": True}
    kept = await client.chat.completions.create(**ask(temperature=0, stop=[word], extra_body=body))

    assert kept.choices[0].message.content == text[: text.index(word) + len(word)]
    assert extra(kept, "pg_metadata")["choices"][0]["stop_sequence"] == word


async def test_metadata_report_parameters_and_times(client: openai.AsyncOpenAI) -> None:
    """Defaults are included, whole and at the end of a stream; headers have the times."""
    raw = await client.chat.completions.with_raw_response.create(**ask(temperature=0.5))
    whole = extra(raw.parse(), "pg_metadata")
    stream = await client.chat.completions.create(
        **ask(temperature=0.5), stream=True, stream_options={"include_usage": True}
    )
    last = extra([chunk async for chunk in stream][-1], "pg_metadata")

    for metadata in (whole, last):
        assert metadata["parameters"] == {
            "max_tokens": 12,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 0,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "seed": 7,
            "logit_bias": {},
        }
        assert metadata["batch_size"] >= 1
        assert metadata["model_load_time_ms"] == 0
    assert float(raw.headers["x-prefill-ms"]) >= 0
    assert raw.headers["x-batch-size"] == str(whole["batch_size"])


async def test_a_validation_generates_nothing(client: openai.AsyncOpenAI) -> None:
    """It counts the prompt, and refuses what a generation would refuse."""
    body = {"validate_only": True}
    checked = await client.chat.completions.create(**ask(extra_body=body))
    real = await client.chat.completions.create(**ask())

    assert checked.choices == []
    assert checked.usage is not None
    assert real.usage is not None
    assert (checked.usage.prompt_tokens, checked.usage.completion_tokens) == (real.usage.prompt_tokens, 0)
    assert extra(checked, "parameters")["max_tokens"] == 12
    assert extra(checked, "queue_estimate_ms") >= 0
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**ask(temperature=9, extra_body=body))
