"""The parts of a prompt that the content filter checks, and the filtered prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference_service.output.content_filter.rules_file import FilePolicy
from inference_service.prompt.conversation import ChatTurn, Tool, ToolCall, ToolChoice
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.request.prompt import BatchPrompt, ChatPrompt, TextPrompt, TokenPrompt
from inference_service.scheduling.planner import filtered_prompt

RULES = """\
[[rules]]
name = "bad"
action = "block"
phrases = ["bad word"]

[[rules]]
name = "secrets"
action = "redact"
replacement = "[gone]"
phrases = ["secret"]

[[rules]]
name = "output"
action = "block"
applies_to = "output"
phrases = ["elsewhere"]
"""


@pytest.fixture
def policy(tmp_path: Path) -> FilePolicy:
    path = tmp_path / "filter.toml"
    path.write_text(RULES, encoding="utf-8")
    return FilePolicy(path)


@pytest.fixture
def check(policy: FilePolicy, tokenizer: Tokenizer) -> Any:
    def filtered(prompt: Any) -> tuple[Any, str | None]:
        return filtered_prompt(policy, prompt, tokenizer, "anybody")

    return filtered


def chat(*contents: str, calls: tuple[ToolCall, ...] = (), tools: tuple[Tool, ...] = ()) -> ChatPrompt:
    turns = [ChatTurn("assistant", content, calls) for content in contents]
    return ChatPrompt(tuple(turns), tools, ToolChoice())


def test_without_a_policy_prompts_are_not_checked(tokenizer: Tokenizer) -> None:
    prompt = TextPrompt("bad word")

    assert filtered_prompt(None, prompt, tokenizer, "anybody") == (prompt, None)


@pytest.mark.parametrize(
    "prompt", [TextPrompt("elsewhere"), chat("a", "b"), BatchPrompt((TextPrompt("a"), TokenPrompt((1,))))]
)
def test_a_prompt_without_matches_is_unchanged(check: Any, prompt: Any) -> None:
    found, rule = check(prompt)

    assert found is prompt
    assert rule is None


def test_a_text_is_filtered(check: Any) -> None:
    assert check(TextPrompt("a bad word"))[1] == "bad"
    assert check(TextPrompt("my secret")) == (TextPrompt("my [gone]"), None)


def test_every_turn_of_a_conversation_is_filtered(check: Any) -> None:
    assert check(chat("a", "a bad word"))[1] == "bad"
    assert check(chat("bad", "word"))[1] is None
    assert check(chat("a", "secret b", "c")) == (chat("a", "[gone] b", "c"), None)


def test_every_prompt_of_a_batch_is_filtered(check: Any, tokenizer: Tokenizer) -> None:
    ids = TokenPrompt(tuple(tokenizer.encode_text("harmless")))

    assert check(BatchPrompt((TextPrompt("a"), TextPrompt("bad word"))))[1] == "bad"
    assert check(BatchPrompt((TextPrompt("a secret"), ids, TextPrompt("b")))) == (
        BatchPrompt((TextPrompt("a [gone]"), ids, TextPrompt("b"))),
        None,
    )


@pytest.mark.parametrize(("text", "rule"), [("a bad word", "bad"), ("a secret", "secrets"), ("a", None)])
def test_token_ids_are_filtered_by_their_text(
    check: Any, tokenizer: Tokenizer, text: str, rule: str | None
) -> None:
    """Token ids cannot be redacted, so a match blocks. Ids outside the vocabulary are refused later."""
    prompt = TokenPrompt((*tokenizer.encode_text(text), 2**32 - 1))

    assert check(prompt) == (prompt, rule)
    assert check(BatchPrompt((TextPrompt("a"), prompt)))[1] == rule


@pytest.mark.parametrize(
    "tool",
    [
        Tool("f", "a secret"),
        Tool("secret"),
        Tool("f", "", {"type": "object", "properties": {"secret": {}}}),
        Tool("f", "", {"properties": {"a": {"description": "my secret", "enum": [1, None, ["x"]]}}}),
        Tool("f", "", {"properties": {"a": {"enum": [1, {"b": ["a secret"]}]}}}),
    ],
)
def test_the_texts_of_tools_are_filtered(check: Any, tool: Tool) -> None:
    assert check(chat("a", tools=(Tool("g"), tool)))[1] == "secrets"
    assert check(chat("a", tools=(Tool("g", "harmless", {"type": "object"}),)))[1] is None


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ("", None),
        (" ", None),
        ('{"a": "x"}', None),
        ('{"a": "a secret"}', "secrets"),
        ('{"a": [{"b": "bad word"}]}', "bad"),
        ('{"a": "\\u0073ecret"}', "secrets"),
        ('{"bad word": 1}', "bad"),
        ('{"a": "\\u0073ecret", "b": "un', "secrets"),
        ('{"a": "x", "b": "my \\u0073ecret', "secrets"),
        ('["\\u0062ad word"]', "bad"),
    ],
)
def test_the_texts_of_earlier_calls_are_filtered(check: Any, arguments: str, rule: str | None) -> None:
    """The filter reads the JSON strings unescaped, as the model does."""
    assert check(chat("a", calls=(ToolCall("1", "f", arguments),)))[1] == rule
