"""The content filter reads JSON strings unescaped, in tool calls and answers, over both transports."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.answers import Answer, check_equal
from tests.support.filtering import write
from tests.support.transports import Transports, running_transports
from tests.transports.feature_requests import chat, completion, named, strict_object, tool

RULES = """
[[rules]]
name = "birds"
phrases = ["project heron"]
action = "block"
applies_to = "output"

[[rules]]
name = "secrets"
patterns = ['sk-[a-z0-9]{8,32}', '[0-9]{9,16}']
action = "redact"
replacement = 'a "secret"'
applies_to = "output"
"""
LOOK = tool("look", strict_object(bird={"type": "string"}))
ESCAPED = r"\u0070roject heron"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["simulated", "llama_cpp"])
async def transports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Transports]:
    rules = write(tmp_path_factory.mktemp("filtered") / "rules.toml", RULES)
    async with running_transports(content_filter_file=rules, backend=request.param, threads=1) as both:
        yield both


async def ask_all(transports: Transports, body: dict[str, Any]) -> Answer:
    """Send a request whole and streamed over gRPC and REST.

    Return the answer, which must be the same for all.
    """
    first, *others = [await ask(body) for ask in transports.ways]
    assert first.error is None, first.message
    for other in others:
        check_equal(first, other, tolerance=0.01)
    return first


def request_for(text: str, **more: Any) -> dict[str, Any]:
    """A request that every engine answers with exactly this text."""
    return chat("Go on.", guided_regex=re.escape(text).replace(r"\ ", " "), max_tokens=90, **more)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f'{{"bird": "{ESCAPED}"}}', '{"bird": "'),
        (f'["x", "the {ESCAPED}"]', '["x", "the '),
        (f'{{"{ESCAPED}": 1}}', '{"'),
    ],
)
async def test_escaped_text_in_an_answer_is_blocked(transports: Transports, text: str, left: str) -> None:
    choice = (await ask_all(transports, request_for(text))).choices[0]

    assert choice.text == left
    assert choice.ending == ("content_filter", None, "birds")


async def test_redacted_answers_stay_json(transports: Transports) -> None:
    text = r'{"key": "\u0073k-abcd1234", "card": 4111111111111, "n": 1}'

    choice = (await ask_all(transports, request_for(text))).choices[0]

    assert json.loads(choice.text or "") == {"key": 'a "secret"', "card": 'a "secret"', "n": 1}
    assert choice.finish_reason == "stop"


async def test_escaped_text_in_a_completion_is_blocked(transports: Transports) -> None:
    text = re.escape(f'{{"bird": "{ESCAPED}"}}').replace(r"\ ", " ")

    choice = (await ask_all(transports, completion("x", guided_regex=text, max_tokens=60))).choices[0]

    assert (choice.text, choice.finish_reason) == ('{"bird": "', "content_filter")


@pytest.mark.parametrize("choice_of_tool", ["auto", named("look")], ids=["auto", "named"])
async def test_escaped_text_in_a_tool_call_is_blocked(transports: Transports, choice_of_tool: Any) -> None:
    if transports.service.server.config.backend != "simulated":
        pytest.skip("the output of a real model cannot be scripted")
    call = f'{{"name": "look", "arguments": {{"bird": "{ESCAPED}"}}}}'
    request = chat(f"@say<<{call}>>", tools=[LOOK], tool_choice=choice_of_tool, max_tokens=90)

    choice = (await ask_all(transports, request)).choices[0]

    assert choice.ending == ("content_filter", None, "birds")
    assert [arguments for _, _, arguments in choice.tool_calls] == ['{"bird": "']


async def test_redacted_tool_calls_stay_json(transports: Transports) -> None:
    if transports.service.server.config.backend != "simulated":
        pytest.skip("the output of a real model cannot be scripted")
    call = r'{"name": "look", "arguments": {"bird": "my \u0073k-abcd1234 \"key\""}}'

    choice = (await ask_all(transports, chat(f"@say<<{call}>>", tools=[LOOK], max_tokens=90))).choices[0]

    assert choice.finish_reason == "tool_calls"
    (_, name, arguments), *_ = choice.tool_calls
    assert (name, json.loads(arguments)) == ("look", {"bird": 'my a "secret" "key"'})
