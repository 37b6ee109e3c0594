from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from inference_client import (
    AsyncClient,
    GenerateOptions,
    Grammar,
    JsonObject,
    JsonSchema,
    Message,
    Regex,
    Tool,
    ToolCall,
    ToolChoice,
    build_request,
)
from inference_client.decode import choice_count
from inference_client.options import CountOptions
from inference_client.request import build_count_request, build_validation
from tests.support.scripted import ScriptedService, answering, validated

ZEROES: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 0.0,
    "top_k": 0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 0.0,
    "seed": 0,
    "max_tokens": 0,
    "ignore_eos": False,
    "include_stop": False,
    "n": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "echo": False,
    "user": "",
}
STOPPING = {"max_tokens", "ignore_eos", "include_stop"}
OUTPUT = {"n", "logprobs", "top_logprobs", "echo"}
SCHEMA = {"type": "object", "properties": {"größe": {"type": "number"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"größe":{"type":"number"}}}'
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "u"}]}


async def test_unset_parameters_are_not_sent(client: AsyncClient, service: ScriptedService) -> None:
    await client.generate(model="m", prompt="p")

    request = service.seen[0].request
    assert [field.name for field, _ in request.ListFields()] == ["model", "prompt"]


@pytest.mark.parametrize("name", ZEROES)
async def test_zero_is_sent(client: AsyncClient, service: ScriptedService, name: str) -> None:
    """A parameter that is set to zero is sent, and no other one is."""
    service.answer = answering(validated())
    parameter: Any = {name: ZEROES[name]}
    await client.validate(model="m", prompt="p", **parameter)

    group = _group(service.seen[0].request, name)
    assert group.HasField(name)
    always = ("model", "prompt", "validate_only")
    assert [field.name for field, _ in group.ListFields() if field.name not in always] == [name]


def _group(request: Any, name: str) -> Any:
    if name == "user":
        return request
    return request.stopping if name in STOPPING else request.output if name in OUTPUT else request.sampling


@pytest.mark.parametrize("name", ZEROES)
def test_a_parameter_of_none_is_unset(name: str) -> None:
    assert build_request(model="m", prompt="p", **{name: None}) == build_request(model="m", prompt="p")


def test_each_parameter_sets_its_field() -> None:
    request = build_request(
        model="m",
        prompt="p",
        temperature=0.1,
        top_p=0.2,
        top_k=3,
        min_p=0.4,
        frequency_penalty=0.5,
        presence_penalty=0.6,
        repetition_penalty=0.7,
        seed=-8,
        max_tokens=9,
        stop=["a", "b"],
        stop_token_ids=[10],
        ignore_eos=True,
        include_stop=True,
        logit_bias={11: -100, 12: 0.5},
        n=2,
        logprobs=True,
        top_logprobs=20,
        echo=True,
        user="u",
    )

    bias = {11: -100.0, 12: 0.5}
    sampling = [0.1, 0.2, 3, 0.4, 0.5, 0.6, 0.7, -8, bias]
    assert [value for _, value in request.sampling.ListFields()] == sampling
    assert [value for _, value in request.stopping.ListFields()] == [9, ["a", "b"], [10], True, True]
    assert [value for _, value in request.output.ListFields()] == [2, True, 20, True]
    assert request.user == "u"


def test_messages_may_be_objects_or_mappings() -> None:
    request = build_request(
        model="m",
        messages=[
            Message("system", "s"),
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": ""},
        ],
    )

    assert [(turn.role, turn.content) for turn in request.chat.messages] == [(1, "s"), (2, "u"), (3, "")]


def test_calls_and_results_are_messages() -> None:
    """Both forms work, and an assistant's message may have only calls."""
    call = {"id": "c1", "name": "f", "arguments": "{}"}
    typed = build_request(
        model="m",
        messages=[
            Message("assistant", tool_calls=[ToolCall("c1", "f", "{}"), call]),
            Message("tool", "22", tool_call_id="c1"),
        ],
    )
    mapped = build_request(
        model="m",
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [call, ToolCall("c1", "f", "{}")]},
            {"role": "tool", "content": "22", "tool_call_id": "c1"},
        ],
    )

    turn, result = typed.chat.messages
    assert [(one.id, one.name, one.arguments) for one in turn.tool_calls] == [("c1", "f", "{}")] * 2
    assert (turn.role, turn.content) == (3, "")
    assert (result.role, result.content, result.tool_call_id) == (4, "22", "c1")
    assert mapped == typed


def test_token_ids_are_an_input() -> None:
    assert list(build_request(model="m", token_ids=[1, 2]).token_ids.ids) == [1, 2]


def test_several_prompts_are_a_batch() -> None:
    texts = build_request(model="m", prompt=("a", "b")).batch.prompts
    ids = build_request(model="m", token_ids=[[1, 2], (3,), []]).batch.prompts

    assert [(prompt.WhichOneof("form"), prompt.text) for prompt in texts] == [("text", "a"), ("text", "b")]
    assert [list(prompt.token_ids.ids) for prompt in ids] == [[1, 2], [3], []]
    assert {prompt.WhichOneof("form") for prompt in ids} == {"token_ids"}


@pytest.mark.parametrize(
    ("given", "input_name"),
    [
        ({"messages": []}, "chat"),
        ({"prompt": ""}, "prompt"),
        ({"token_ids": []}, "token_ids"),
        ({"prompt": []}, "batch"),
    ],
)
def test_an_empty_input_is_sent(given: Any, input_name: str) -> None:
    """The service refuses it with the parameter's name."""
    assert build_request(model="m", **given).WhichOneof("input") == input_name


def test_tools_reach_the_conversation() -> None:
    """Schemas are sent as JSON text, in whatever form they were given."""
    request = build_request(
        **ASKED,
        tools=[Tool("f", "Does f.", SCHEMA, strict=True), Tool("g", parameters=SCHEMA_TEXT), Tool("h")],
        tool_choice=ToolChoice("g"),
        parallel_tool_calls=False,
        add_generation_prompt=False,
        continue_final_message=True,
    )

    tools = [(tool.name, tool.description, tool.parameters) for tool in request.chat.tools]
    assert tools == [("f", "Does f.", SCHEMA_TEXT), ("g", "", SCHEMA_TEXT), ("h", "", "")]
    assert [(tool.HasField("strict"), tool.strict) for tool in request.chat.tools][:2] == [
        (True, True),
        (False, False),
    ]
    assert (request.chat.tool_choice.mode, request.chat.tool_choice.name) == (4, "g")
    assert request.chat.HasField("parallel_tool_calls")
    assert request.chat.HasField("add_generation_prompt")
    assert request.chat.continue_final_message
    assert len(request.chat.messages) == 1


@pytest.mark.parametrize(("choice", "mode"), [("auto", 1), ("none", 2), ("required", 3)])
def test_a_tool_choice_may_be_a_mode(choice: Any, mode: int) -> None:
    request = build_request(**ASKED, tools=[Tool("f")], tool_choice=choice)

    assert request.chat.tool_choice.mode == mode


@pytest.mark.parametrize(
    ("constraint", "kind", "value"),
    [
        (JsonObject(), "json_object", True),
        (JsonSchema(SCHEMA), "json_schema", SCHEMA_TEXT),
        (JsonSchema("not JSON"), "json_schema", "not JSON"),
        (Regex("[0-9]+"), "regex", "[0-9]+"),
        (Grammar('root ::= "a"'), "grammar", 'root ::= "a"'),
    ],
)
def test_each_kind_of_constraint_sets_its_field(constraint: Any, kind: str, value: Any) -> None:
    """Text is sent unchanged, since the service interprets it."""
    message = build_request(model="m", prompt="p", constraint=constraint).constraint

    assert message.WhichOneof("kind") == kind
    assert getattr(message, kind) == value


@pytest.mark.parametrize("kind", [JsonObject, partial(JsonSchema, SCHEMA)])
def test_the_white_space_of_json_can_be_set(kind: Any) -> None:
    """By default it is unset."""
    given = [kind(), kind(whitespace="compact"), kind(whitespace="flexible")]
    sent = [build_request(model="m", prompt="p", constraint=one).constraint for one in given]

    assert [message.HasField("whitespace") for message in sent] == [False, True, True]
    assert [message.whitespace for message in sent] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"constraint\.whitespace must be one of compact, flexible"):
        build_request(model="m", prompt="p", constraint=kind(whitespace="wide"))


def test_a_request_to_validate_is_a_copy() -> None:
    request = build_request(model="m", prompt="p")
    validation = build_validation(request)

    assert validation.validate_only
    assert not request.HasField("validate_only")
    assert (choice_count(request), choice_count(validation)) == (1, 0)


def test_a_single_stop_sequence_may_be_a_string() -> None:
    assert list(build_request(model="m", prompt="p", stop="END").stopping.stop) == ["END"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "none"),
        ({"prompt": "p", "token_ids": [1]}, "prompt and token_ids"),
        ({"messages": [], "prompt": ""}, "messages and prompt"),
    ],
)
def test_exactly_one_input_is_required(given: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"exactly one of messages, prompt and token_ids; got {named}"):
        build_request(model="m", **given)


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"messages": [{"role": "robot", "content": ""}]}, ValueError, r"messages\[0\]\.role must be one of"),
        ({"messages": [{"role": "user"}]}, ValueError, r"messages\[0\] must have the keys"),
        ({"messages": [{"role": "user", "content": "", "name": "x"}]}, ValueError, r"messages\[0\] must"),
        (
            {"messages": [{"content": "", "tool_calls": [{}]}]},
            ValueError,
            r"messages\[0\] must have the keys",
        ),
        ({"messages": [Message("assistant", tool_calls=[{"id": "c"}])]}, ValueError, r"tool_calls\[0\] must"),
        (
            {"messages": [Message("assistant", tool_calls=[ToolCall("c", "f", 5)])]},  # type: ignore[arg-type]
            TypeError,
            r"messages\[0\]\.tool_calls\[0\]\.arguments",
        ),
        ({"messages": [Message("tool", "", tool_call_id=5)]}, TypeError, r"\]\.tool_call_id"),  # type: ignore[arg-type]
        ({"messages": [], "tools": [{"name": "f"}]}, TypeError, r"tools\[0\] must be a Tool"),
        ({"messages": [], "tools": [Tool("f", 5)]}, TypeError, r"tools\[0\]\.description"),  # type: ignore[arg-type]
        (
            {"messages": [], "tools": [Tool("f", parameters={"a": {1}})]},
            TypeError,
            r"tools\[0\]\.parameters is not JSON",
        ),
        ({"messages": [], "tool_choice": "maybe"}, ValueError, "tool_choice must be a ToolChoice, or one of"),
        ({"prompt": "p", "tools": [Tool("f")]}, TypeError, "go with messages only"),
        ({"prompt": "p", "parallel_tool_calls": False}, TypeError, "go with messages only"),
        ({"prompt": "p", "continue_final_message": True}, TypeError, "go with messages only"),
        ({"prompt": "p", "constraint": {"type": "object"}}, TypeError, "constraint must be JsonObject"),
        ({"prompt": "p", "constraint": JsonSchema({"a": float("nan")})}, ValueError, "schema is not JSON"),
        ({"prompt": "p", "constraint": Regex("\ud83d")}, ValueError, "constraint.pattern does not fit: half"),
        ({"prompt": "p", "constraint": Grammar(5)}, TypeError, "constraint.source"),  # type: ignore[arg-type]
        ({"prompt": "p", "logit_bias": {-1: 1.0}}, ValueError, "logit_bias"),
        ({"prompt": "p", "logit_bias": {1: "x"}}, TypeError, "logit_bias"),
        ({"prompt": ["p", 5]}, TypeError, r"prompt\[1\]"),
        ({"token_ids": [[1], [-1]]}, ValueError, r"token_ids\[1\]"),
        ({"token_ids": [[1], 2]}, TypeError, r"token_ids\[1\]"),
        ({"prompt": "p", "n": 1 << 40}, ValueError, "n does not fit"),
        ({"messages": [Message("user", 5)]}, TypeError, r"messages\[0\]\.content"),  # type: ignore[arg-type]
        ({"prompt": "\ud83d"}, ValueError, "prompt does not fit: half a surrogate pair"),
        ({"prompt": "p", "temperature": "hot"}, TypeError, "temperature"),
        ({"prompt": "p", "max_tokens": 1 << 40}, ValueError, "max_tokens"),
        ({"prompt": "p", "seed": 1 << 63}, ValueError, "seed"),
        ({"prompt": "p", "stop": [1]}, TypeError, "stop"),
        ({"prompt": "p", "stop_token_ids": [-1]}, ValueError, "stop_token_ids"),
        ({"token_ids": [1.5]}, TypeError, "token_ids"),
    ],
)
def test_a_value_that_fits_no_field_is_named(given: Any, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        build_request(model="m", **given)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="temprature"):
        build_request(model="m", prompt="p", temprature=1)  # type: ignore[call-arg]


def test_a_model_is_required() -> None:
    with pytest.raises(TypeError, match="model is required"):
        build_request(prompt="p")  # type: ignore[call-arg]


def test_a_count_accepts_the_parameters_of_the_prompt() -> None:
    """It accepts the conversation and tools of a request, but nothing else."""
    conversation: dict[str, Any] = {
        "messages": ASKED["messages"],
        "tools": [Tool("f")],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    request = build_count_request("m", CountOptions(**conversation))  # type: ignore[typeddict-item]

    assert request.chat == build_request(model="m", **conversation).chat
    assert set(CountOptions.__annotations__) < set(GenerateOptions.__annotations__)
    with pytest.raises(TypeError, match="no option named temperature"):
        build_count_request("m", {"prompt": "p", "temperature": 1})  # type: ignore[typeddict-unknown-key]
