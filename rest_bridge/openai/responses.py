"""What replies of every kind are made of, as the API's description documents them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
CompletionFinishReason = Literal["stop", "length", "content_filter"]


class PromptTokensDetails(BaseModel):
    """What became of the prompt."""

    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed again.")


class Usage(BaseModel):
    """Token counts of the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = Field(
        default=None, description="Absent where the engine does not tell what its cache held."
    )


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    queue_ms: float = Field(description="From arrival at the service to admission.")
    prefill_ms: float = Field(description="From admission to the first token.")
    decode_ms: float = Field(description="From the first token to the last.")
    bridge_ms: float = Field(description="The rest: this bridge, and waiting for a reader who is slow.")
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
    seed: int = Field(description="The request's own, or the one that was drawn for it.")
    logit_bias: dict[str, float]


class Ending(BaseModel):
    """How a choice ended."""

    index: int
    cause: str = Field(
        description="end_of_sequence, stop_sequence, stop_token, max_tokens, deadline, content_filter, "
        "tool_calls, or one that is newer than this description."
    )
    stop_sequence: str | None = Field(description="The text of `stop` that was met, if one was.")
    stop_token_id: int | None = Field(description="The token that ended it, if one did.")
    filter_rule: str | None = Field(description="The rule of the content filter that was met, if one was.")


class ReplyMetadata(BaseModel):
    """What became of the request; times in milliseconds."""

    region: str
    latency_ms: int
    queue_time_ms: int
    inference_time_ms: int
    model_load_time_ms: int
    timings: Timings
    batch_size: int = Field(description="Generations that ran when this one began, itself included.")
    parameters: EffectiveParameters
    ignored_parameters: list[str] = Field(description="What the request asked for to no effect.")
    choices: list[Ending]


class Validation(BaseModel):
    """The reply to a request with `validate_only` that would be taken."""

    id: str
    object: Literal["validation"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[Any] = Field(description="Always empty.", max_length=0)
    usage: Usage = Field(description="`prompt_tokens` counts the prompt; nothing is generated.")
    parameters: EffectiveParameters
    queue_estimate_ms: float = Field(description="How long the request would wait now, as estimated.")
    ignored_parameters: list[str] = Field(description="What the request asks for to no effect.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The parameter that is wrong; null: no single one is.")
    code: str | None


class ErrorReply(BaseModel):
    """The body of every error, and the event that ends a failed stream."""

    error: ErrorDetail


class TopLogprob(BaseModel):
    """A token that could have stood here."""

    token: str = Field(description="Its text; U+FFFD stands for bytes that are part of a character.")
    bytes: list[int] | None = Field(description="Its exact bytes; null for control tokens.")
    logprob: float = Field(description="Natural logarithm of its probability; -9999.0 is the least told.")


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens here, likeliest first.")


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
        description="The likeliest tokens there and the token itself, by text."
    )
    text_offset: list[int] = Field(description="Where they begin in the text, in characters.")
