"""How likely the tokens of an answer were, as each kind of reply tells it."""

from __future__ import annotations

from pydantic import BaseModel, Field


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
