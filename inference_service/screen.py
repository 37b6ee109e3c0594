"""The content filter's look at a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference_service.generation.filter import ContentPolicy
from inference_service.generation.tokenizer import Tokenizer
from inference_service.parse import BatchPrompt, ChatPrompt, Prompt, TextPrompt, TokenPrompt, single_prompts


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

    Token ids are judged by their text. They cannot be redacted, so a rule that would is one that blocks.
    """
    if policy is None:
        return Screening(prompt)
    texts = [text for one in single_prompts(prompt) for text in _texts(one, tokenizer)]
    verdict = policy.check_prompt(texts, key_name)
    if verdict.blocked is not None:
        return Screening(prompt, verdict.blocked.rule)
    if not verdict.redacted:
        return Screening(prompt)
    if any(isinstance(one, TokenPrompt) for one in single_prompts(prompt)):
        return Screening(prompt, min(verdict.redacted))
    return Screening(_redacted(prompt, verdict.texts))


def _texts(prompt: Prompt, tokenizer: Tokenizer) -> Sequence[str]:
    if isinstance(prompt, ChatPrompt):
        return [turn.content for turn in prompt.turns]
    if isinstance(prompt, TextPrompt):
        return [prompt.text]
    known = [token_id for token_id in prompt.ids if token_id < tokenizer.vocabulary_size]
    return [tokenizer.decode(known)]


def _redacted(prompt: Prompt | BatchPrompt, texts: Sequence[str]) -> Prompt | BatchPrompt:
    if isinstance(prompt, ChatPrompt):
        turns = [replace(turn, content=text) for turn, text in zip(prompt.turns, texts, strict=True)]
        return replace(prompt, turns=tuple(turns))
    if isinstance(prompt, BatchPrompt):
        return BatchPrompt(tuple(TextPrompt(text) for text in texts))
    return TextPrompt(texts[0])
