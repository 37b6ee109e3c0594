"""What one generation can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from inference_client.constraint import Constraint
from inference_client.conversation import Messages, Tool, ToolChoice, ToolChoiceMode

if TYPE_CHECKING:
    from typing import Required


class CountOptions(TypedDict, total=False):
    """The keywords of `count_tokens`: those of `GenerateOptions` that are about one prompt."""

    messages: Messages | None
    prompt: str | None
    token_ids: Sequence[int] | None
    tools: Sequence[Tool] | None
    tool_choice: ToolChoiceMode | ToolChoice | None
    parallel_tool_calls: bool | None
    parse_special: bool | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None


class GenerateOptions(TypedDict, total=False):
    """The keywords of `generate`, `stream`, `validate` and `build_request`.

    Exactly one of `messages`, `prompt` and `token_ids` is given. None is the same as not given, and
    leaves the choice to the service.
    """

    model: Required[str]
    """A served model id or one of its aliases."""
    messages: Messages | None
    """A conversation, 1 turn or more."""
    prompt: str | Sequence[str] | None
    """Raw text; or 1 to 16 of them, each answered by `n` choices, those of the first prompt first."""
    token_ids: Sequence[int] | Sequence[Sequence[int]] | None
    """A prompt that is tokenised already, 1 id or more; or 1 to 16 of them, like `prompt`."""
    parse_special: bool | None
    """Reads the texts of control tokens in `prompt` as those tokens. Not given: false, they are plain text,
    and the report names `prompt.control_tokens`."""
    temperature: float | None
    """Range [0, 2]; 0 decodes greedily. Not given: 0.7."""
    top_p: float | None
    """Nucleus mass, range [0, 1]. Not given: 0.9."""
    top_k: int | None
    """Keeps the k likeliest tokens, 1 or more; 0 and -1 turn it off. Not given: off."""
    min_p: float | None
    """Drops tokens below this share of the likeliest one's probability, range [0, 1]. Not given: 0, off."""
    frequency_penalty: float | None
    """Range [-2, 2], on generated tokens only. Not given: 0."""
    presence_penalty: float | None
    """Range [-2, 2], on generated tokens only. Not given: 0."""
    repetition_penalty: float | None
    """Range (0, 2]; 1 is off. Not given: 1."""
    seed: int | None
    """Any signed 64-bit integer. Not given: a random one for each request."""
    logit_bias: Mapping[int, float] | None
    """At most 300 token ids, and what is added to their logits, range [-100, 100]; -100 forbids a token."""
    max_tokens: int | None
    """Most tokens of a choice, from 1 to the model's `max_tokens_limit` (4096 unless its operator sets
    another). Not given: its `default_max_tokens` (150 unless set), or what the context has room for."""
    stop: str | Sequence[str] | None
    """One text, or at most 4, each of 1 to 1024 characters, that end the generation."""
    stop_token_ids: Sequence[int] | None
    """At most 64 token ids that end the generation."""
    ignore_eos: bool | None
    """Keeps generating past the end-of-sequence token; not with `constraint`. Not given: false."""
    include_stop: bool | None
    """Keeps the stop sequence that was met at the end of the text. Not given: false."""
    n: int | None
    """Choices for each prompt, range [1, 8], together at most 32. Not given: 1."""
    logprobs: bool | None
    """Log probabilities of the generated tokens. Not given: false."""
    top_logprobs: int | None
    """Likeliest tokens at each place with theirs, range [0, 20]; only with `logprobs`. Not given: 0."""
    echo: bool | None
    """Puts the prompt's text first; not with `messages`, nor with `logprobs`. Not given: false."""
    constraint: Constraint | None
    """What the whole text of each choice must be. Not given: anything."""
    tools: Sequence[Tool] | None
    """At most 128 functions that the model may call, with names of their own; only with `messages`."""
    tool_choice: ToolChoiceMode | ToolChoice | None
    """Whether the model calls tools, or which one; only with `tools`. Not given: it decides."""
    parallel_tool_calls: bool | None
    """Whether one answer may hold several calls; only with `tools`. Not given: true."""
    add_generation_prompt: bool | None
    """Whether the prompt ends with the header of the answer; only with `messages`. Not given: true, or false
    with `continue_final_message`."""
    continue_final_message: bool | None
    """The answer continues the text of the last message, which has no tool calls; only with `messages`, and
    not with `add_generation_prompt`. Not given: false."""
    user: str | None
    """The caller's own name for the end user, at most 256 characters."""
