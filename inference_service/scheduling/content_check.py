"""The content filter's look at a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inference_service.output.content_filter.output import ContentPolicy
from inference_service.prompt.conversation import read_arguments, strings_in, strings_in_value
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.request.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    single_prompts,
)


@dataclass(frozen=True, slots=True)
class Screening:
    """What becomes of a prompt."""

    prompt: Prompt | BatchPrompt
    """With what must not be read redacted."""
    blocked_by: str | None = None
    """The rule that forbids it."""


def screened(
    policy: ContentPolicy | None, prompt: Prompt | BatchPrompt, tokenizer: Tokenizer, key_name: str
) -> Screening:
    """Ask the filter about every text of a prompt.

    Token ids are judged by their text; tools, and the calls of earlier turns, by the texts in them. Neither
    can be redacted, so a rule that would is one that blocks.
    """
    if policy is None:
        return Screening(prompt)
    prompts = single_prompts(prompt)
    fixed = policy.check_prompt([text for one in prompts for text in _fixed_texts(one, tokenizer)], key_name)
    texts = policy.check_prompt([text for one in prompts for text in _texts(one)], key_name)
    blocked = texts.blocked or fixed.blocked
    if blocked is not None:
        return Screening(prompt, blocked.rule)
    if fixed.redacted:
        return Screening(prompt, min(fixed.redacted))
    return Screening(_redacted(prompt, iter(texts.texts)) if texts.redacted else prompt)


def _texts(prompt: Prompt) -> Sequence[str]:
    if isinstance(prompt, ChatPrompt):
        return [turn.content for turn in prompt.turns]
    return [prompt.text] if isinstance(prompt, TextPrompt) else []


def _fixed_texts(prompt: Prompt, tokenizer: Tokenizer) -> Iterator[str]:
    """Texts that cannot be changed."""
    if isinstance(prompt, TokenPrompt):
        yield tokenizer.decode(token_id for token_id in prompt.ids if token_id < tokenizer.vocabulary_size)
    elif isinstance(prompt, ChatPrompt):
        for tool in prompt.tools:
            yield "\n".join((tool.name, tool.description, *strings_in_value(tool.parameters)))
        for call in (call for turn in prompt.turns for call in turn.tool_calls):
            yield "\n".join((call.name, *strings_in(read_arguments(call.arguments))))


def _redacted(prompt: Prompt | BatchPrompt, texts: Iterator[str]) -> Prompt | BatchPrompt:
    """The prompt with these texts in the place of its own, in their order."""
    if isinstance(prompt, BatchPrompt):
        return BatchPrompt(tuple(_one_redacted(one, texts) for one in prompt.prompts))
    if isinstance(prompt, ChatPrompt):
        return replace(prompt, turns=tuple(replace(turn, content=next(texts)) for turn in prompt.turns))
    return _one_redacted(prompt, texts)


def _one_redacted(prompt: TextPrompt | TokenPrompt, texts: Iterator[str]) -> TextPrompt | TokenPrompt:
    return replace(prompt, text=next(texts)) if isinstance(prompt, TextPrompt) else prompt
