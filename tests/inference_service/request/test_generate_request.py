"""Protobuf messages become validated requests: defaults, bounds, names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.backends.types import Sampling
from inference_service.errors import InvalidRequest, Violation
from inference_service.prompt.conversation import ChatTurn
from inference_service.request.generate import ParsedRequest, parse_count, parse_generate, parse_model_name
from inference_service.request.options import Output, Stopping
from inference_service.request.prompt import ChatPrompt, TextPrompt, TokenPrompt
from inference_service.request.violations import check_token_ids

TINY = 5e-324
ALMOST_2 = math.nextafter(2.0, 0)
OVER_2 = math.nextafter(2.0, 3)
OVER_1 = math.nextafter(1.0, 2)


def request(**fields: Any) -> generate_pb.GenerateRequest:
    return generate_pb.GenerateRequest(**{"model": "m", "prompt": "p", **fields})


def sampling(**fields: Any) -> generate_pb.GenerateRequest:
    return request(sampling=pb.SamplingOptions(**fields))


def stopping(**fields: Any) -> generate_pb.GenerateRequest:
    return request(stopping=pb.StoppingOptions(**fields))


def chat(*turns: tuple[int, str]) -> generate_pb.GenerateRequest:
    messages = [pb.ChatMessage(role=role, content=text) for role, text in turns]  # type: ignore[arg-type]
    return generate_pb.GenerateRequest(model="m", chat=pb.ChatInput(messages=messages))


def violations(message: generate_pb.GenerateRequest) -> dict[str, Violation]:
    with pytest.raises(InvalidRequest) as caught:
        parse_generate(message)
    return {violation.field: violation for violation in caught.value.violations}


def test_every_parameter_has_its_default() -> None:
    parsed = parse_generate(request())

    assert replace(parsed, sampling=replace(parsed.sampling, seed=0)) == ParsedRequest(
        model="m",
        prompt=TextPrompt("p"),
        sampling=Sampling(
            temperature=0.7,
            top_p=0.9,
            top_k=0,
            min_p=0.0,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            repetition_penalty=1.0,
            seed=0,
            reproducible=False,
        ),
        logit_bias={},
        stopping=Stopping(None, (), (), ignore_eos=False, include_stop=False),
        output=Output(n=1, logprobs=None, echo=False),
        constraint=None,
        user=None,
        validate_only=False,
        ignored=(),
    )


def test_zero_is_not_unset() -> None:
    options = parse_generate(sampling(temperature=0.0, top_p=0.0, top_k=0, min_p=0.0, seed=0)).sampling

    assert (options.temperature, options.top_p, options.top_k, options.min_p, options.seed) == (0, 0, 0, 0, 0)
    assert options.is_greedy
    assert options.reproducible


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("temperature", [0.0, -0.0, 1.0, ALMOST_2, 2.0]),
        ("top_p", [0.0, 0.5, 1.0]),
        ("top_k", [-1, 0, 1, 2**31 - 1]),
        ("min_p", [0.0, 1.0]),
        ("frequency_penalty", [-2.0, 0.0, 2.0]),
        ("presence_penalty", [-2.0, 0.0, 2.0]),
        ("repetition_penalty", [1e-4, 1.0, 2.0]),
    ],
)
def test_sampling_parameters_within_their_bounds(parameter: str, values: list[float]) -> None:
    for value in values:
        parsed = parse_generate(sampling(**{parameter: value}))

        assert getattr(parsed.sampling, parameter) == (0 if (parameter, value) == ("top_k", -1) else value)


@pytest.mark.parametrize(
    ("parameter", "bounds", "values"),
    [
        ("temperature", "[0, 2]", [-TINY, OVER_2, math.nan, math.inf, -math.inf]),
        ("top_p", "[0, 1]", [-TINY, OVER_1, math.nan, math.inf, -math.inf]),
        ("top_k", "[-1, 2147483647]", [-2, -(2**31)]),
        ("min_p", "[0, 1]", [-TINY, OVER_1, math.nan, math.inf, -math.inf]),
        ("frequency_penalty", "[-2, 2]", [-OVER_2, OVER_2, math.nan, math.inf, -math.inf]),
        ("presence_penalty", "[-2, 2]", [-OVER_2, OVER_2, math.nan, math.inf, -math.inf]),
        ("repetition_penalty", "(0, 2]", [0.0, -0.0, -1.0, OVER_2, math.nan, math.inf, -math.inf]),
    ],
)
def test_sampling_parameters_out_of_bounds_name_the_value_and_the_range(
    parameter: str, bounds: str, values: list[float]
) -> None:
    for value in values:
        found = violations(sampling(**{parameter: value}))

        assert list(found) == [f"sampling.{parameter}"]
        assert found[f"sampling.{parameter}"].code == "invalid_value"
        assert found[f"sampling.{parameter}"].description.endswith(f"it must be in {bounds}.")
        reported = found[f"sampling.{parameter}"].description.removeprefix("is ").split(";")[0]
        assert float(reported) == value or math.isnan(value)


@pytest.mark.parametrize("value", [1, 150, 4096])
def test_max_tokens_within_its_bounds(value: int) -> None:
    assert parse_generate(stopping(max_tokens=value)).stopping.max_tokens == value


@pytest.mark.parametrize("value", [0, -1, 4097, 1_234_567, 2**31 - 1])
def test_max_tokens_outside(value: int) -> None:
    found = violations(stopping(max_tokens=value))

    assert found["stopping.max_tokens"].description == f"is {value}; it must be in [1, 4096]."


@pytest.mark.parametrize(("seed", "used"), [(0, 0), (7, 7), (-1, 2**64 - 1), (-(2**63), 2**63)])
def test_any_64_bit_seed_is_accepted(seed: int, used: int) -> None:
    parsed = parse_generate(sampling(seed=seed)).sampling

    assert (parsed.seed, parsed.reproducible) == (used, True)


def test_each_request_without_a_seed_gets_another_one() -> None:
    seeds = {parse_generate(request()).sampling.seed for _ in range(20)}

    assert len(seeds) == 20
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_stops_within_their_bounds() -> None:
    stops = ["x", "漢" * 1024, "\n", "x"]

    assert parse_generate(stopping(stop=stops)).stopping.stops == tuple(stops)


def test_too_many_stops() -> None:
    found = violations(stopping(stop=list("abcde")))

    assert found["stopping.stop"].description == "holds 5 sequences; it may hold 4."


def test_empty_and_long_stops_are_named_by_their_position() -> None:
    found = violations(stopping(stop=["ok", "", "😀" * 1025]))

    assert list(found) == ["stopping.stop[1]", "stopping.stop[2]"]
    assert found["stopping.stop[1]"].description == "is 0 characters long; it must be in [1, 1024]."
    assert "1025" in found["stopping.stop[2]"].description


def test_stop_token_ids() -> None:
    assert parse_generate(stopping(stop_token_ids=[5, 2, 5])).stopping.stop_token_ids == (5, 2, 5)
    assert parse_generate(stopping(stop_token_ids=range(64))).stopping.stop_token_ids == tuple(range(64))
    assert list(violations(stopping(stop_token_ids=range(65)))) == ["stopping.stop_token_ids"]


def test_ids_outside_the_vocabulary_are_named_by_their_position() -> None:
    check_token_ids([0, 9], 10, "stopping.stop_token_ids")

    with pytest.raises(InvalidRequest) as caught:
        check_token_ids([3, 10, 11], 10, "stopping.stop_token_ids")
    (violation,) = caught.value.violations
    assert violation.field == "stopping.stop_token_ids[1]"
    assert violation.description == "is 10; it must be in [0, 10)."


@pytest.mark.parametrize("ignore", [True, False])
def test_ignore_eos(ignore: bool) -> None:
    assert parse_generate(stopping(ignore_eos=ignore)).stopping.ignore_eos is ignore


def test_user() -> None:
    assert parse_generate(request(user="")).user == ""
    assert parse_generate(request(user="漢" * 256)).user == "漢" * 256
    assert violations(request(user="u" * 257))["user"].description.startswith("is 257 characters long")


def test_a_conversation() -> None:
    parsed = parse_generate(chat((pb.ROLE_SYSTEM, "s"), (pb.ROLE_USER, ""), (pb.ROLE_ASSISTANT, "a")))

    assert parsed.prompt == ChatPrompt(
        (ChatTurn("system", "s"), ChatTurn("user", ""), ChatTurn("assistant", "a"))
    )


@pytest.mark.parametrize("role", [pb.ROLE_UNSPECIFIED, 99])
def test_an_unknown_role_is_named_by_its_position(role: int) -> None:
    found = violations(chat((pb.ROLE_USER, "u"), (role, "x")))

    assert list(found) == ["chat.messages[1].role"]
    assert "`ROLE_SYSTEM`, `ROLE_USER`, `ROLE_ASSISTANT`" in found["chat.messages[1].role"].description


def test_token_ids_as_the_prompt() -> None:
    parsed = parse_generate(generate_pb.GenerateRequest(model="m", token_ids=pb.TokenIds(ids=[1, 2])))

    assert parsed.prompt == TokenPrompt((1, 2))


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"model": "", "prompt": "p"}, "model", "missing_required_parameter"),
        ({"model": "m"}, "input", "missing_required_parameter"),
        ({"model": "m", "prompt": ""}, "prompt", "invalid_value"),
        ({"model": "m", "chat": pb.ChatInput()}, "chat.messages", "invalid_value"),
        ({"model": "m", "token_ids": pb.TokenIds()}, "token_ids.ids", "invalid_value"),
    ],
)
def test_required_fields(fields: dict[str, Any], field: str, code: str) -> None:
    found = violations(generate_pb.GenerateRequest(**fields))

    assert [(v.field, v.code) for v in found.values()] == [(field, code)]
    with pytest.raises(InvalidRequest):
        parse_count(model_pb.CountTokensRequest(**fields))


def test_all_violations_are_reported_together() -> None:
    found = violations(
        generate_pb.GenerateRequest(
            sampling=pb.SamplingOptions(temperature=3, top_p=-1, top_k=-7),
            stopping=pb.StoppingOptions(max_tokens=0, stop=[""]),
            user="u" * 300,
        )
    )

    assert set(found) == {
        "model",
        "input",
        *("sampling.temperature", "sampling.top_p", "sampling.top_k"),
        *("stopping.max_tokens", "stopping.stop[0]"),
        "user",
    }


def test_the_list_of_violations_is_bounded() -> None:
    assert len(violations(chat(*[(0, "")] * 1000))) == 16


def test_counting_accepts_the_same_prompts() -> None:
    message = model_pb.CountTokensRequest(model="m", prompt="p")

    assert parse_count(message) == ("m", TextPrompt("p"), ())


def test_a_model_is_required_for_counting() -> None:
    assert parse_model_name(model_pb.GetModelRequest(model="m")) == "m"
    with pytest.raises(InvalidRequest):
        parse_model_name(model_pb.GetModelRequest())
