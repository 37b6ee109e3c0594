from __future__ import annotations

from typing import Any

import pytest

from inference_client import AsyncClient, Message, build_request
from tests.support.scripted import ScriptedService

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
    "user": "",
}
STOPPING = {"max_tokens", "ignore_eos"}


async def test_what_is_not_given_is_not_on_the_wire(client: AsyncClient, service: ScriptedService) -> None:
    await client.generate(model="m", prompt="p")

    request = service.seen[0].request
    assert [field.name for field, _ in request.ListFields()] == ["model", "prompt"]


@pytest.mark.parametrize("name", ZEROES)
async def test_zero_is_on_the_wire(client: AsyncClient, service: ScriptedService, name: str) -> None:
    """A knob set to zero arrives as set, and nothing else does."""
    knob: Any = {name: ZEROES[name]}
    await client.generate(model="m", prompt="p", **knob)

    request = service.seen[0].request
    group = request if name == "user" else request.stopping if name in STOPPING else request.sampling
    assert group.HasField(name)
    assert [field.name for field, _ in group.ListFields() if field.name not in ("model", "prompt")] == [name]


def test_every_knob_reaches_its_field() -> None:
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
        user="u",
    )

    assert [value for _, value in request.sampling.ListFields()] == [0.1, 0.2, 3, 0.4, 0.5, 0.6, 0.7, -8]
    assert [value for _, value in request.stopping.ListFields()] == [9, ["a", "b"], [10], True]
    assert request.user == "u"


def test_messages_may_be_messages_or_mappings() -> None:
    request = build_request(
        model="m",
        messages=[
            Message("system", "s"),
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": ""},
        ],
    )

    assert [(turn.role, turn.content) for turn in request.chat.messages] == [(1, "s"), (2, "u"), (3, "")]


def test_token_ids_are_an_input() -> None:
    assert list(build_request(model="m", token_ids=[1, 2]).token_ids.ids) == [1, 2]


@pytest.mark.parametrize(
    ("given", "input_name"),
    [({"messages": []}, "chat"), ({"prompt": ""}, "prompt"), ({"token_ids": []}, "token_ids")],
)
def test_an_empty_input_is_given_all_the_same(given: Any, input_name: str) -> None:
    """It is the service that refuses it, with the parameter's name."""
    assert build_request(model="m", **given).WhichOneof("input") == input_name


def test_a_lone_stop_is_one_text() -> None:
    assert list(build_request(model="m", prompt="p", stop="END").stopping.stop) == ["END"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "none"),
        ({"prompt": "p", "token_ids": [1]}, "prompt and token_ids"),
        ({"messages": [], "prompt": ""}, "messages and prompt"),
    ],
)
def test_exactly_one_input_is_wanted(given: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"exactly one of messages, prompt and token_ids; got {named}"):
        build_request(model="m", **given)


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"messages": [{"role": "robot", "content": ""}]}, ValueError, r"messages\[0\]\.role must be one of"),
        ({"messages": [{"role": "user"}]}, ValueError, r"messages\[0\] must have the keys"),
        ({"messages": [{"role": "user", "content": "", "name": "x"}]}, ValueError, r"messages\[0\] must"),
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
def test_what_fits_no_field_is_named(given: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        build_request(model="m", **given)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="temprature"):
        build_request(model="m", prompt="p", temprature=1)  # type: ignore[call-arg]
