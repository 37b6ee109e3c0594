from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from lodestream_common.parameters import PARAMETERS
from rest_bridge.schemas.fields import documented
from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.schemas.inputs import Prompts
from rest_bridge.schemas.logprobs import CompletionLogprobs
from rest_bridge.schemas.replies import CompletionFinishReason, ReplyMetadata, Usage


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Prompts = Field(
        description="The text to continue, or its token ids; or up to 16 of them, answered one by one."
    )
    parse_special: bool | None = documented(
        "Reads the texts of control tokens in a prompt as those tokens, as prompts need that were rendered "
        "from a chat template. Without it they are plain text, and the header x-ignored-parameters names "
        "`prompt.control_tokens`.",
        default=False,
    )
    logprobs: int | None = documented(
        "Log probabilities of the tokens, and of so many likelier ones; OpenAI's own API has up to 5.",
        minimum=PARAMETERS["top_logprobs"].low,
        maximum=PARAMETERS["top_logprobs"].high,
    )
    echo: bool | None = documented("Puts the prompt before the text; not with `logprobs`.", default=False)
    best_of: int | None = documented("Only 1, or the same as `n`: nothing is generated to be left out.")


class CompletionChoice(BaseModel):
    """One generated text; in a stream, what is new of it."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionFinishReason | None = Field(
        description="Null in every chunk of a stream but the last."
    )
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class Completion(BaseModel):
    """The whole answer."""

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
