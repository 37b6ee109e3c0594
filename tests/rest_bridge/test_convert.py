from __future__ import annotations

from typing import Any

import pytest

from rest_bridge.errors import ApiError
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.rest_bridge.bodies import chat, completion, sent


def test_only_what_the_caller_set_is_sent() -> None:
    """The bridge sends no defaults."""
    assert sent(chat()) == {"model": "m", "chat": {"messages": [{"role": "ROLE_USER", "content": "hi"}]}}
    assert sent(completion()) == {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize(
    ("schema", "body"), [(ChatCompletionRequest, chat()), (CompletionRequest, completion())]
)
def test_null_is_unset(schema: type[RequestModel], body: dict[str, Any]) -> None:
    """Every optional parameter may be null, as the API's own SDK sends it."""
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
        ("logit_bias", {"7": 0.0}),
    ],
)
def test_zero_is_not_unset(name: str, value: float) -> None:
    """A parameter that is set to zero is sent, like any other value."""
    assert sent(chat(**{name: value}))["sampling"] == {name: value}


def test_every_parameter_reaches_its_field() -> None:
    """Seed, limits, stop sequences and the user keep their values."""
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
def test_both_names_of_the_limit_are_equivalent(given: dict[str, int]) -> None:
    """`max_completion_tokens` is `max_tokens`; both may be given if they agree."""
    assert sent(chat(**given))["stopping"] == {"max_tokens": 9}
    assert sent(chat(max_tokens=9, max_completion_tokens=9))["stopping"] == {"max_tokens": 9}


def test_two_different_limits_are_refused() -> None:
    """The bridge does not choose between them."""
    with pytest.raises(ApiError) as caught:
        sent(chat(max_tokens=9, max_completion_tokens=8))

    assert (caught.value.status, caught.value.param) == (400, "max_completion_tokens")


@pytest.mark.parametrize(
    ("body", "param", "bounds"),
    [
        (chat(max_tokens=2**31), "max_tokens", "[1, 2147483647]"),
        (chat(max_completion_tokens=-(2**40)), "max_completion_tokens", "[1, 2147483647]"),
        (chat(top_k=2**31), "top_k", "[-1, 2147483647]"),
        (chat(seed=2**63), "seed", "[-9223372036854775808, 9223372036854775807]"),
        (chat(seed=-(10**100)), "seed", "[-9223372036854775808, 9223372036854775807]"),
        (chat(stop_token_ids=[0, -1]), "stop_token_ids[1]", "[0, 4294967295]"),
        (completion(prompt=[1, 2**32]), "prompt[1]", "[0, 4294967295]"),
        (completion(prompt=[[1], [2, -1]]), "prompt[1][1]", "[0, 4294967295]"),
        (chat(n=2**31), "n", "[1, 8]"),
        (chat(top_logprobs=2**31), "top_logprobs", "[0, 20]"),
        (completion(logprobs=-(2**31) - 1), "logprobs", "[0, 20]"),
    ],
    ids=str,
)
def test_a_number_of_too_many_bits_is_refused(body: dict[str, Any], param: str, bounds: str) -> None:
    """A number that fits no field of the protocol is a 400 that names the parameter and its range."""
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
        ([[]], {"token_ids": {}}),
        (["x", ""], {"batch": {"prompts": [{"text": "x"}, {"text": ""}]}}),
        (["x"] * 16, {"batch": {"prompts": [{"text": "x"}] * 16}}),
        (
            [[1, 2], [], [3]],
            {
                "batch": {
                    "prompts": [
                        {"token_ids": {"ids": [1, 2]}},
                        {"token_ids": {}},
                        {"token_ids": {"ids": [3]}},
                    ]
                }
            },
        ),
    ],
)
def test_all_forms_of_a_prompt_are_converted(prompt: Any, expected: dict[str, Any]) -> None:
    """A prompt is text or ids, one or several; one may also be the only element of an array."""
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
def test_all_forms_of_a_message_are_converted(message: dict[str, Any], expected: tuple[str, str]) -> None:
    """Roles and contents become the protocol's own; text parts are joined without a separator."""
    turn = sent(chat(messages=[message]))["chat"]["messages"][0]

    assert (turn["role"], turn.get("content", "")) == expected


def test_a_single_stop_is_a_list_of_one() -> None:
    """`stop` may be a string."""
    assert sent(chat(stop="a"))["stopping"] == {"stop": ["a"]}


def test_options_of_the_output_are_converted() -> None:
    """Choices, log probabilities and echo; for completions `logprobs` is a number, also 0."""
    assert sent(chat(n=3, logprobs=True, top_logprobs=2))["output"] == {
        "n": 3,
        "logprobs": True,
        "top_logprobs": 2,
    }
    assert sent(completion(logprobs=0, echo=True))["output"] == {
        "logprobs": True,
        "top_logprobs": 0,
        "echo": True,
    }
    assert sent(chat(validate_only=True))["validate_only"] is True
    assert sent(chat(include_stop_str_in_output=True))["stopping"] == {"include_stop": True}


def test_biases_are_converted_by_token_id() -> None:
    """JSON has the ids as strings."""
    biases = sent(chat(logit_bias={"0": 1, "50256": -100, "4294967295": 0.5}))["sampling"]["logit_bias"]

    assert biases == {"0": 1.0, "50256": -100.0, "4294967295": 0.5}


@pytest.mark.parametrize(
    ("biases", "what"),
    [
        ([], "must be an object"),
        ({"x": 1}, "token ids"),
        ({"-1": 1}, "token ids"),
        ({"07": 1}, "token ids"),
        ({"1.0": 1}, "token ids"),
        ({"٧": 1}, "token ids"),
        ({"4294967296": 1}, "token ids"),
        ({"9" * 5000: 1}, "token ids"),
        ({"7": None}, "numbers"),
        ({"7": True}, "numbers"),
        ({"7": "1"}, "numbers"),
        ({"7": 10**400}, "numbers"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_malformed_biases_are_refused(biases: Any, what: str) -> None:
    """The error names the parameter without repeating its value."""
    with pytest.raises(ApiError, match=what) as caught:
        sent(chat(logit_bias=biases))

    assert (caught.value.status, caught.value.param) == (400, "logit_bias")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(("n", "best_of"), [(None, None), (None, 1), (3, 1), (3, 3)])
def test_best_of_equal_to_n_is_accepted(n: int | None, best_of: int | None) -> None:
    """It generates as many choices as are returned."""
    assert sent(completion(n=n, best_of=best_of)) == sent(completion(n=n))


@pytest.mark.parametrize(("n", "best_of"), [(None, 2), (3, 4), (3, 2), (1, 0)])
def test_best_of_above_n_is_refused(n: int | None, best_of: int) -> None:
    """The service returns every choice that it generates."""
    with pytest.raises(ApiError) as caught:
        sent(completion(n=n, best_of=best_of))

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "best_of")
