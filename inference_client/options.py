"""The parts of a request: conversations, tools, constraints, and the keywords of a generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from typing import Required

JsonSchemaSource = Mapping[str, Any] | str
"""A JSON Schema, as a mapping or as JSON text."""

WhitespaceMode = Literal["compact", "flexible"]
"""What may stand between the parts of JSON. `compact`: at most one space, behind a colon or a comma;
`flexible`: spaces, tabs and line breaks, up to 64 in one place."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """The author of the turn; `tool`: the turn is the result of a tool call."""
    content: str = ""
    """The text of the turn."""
    tool_calls: Sequence[ToolCall | Mapping[str, str]] = ()
    """Only with the role assistant: the tool calls of the turn. A mapping has the keys of a `ToolCall`."""
    tool_call_id: str | None = None
    """Only with the role tool: the id of the tool call whose result the turn is."""


Messages = Sequence[Message | Mapping[str, Any]]
"""A conversation, oldest turn first. A mapping has the keys of a `Message`: `role` is required, and `content`
too if there are no `tool_calls`."""


ToolChoiceMode = Literal["auto", "none", "required"]
"""`auto`: the model decides; `none`: it calls no tool; `required`: it calls one tool or more."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    """1 to 64 characters of [A-Za-z0-9_-]."""
    description: str = ""
    """A description of the function, which the model reads."""
    parameters: JsonSchemaSource | None = None
    """JSON Schema of the arguments, which are an object. None: the function has no arguments."""
    strict: bool | None = None
    """Only where a call is enforced: the service refuses a schema that it cannot enforce exactly. None or
    false: it enforces as much of the schema as it can."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The tool that the model must call."""

    name: str
    """One of the tools of the request."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the model."""

    id: str
    """The message with the result has it as its `tool_call_id`."""
    name: str
    """The tool's name."""
    arguments: str
    """A JSON object as text; incomplete if the choice ended with `FinishReason.LENGTH`."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of a tool call in a stream: the first one has id and name, the next ones have the arguments."""

    index: int
    """Position of the call in the choice, counted from 0."""
    id: str | None
    """Set in the first part of a call, else None."""
    name: str | None
    """Set in the first part of a call, else None."""
    arguments: str
    """New text of the arguments; may be empty."""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The answer is any JSON object."""

    whitespace: WhitespaceMode | None = None
    """None is the same as not given: `compact`."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that validates against a schema."""

    schema: JsonSchemaSource
    """The schema, at most 512 KiB of JSON text."""
    whitespace: WhitespaceMode | None = None
    """None is the same as not given: `compact`."""


@dataclass(frozen=True, slots=True)
class Regex:
    """The answer is a text that a regular expression matches as a whole."""

    pattern: str
    """The regular expression, 1 character or more."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is a text that a grammar generates from its rule `root`."""

    source: str
    """The rules, in GBNF, the EBNF notation of llama.cpp."""


Constraint = JsonObject | JsonSchema | Regex | Grammar
"""What the whole text of each choice must be. A choice that ends with `FinishReason.STOP`, and not by a stop
sequence or a stop token, satisfies it. The service refuses a constraint that it cannot enforce."""


class CountOptions(TypedDict, total=False):
    """The keywords of `count_tokens`, a part of those of `GenerateOptions`."""

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

    Exactly one of `messages`, `prompt` and `token_ids` is required. None is the same as not given: the
    service uses its default.
    """

    model: Required[str]
    """The id of a served model, or one of its aliases."""
    messages: Messages | None
    """A conversation, 1 turn or more."""
    prompt: str | Sequence[str] | None
    """Raw text, or 1 to 16 texts. Each prompt gets `n` choices, and those of the first prompt come first."""
    token_ids: Sequence[int] | Sequence[Sequence[int]] | None
    """A tokenised prompt of 1 id or more, or 1 to 16 such prompts; choices as with `prompt`."""
    parse_special: bool | None
    """Whether the texts of control tokens in `prompt` become those tokens. Not given: false; they stay plain
    text, and the report names `prompt.control_tokens`."""
    temperature: float | None
    """Range [0, 2]; 0 decodes greedily. Not given: 0.7."""
    top_p: float | None
    """Nucleus mass, range [0, 1]. Not given: 0.9."""
    top_k: int | None
    """Samples from the k likeliest tokens, 1 or more; 0 and -1 turn it off. Not given: off."""
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
    """A number for each of at most 300 token ids, range [-100, 100], that is added to the token's logit; -100
    forbids the token."""
    max_tokens: int | None
    """Most tokens of a choice, from 1 to the model's `max_tokens_limit` (4096, unless the operator sets
    another). Not given: the model's `default_max_tokens` (150, unless the operator sets another), or less if
    the context length allows less."""
    stop: str | Sequence[str] | None
    """One text, or at most 4, each of 1 to 1024 characters, that end the generation."""
    stop_token_ids: Sequence[int] | None
    """At most 64 token ids that end the generation."""
    ignore_eos: bool | None
    """Whether generation continues after the end-of-sequence token; not with `constraint`. Not given:
    false."""
    include_stop: bool | None
    """Whether the text ends with the stop sequence that ended it. Not given: false."""
    n: int | None
    """Choices for each prompt, range [1, 8]; at most 32 for all prompts together. Not given: 1."""
    logprobs: bool | None
    """Whether the answer has the log probabilities of the generated tokens. Not given: false."""
    top_logprobs: int | None
    """How many of the likeliest tokens at each position are reported, with their log probabilities, range [0,
    20]; only with `logprobs`. Not given: 0."""
    echo: bool | None
    """Whether the text begins with the prompt; not with `messages` or `logprobs`. Not given: false."""
    constraint: Constraint | None
    """What the whole text of each choice must be. Not given: anything."""
    tools: Sequence[Tool] | None
    """At most 128 functions that the model may call, each with a different name; only with `messages`."""
    tool_choice: ToolChoiceMode | ToolChoice | None
    """Whether the model calls tools, or which one; only with `tools`. Not given: `auto`."""
    parallel_tool_calls: bool | None
    """Whether one answer may hold several calls; only with `tools`. Not given: true."""
    add_generation_prompt: bool | None
    """Whether the prompt ends with the header of the answer; only with `messages`. Not given: true, but false
    with `continue_final_message`."""
    continue_final_message: bool | None
    """Whether the answer continues the text of the last message, which has no tool calls; only with
    `messages`, and not with `add_generation_prompt`. Not given: false."""
    user: str | None
    """The caller's own name for the end user, at most 256 characters."""
