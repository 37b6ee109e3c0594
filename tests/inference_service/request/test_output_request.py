"""Options of the output, biases, constraints, batches, and ignored fields."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.request.generate import parse_generate
from inference_service.request.options import Constraint, Output
from inference_service.request.prompt import BatchPrompt, TextPrompt, TokenPrompt
from tests.support.parsing import chat, codes, ignored, request, tool, wrong


def output(**options: Any) -> generate_pb.GenerateRequest:
    return request(output=pb.OutputOptions(**options))


def bias(entries: dict[int, float]) -> generate_pb.GenerateRequest:
    return request(sampling=pb.SamplingOptions(logit_bias=entries))


def constrained(**kind: Any) -> generate_pb.GenerateRequest:
    return request(constraint=pb.Constraint(**kind))


def batch(*prompts: str | list[int], **fields: Any) -> generate_pb.GenerateRequest:
    found = [
        pb.BatchPrompt(text=p) if isinstance(p, str) else pb.BatchPrompt(token_ids=pb.TokenIds(ids=p))
        for p in prompts
    ]
    return generate_pb.GenerateRequest(model="m", batch=pb.BatchInput(prompts=found), **fields)


@pytest.mark.parametrize("n", [1, 8])
def test_n_within_its_bounds(n: int) -> None:
    assert parse_generate(output(n=n)).output.n == n


@pytest.mark.parametrize("n", [0, -1, 9, 2**31 - 1])
def test_n_outside(n: int) -> None:
    found = wrong(output(n=n))

    assert list(found) == ["output.n"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_log_probabilities(options: dict[str, Any], expected: int | None) -> None:
    assert parse_generate(output(**options)).output == Output(1, expected, echo=False)


@pytest.mark.parametrize(
    "options",
    [{"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": True, "top_logprobs": -1}],
)
def test_alternatives_without_log_probabilities_or_outside_their_range(options: dict[str, Any]) -> None:
    assert list(wrong(output(**options))) == ["output.top_logprobs"]


def test_echo_is_only_for_text_prompts() -> None:
    assert parse_generate(output(echo=True)).output.echo
    assert parse_generate(batch("a", [1], output=pb.OutputOptions(echo=True))).output.echo

    spoken = chat()
    spoken.output.echo = True
    assert codes(spoken) == {"output.echo": "invalid_value"}
    assert codes(output(echo=True, logprobs=True)) == {"output.echo": "unsupported_parameter"}


def test_biases_in_the_order_of_their_ids() -> None:
    found = parse_generate(bias({9: -100.0, 0: 100.0, 2**32 - 1: 0.0})).logit_bias

    assert list(found.items()) == [(0, 100.0), (9, -100.0), (2**32 - 1, 0.0)]


@pytest.mark.parametrize("value", [-100.1, 100.1, math.nan, math.inf, -math.inf])
def test_a_bias_outside_its_range(value: float) -> None:
    found = wrong(bias({1: 1.0, 7: value}))

    assert list(found) == ["sampling.logit_bias[7]"]
    assert found["sampling.logit_bias[7]"].endswith("it must be in [-100, 100].")


def test_more_biases_than_a_request_may_have() -> None:
    assert len(parse_generate(bias(dict.fromkeys(range(300), 1.0))).logit_bias) == 300
    assert wrong(bias(dict.fromkeys(range(301), 1.0))) == {
        "sampling.logit_bias": "holds 301 token ids; it may hold 300."
    }
    assert len(wrong(bias(dict.fromkeys(range(5000), 101.0)))) == 16


@pytest.mark.parametrize(
    ("kind", "expected", "field"),
    [
        ({"json_object": True}, Constraint("json_object", ""), "constraint.json_object"),
        ({"json_schema": "{"}, Constraint("json_schema", "{"), "constraint.json_schema"),
        ({"regex": "a"}, Constraint("regex", "a"), "constraint.regex"),
        ({"grammar": "g"}, Constraint("grammar", "g"), "constraint.grammar"),
    ],
)
def test_constraints_of_every_kind(kind: dict[str, Any], expected: Constraint, field: str) -> None:
    """They are not compiled yet; an empty one counts as none."""
    assert parse_generate(constrained(**kind)).constraint == expected
    assert expected.field == field

    (name,) = kind
    assert list(wrong(constrained(**{name: False if name == "json_object" else ""}))) == [field]


def test_a_constraint_without_a_kind_is_refused() -> None:
    assert codes(constrained()) == {"constraint.kind": "missing_required_parameter"}


def test_an_unknown_kind_of_white_space_is_refused() -> None:
    message = constrained(json_object=True)
    message.constraint.whitespace = pb.Whitespace.ValueType(9)

    assert wrong(message) == {
        "constraint.whitespace": "must be one of `WHITESPACE_COMPACT`, `WHITESPACE_FLEXIBLE`."
    }


def test_a_constraint_cannot_be_used_with_ignore_eos() -> None:
    message = constrained(regex="a")
    message.stopping.ignore_eos = True

    assert list(wrong(message)) == ["stopping.ignore_eos"]


def test_prompts_of_a_batch() -> None:
    assert parse_generate(batch("a", [1, 2])).prompt == BatchPrompt((TextPrompt("a"), TokenPrompt((1, 2))))


def test_prompts_of_a_batch_are_named_by_their_position() -> None:
    message = batch("a", "", [])
    message.batch.prompts.append(pb.BatchPrompt())

    assert list(wrong(message)) == [
        "batch.prompts[1].text",
        "batch.prompts[2].token_ids.ids",
        "batch.prompts[3].text",
    ]


def test_a_batch_has_1_to_16_prompts() -> None:
    assert list(wrong(batch())) == ["batch.prompts"]
    assert parse_generate(batch(*["p"] * 16)).prompt == BatchPrompt((TextPrompt("p"),) * 16)
    assert wrong(batch(*["p"] * 17))["batch.prompts"] == "holds 17 prompts; it may hold 16."


@pytest.mark.parametrize(
    ("prompts", "n", "fits"), [(16, 2, True), (16, 3, False), (4, 8, True), (5, 7, False)]
)
def test_the_choices_of_all_prompts_are_limited(prompts: int, n: int, fits: bool) -> None:
    message = batch(*["p"] * prompts, output=pb.OutputOptions(n=n))

    if fits:
        assert parse_generate(message).output.n == n
    else:
        assert wrong(message) == {"output.n": f"is {n} for {prompts} prompts; a request may have 32 choices."}


def test_validate_only() -> None:
    assert not parse_generate(request()).validate_only
    assert not parse_generate(request(validate_only=False)).validate_only
    assert parse_generate(request(validate_only=True)).validate_only


def with_unknown(message: Any, number: int) -> Any:
    """The same message with an unknown field."""
    key = number << 3
    encoded = bytes([key & 0x7F | 0x80, key >> 7, 1]) if key > 127 else bytes([key, 1])
    message.MergeFromString(encoded)
    return message


def test_fields_of_another_protocol_are_named_by_number_and_place() -> None:
    message = chat(tools=[tool()])
    with_unknown(message, 99)
    with_unknown(message, 98)
    with_unknown(message.sampling, 99)
    with_unknown(message.chat.messages[0], 31)
    with_unknown(message.chat.tools[0], 15)

    assert ignored(message) == (
        "field 98",
        "field 99",
        "chat.messages[0].field 31",
        "chat.tools[0].field 15",
        "sampling.field 99",
    )


def test_a_map_has_no_fields_of_its_own() -> None:
    assert ignored(bias({1: 1.0})) == ()


def test_the_list_of_unknown_fields_is_bounded() -> None:
    message = chat(*[with_unknown(pb.ChatMessage(role=pb.ROLE_USER), 99) for _ in range(100)])

    assert len(ignored(message)) == 32


@pytest.mark.parametrize("mode", [pb.TOOL_CHOICE_MODE_AUTO, pb.TOOL_CHOICE_MODE_NONE])
def test_parameters_about_tools_have_no_effect_without_tools(mode: Any) -> None:
    message = chat(tool_choice=pb.ToolChoice(mode=mode), parallel_tool_calls=True)

    assert ignored(message) == ("chat.tool_choice", "chat.parallel_tool_calls")
    message.chat.tools.append(tool())
    assert ignored(message) == ()


def test_a_tool_name_needs_the_mode_for_a_named_tool() -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO, name="f")

    assert ignored(chat(tools=[tool()], tool_choice=choice)) == ("chat.tool_choice.name",)
    choice.mode = pb.TOOL_CHOICE_MODE_NAMED
    assert ignored(chat(tools=[tool()], tool_choice=choice)) == ()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (pb.TOOL_CHOICE_MODE_AUTO, ()),
        (pb.TOOL_CHOICE_MODE_NONE, ()),
        (pb.TOOL_CHOICE_MODE_REQUIRED, ("constraint.json_object",)),
    ],
)
def test_demanded_calls_exclude_other_constraints(mode: Any, expected: tuple[str, ...]) -> None:
    message = chat(tools=[tool()], tool_choice=pb.ToolChoice(mode=mode))
    message.constraint.json_object = True

    assert ignored(message) == expected


def test_including_stop_sequences_has_no_effect_without_any() -> None:
    message = request(stopping=pb.StoppingOptions(include_stop=True))

    assert ignored(message) == ("stopping.include_stop",)
    message.stopping.stop.append("s")
    assert ignored(message) == ()


def test_an_answer_has_a_bounded_number_of_log_probabilities() -> None:
    """Two choices of 4,096 tokens with 20 alternatives fit; three do not."""
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
    most = pb.StoppingOptions(max_tokens=4096)

    parse_generate(request(output=pb.OutputOptions(n=2, **options), stopping=most))

    refused = request(output=pb.OutputOptions(n=3, **options), stopping=most)
    assert codes(refused) == {"output.top_logprobs": "invalid_value"}
