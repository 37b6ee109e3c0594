"""The content filter over both transports, whole and streamed, on every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_client import Delta
from lodestream_common.keys import KeyFile, Level
from tests.support.answers import Answer, check_equal
from tests.support.filtering import write
from tests.support.transports import Transports, grpc_request, running_transports
from tests.transports.feature_requests import chat, completion, named, strict_object, tool

RULES = """
[[rules]]
name = "birds"
phrases = ["project heron", "😀 egret 漢字"]
action = "block"

[[rules]]
name = "secrets"
patterns = ['sk-[a-z0-9]{8,32}']
action = "redact"
replacement = "[secret]"
applies_to = "output"

[[rules]]
name = "names"
phrases = ["Nightingale"]
action = "redact"
replacement = "[name]"
applies_to = "prompt"

[[rules]]
name = "for alice"
phrases = ["a stork"]
action = "block"
keys = ["alice"]
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")
simulated_engine_only = pytest.mark.parametrize("filtered", ["simulated"], indirect=True)


@dataclass(frozen=True, slots=True)
class Filtered:
    """Both transports of a service with a content filter, for two callers."""

    alice: Transports
    bob: Transports
    rules: Path


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["simulated", "llama_cpp", "tensorrt_llm"]
)
async def filtered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Filtered]:
    directory = tmp_path_factory.mktemp("filtered")
    keys = KeyFile(directory / "keys.json")
    alice, bob = (keys.create(name, Level.READ_WRITE)[1] for name in ("alice", "bob"))
    settings: dict[str, Any] = {"backend": request.param, "threads": 1}
    if request.param == "tensorrt_llm":
        settings = request.getfixturevalue("serve_engine")()
    rules = write(directory / "rules.toml", RULES)
    settings |= {"keys_file": directory / "keys.json", "requests_per_minute": 0}
    async with running_transports(content_filter_file=rules, **settings) as transports:
        yield Filtered(replace(transports, key=alice), replace(transports, key=bob), rules)


def request_for(text: str, **more: Any) -> dict[str, Any]:
    """A request that every engine answers with exactly this text."""
    return chat("Go on.", guided_regex=text, max_tokens=60, **more)


async def ask_all(transports: Transports, body: Mapping[str, Any]) -> Answer:
    """Send a request whole and streamed over both transports. Return the answer, the same for all."""
    first, *others = [await ask(body) for ask in transports.ways]
    assert first.error is None, first.message
    for other in others:
        check_equal(first, other, tolerance=0.01)
    return first


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("We saw project heron at dawn", "We saw "),
        ("We saw Project  HERON", "We saw Project  HERON"),
        ("We saw PROJECT Heron", "We saw "),
        ("We saw the 😀 egret 漢字 there", "We saw the "),
        ("project herons", ""),
    ],
)
async def test_blocked_output_is_cut_before_the_match(filtered: Filtered, text: str, left: str) -> None:
    """Matches are longer than tokens, and no part of a match is sent."""
    answer = await ask_all(filtered.bob, request_for(text))
    choice = answer.choices[0]

    assert choice.text == left
    if left != text:
        assert (choice.finish_reason, choice.ending) == ("content_filter", ("content_filter", None, "birds"))


@simulated_engine_only
async def test_text_that_cannot_match_any_more_is_sent_at_once(filtered: Filtered) -> None:
    """Text is held back only as long as it may become a match."""
    stream = filtered.bob.client.stream_request(
        grpc_request(request_for("a project here and a project there, and then project heron")),
        api_key=filtered.bob.key,
    )
    deltas = [event.text async for event in stream if isinstance(event, Delta)]

    assert "".join(deltas) == "a project here and a project there, and then "
    assert len(deltas) > 3


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": True}, {"stop": ["more"]}])
async def test_output_continues_after_a_redaction(filtered: Filtered, more: dict[str, Any]) -> None:
    answer = await ask_all(filtered.bob, request_for("The key sk-abcd1234 is no more", **more))

    end = "" if "stop" in more else "more"
    assert {choice.text for choice in answer.choices} == {f"The key [secret] is no {end}"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


async def test_arguments_of_calls_are_filtered(filtered: Filtered) -> None:
    """A call that is cut short does not count as a call."""
    bird = tool("look", strict_object(bird={"enum": ["project heron"]}))
    answer = await ask_all(
        filtered.bob, chat("Go on.", tools=[bird], tool_choice=named("look"), max_tokens=60)
    )
    choice = answer.choices[0]

    assert (choice.finish_reason, choice.ending) == ("content_filter", ("content_filter", None, "birds"))
    assert "heron" not in str(choice)


@pytest.mark.parametrize(
    "body",
    [
        chat("What of Project Heron?"),
        chat("What of Project Heron?", n=3, temperature=0.5),
        chat(messages=[{"role": "system", "content": "project heron"}, {"role": "user", "content": "Hi"}]),
        completion("About project heron", logprobs=0),
        completion(["Hi", "About project heron"]),
        chat("What of Project Heron?", tools=[tool("time")], tool_choice="required"),
    ],
)
async def test_blocked_prompt_has_an_empty_answer(filtered: Filtered, body: dict[str, Any]) -> None:
    """Every requested choice is empty, and the engine does not run."""
    answer = await ask_all(filtered.bob, body)

    assert len(answer.choices) == body.get("n", 2 if isinstance(body.get("prompt"), list) else 1)
    for choice in answer.choices:
        assert (choice.text, choice.token_ids, choice.finish_reason) == ("", (), "content_filter")
        assert choice.ending == ("content_filter", None, "birds")
    assert answer.usage is not None
    assert answer.usage[0] > 0
    assert answer.usage[1] == 0


@simulated_engine_only
async def test_a_rule_for_a_key_applies_only_to_its_owner(filtered: Filtered) -> None:
    """The rule applies to prompts and to output."""
    for body, left in ((request_for("I am a stork"), "I am "), (chat("Are you a stork?"), "")):
        alices, bobs = await ask_all(filtered.alice, body), await ask_all(filtered.bob, body)

        assert (alices.text, alices.finish_reason) == (left, "content_filter")
        assert bobs.finish_reason != "content_filter"
        assert bobs.text


async def test_the_model_reads_the_redacted_prompt(filtered: Filtered) -> None:
    """An echo shows the redacted prompt, too. Token ids cannot be redacted, so they are blocked."""
    body = completion("Dear Nightingale,", echo=True, max_tokens=4)
    answer = await ask_all(filtered.bob, body)
    counted = await filtered.bob.client.count_tokens(
        body["model"], prompt="Dear Nightingale,", api_key=filtered.bob.key
    )
    by_ids = await ask_all(filtered.bob, completion(list(counted.token_ids)))

    assert (answer.text or "").startswith("Dear [name],")
    assert by_ids.choices[0].ending == ("content_filter", None, "names")


@simulated_engine_only
async def test_log_names_the_rule_and_never_the_text(
    filtered: Filtered, caplog: pytest.LogCaptureFixture
) -> None:
    for body in (
        request_for("I saw project heron"),
        chat("Of project heron"),
        request_for("my sk-abcd1234 key"),
    ):
        caplog.clear()
        await ask_all(filtered.bob, body)
        lines = [str(record.msg) for record in caplog.records]

        assert lines
        assert not any(part in line for line in lines for part in ("heron", "abcd1234", "I saw", "my "))
        if "sk-" not in str(body):
            rpcs = [line for line in lines if "'event': 'rpc'" in line]
            assert len(rpcs) == 4
            assert all("'filter_rules': ['birds']" in line for line in rpcs)


@simulated_engine_only
async def test_changed_rules_apply_without_a_restart(filtered: Filtered) -> None:
    """An invalid file changes nothing: the old rules stay in force."""
    body = request_for("an owl flew by project heron")
    assert (await ask_all(filtered.bob, body)).text == "an owl flew by "

    write(filtered.rules, RULES.replace("project heron", "owl"))
    await _until(filtered.bob, body, "an ")
    assert (await ask_all(filtered.bob, body)).text == "an "

    write(filtered.rules, "[[rules")
    await asyncio.sleep(1)
    assert (await ask_all(filtered.bob, body)).text == "an "

    write(filtered.rules, RULES)
    await _until(filtered.bob, body, "an owl flew by ")


async def _until(transports: Transports, body: Mapping[str, Any], text: str) -> None:
    end = time.monotonic() + 10
    while (await transports.by_grpc(body)).text != text:
        assert time.monotonic() < end, "the rules did not change"
        await asyncio.sleep(0.05)


async def test_a_blocked_prompt_is_answered_without_a_slot(tmp_path: Path) -> None:
    """It waits neither for a stalled engine nor for a free slot."""
    rules = write(tmp_path / "rules.toml", RULES)
    settings: dict[str, Any] = {"simulated_fault": "stall_at=0", "max_concurrency": 1}
    async with (
        running_transports(content_filter_file=rules, **settings) as transports,
        transports.client.stream_request(grpc_request(chat("Hi"))) as taken,
    ):
        await anext(taken)
        answer = await asyncio.wait_for(ask_all(transports, chat("Project heron!", n=2)), 20)

    assert [choice.finish_reason for choice in answer.choices] == ["content_filter"] * 2
