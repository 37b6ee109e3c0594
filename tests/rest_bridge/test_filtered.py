"""The content filter over REST, with a real service whose engine's output is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.rest_bridge.running import running_bridge
from tests.support.service import MODEL_ID, running_service

RULES = """
[[rules]]
name = "project names"
phrases = ["project heron"]
action = "block"

[[rules]]
name = "code names"
phrases = ["blue moon"]
action = "block"
applies_to = "output"

[[rules]]
name = "secrets"
patterns = ['sk-[a-z]{8}']
action = "redact"
replacement = "[secret]"
applies_to = "output"
"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    async with (
        running_service(content_filter_file=rules) as service,
        running_bridge(service.address) as bridge,
        openai.AsyncOpenAI(
            base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0, timeout=60
        ) as client,
    ):
        yield client


def ask(text: str) -> dict[str, Any]:
    return {"model": MODEL_ID, "messages": [{"role": "user", "content": text}], "seed": 1}


async def both(client: openai.AsyncOpenAI, text: str) -> tuple[Any, Any]:
    """The whole answer, and the answer that is joined from a stream."""
    whole = await client.chat.completions.create(**ask(text))
    async with client.chat.completions.stream(**ask(text)) as stream:
        async for _ in stream:
            pass
        return whole, stream.current_completion_snapshot


async def test_a_blocked_prompt_gets_an_empty_answer(client: openai.AsyncOpenAI) -> None:
    """The answer has an empty text, the reason, and the rule."""
    replies = await both(client, "Tell me of Project Heron.")

    for reply in replies:
        assert reply.choices[0].message.content == ""
        assert reply.choices[0].finish_reason == "content_filter"
    choice = (replies[0].model_extra or {})["pg_metadata"]["choices"][0]
    assert (choice["cause"], choice["filter_rule"]) == ("content_filter", "project names")


async def test_blocked_text_is_cut_before_the_match(client: openai.AsyncOpenAI) -> None:
    """No part of the match is visible, whole or streamed."""
    for reply in await both(client, "@say<<It is Blue Moon, you know.>>"):
        assert reply.choices[0].message.content.strip() == "It is"
        assert reply.choices[0].finish_reason == "content_filter"


async def test_text_continues_after_a_redaction(client: openai.AsyncOpenAI) -> None:
    """It has the replacement and its natural end."""
    for reply in await both(client, "@say<<Use sk-abcdefgh today.>>"):
        assert reply.choices[0].message.content == "Use [secret] today."
        assert reply.choices[0].finish_reason == "stop"
