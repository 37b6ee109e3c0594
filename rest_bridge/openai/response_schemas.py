"""The schemas of responses, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
)

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
CompletionFinishReason = Literal["stop", "length", "content_filter"]


class PromptTokensDetails(BaseModel):
    """Details of the prompt's tokens."""

    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed again.")


class Usage(BaseModel):
    """Token counts of the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = Field(
        default=None, description="Absent where the engine does not report cached tokens."
    )


class Timings(BaseModel):
    """The phases of the request, in milliseconds."""

    queue_ms: float = Field(description="From arrival at the service to admission.")
    prefill_ms: float = Field(description="From admission to the first token.")
    decode_ms: float = Field(description="From the first token to the last.")
    bridge_ms: float = Field(description="The rest: this bridge, the network, and waiting for a slow reader.")
    time_to_first_token_ms: float = Field(description="From arrival at the service to the first token.")


class EffectiveParameters(BaseModel):
    """The parameters in effect, defaults included."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int = Field(description="The request's own, or a random one.")
    logit_bias: dict[str, float]


class Ending(BaseModel):
    """How a choice ended."""

    index: int
    cause: str = Field(
        description="end_of_sequence, stop_sequence, stop_token, max_tokens, deadline, content_filter, "
        "tool_calls, or one that is newer than this description."
    )
    stop_sequence: str | None = Field(description="The stop sequence that ended it, if one did.")
    stop_token_id: int | None = Field(description="The token that ended it, if one did.")
    filter_rule: str | None = Field(description="The rule of the content filter that ended it, if one did.")


class ReplyMetadata(BaseModel):
    """Facts about the request; times in milliseconds."""

    region: str
    latency_ms: int
    queue_time_ms: int
    inference_time_ms: int
    model_load_time_ms: int
    timings: Timings
    batch_size: int = Field(description="Generations that ran when this one began, itself included.")
    parameters: EffectiveParameters
    ignored_parameters: list[str] = Field(description="Parameters of the request without effect.")
    choices: list[Ending]


class Validation(BaseModel):
    """The response to a valid request with `validate_only`."""

    id: str
    object: Literal["validation"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[Any] = Field(description="Always empty.", max_length=0)
    usage: Usage = Field(description="`prompt_tokens` counts the prompt; nothing is generated.")
    parameters: EffectiveParameters
    queue_estimate_ms: float = Field(description="The estimated wait in the queue, in milliseconds.")
    ignored_parameters: list[str] = Field(description="Parameters of the request without effect.")


class ErrorDetail(BaseModel):
    """The error."""

    message: str
    type: str
    param: str | None = Field(description="The wrong parameter; null: no single one is wrong.")
    code: str | None


class ErrorReply(BaseModel):
    """The body of every error, and the event that ends a failed stream."""

    error: ErrorDetail


class TopLogprob(BaseModel):
    """A token that was possible at this position."""

    token: str = Field(description="Its text; U+FFFD stands for bytes that are part of a character.")
    bytes: list[int] | None = Field(description="Its exact bytes; null for control tokens.")
    logprob: float = Field(description="Natural logarithm of its probability; -9999.0 is the minimum.")


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob] = Field(
        description="The likeliest tokens at this position, likeliest first."
    )


class ChatLogprobs(BaseModel):
    """One entry for each token."""

    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(BaseModel):
    """One element for each token in each list."""

    tokens: list[str] = Field(
        description="Their texts; `bytes:\\xe2\\x80` stands for bytes that are part of a character."
    )
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = Field(
        description="The likeliest tokens at each position and the token itself, by text."
    )
    text_offset: list[int] = Field(
        description="The position in the text at which each begins, in characters."
    )


class Function(BaseModel):
    """The function that the model called."""

    name: str
    arguments: str = Field(
        description="A JSON object as text; cut short where the answer ended with `length`."
    )


class ToolCall(BaseModel):
    """A call that the model made."""

    id: str
    type: Literal["function"]
    function: Function


class FunctionDelta(BaseModel):
    """The new part of a call: first the name, then parts of the arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(BaseModel):
    """The new part of a call; the first part has the id, the type and the function's name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ReplyMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where the model only called tools.")
    refusal: str | None
    tool_calls: list[ToolCall] | None = Field(default=None, description="Only where the model called tools.")


class ChatChoice(BaseModel):
    """One generated choice."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletion(BaseModel):
    """A whole response."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class ChatDelta(BaseModel):
    """The new part of a message; the first one of a choice has the role, the last one is empty."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    """The new part of one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
    pg_metadata: ReplyMetadata | None = Field(default=None, description="Beside `usage`.")


class CompletionChoice(BaseModel):
    """One generated text, or in a stream its new part."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionFinishReason | None = Field(
        description="Null in every chunk of a stream but the last."
    )
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class Completion(BaseModel):
    """A whole response."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class CompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
    pg_metadata: ReplyMetadata | None = Field(default=None, description="Beside `usage`.")
