"""What both ways of generating take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rest_bridge.schemas.constraints import ResponseFormat, SchemaOrText
from rest_bridge.schemas.fields import FIRST_BAD, RequestModel, documented, knob
from rest_bridge.schemas.inputs import Stop
from rest_bridge.schemas.logit_bias import LogitBias

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1


class StreamOptions(RequestModel):
    """What a stream holds beside the text."""

    include_usage: bool | None = documented(
        "Sends one more chunk before the end, with the token counts and no choices.", default=False
    )


class GenerationRequest(RequestModel):
    """The parameters that chat and text completions share."""

    model: str = Field(description="A served model id, or an alias of one.")
    max_tokens: int | None = documented(
        "Most tokens to generate, at most `max_tokens_limit` of the model in /v1/models (4096 unless the "
        "operator sets another); without it `default_max_tokens` (150 unless set), or what the context has "
        "room for.",
        minimum=1,
    )
    max_completion_tokens: int | None = documented("Another name of `max_tokens`.", minimum=1)
    temperature: float | None = knob("Sampling temperature; 0 decodes greedily.", 0.0, 2.0, 0.7)
    top_p: float | None = knob("Nucleus sampling: the probability mass to sample from.", 0.0, 1.0, 0.9)
    top_k: int | None = knob("Samples from the k likeliest tokens; 0 or -1: from all.", -1, _INT32, 0)
    min_p: float | None = knob(
        "Drops tokens below this share of the likeliest one's probability; 0: none.", 0.0, 1.0, 0.0
    )
    frequency_penalty: float | None = knob(
        "Penalty for each time a token was generated already.", -2.0, 2.0, 0.0
    )
    presence_penalty: float | None = knob("Penalty for tokens that were generated already.", -2.0, 2.0, 0.0)
    repetition_penalty: float | None = documented(
        "Multiplicative penalty for repetition, over 0; 1 is off.",
        exclusiveMinimum=0.0,
        maximum=2.0,
        default=1.0,
    )
    seed: int | None = knob(
        "The same request with the same seed gives the same text on the same idle engine.",
        -_INT64 - 1,
        _INT64,
    )
    logit_bias: LogitBias = documented("Token ids, and what is added to their logits; -100 forbids a token.")
    n: int | None = knob("Answers to each prompt.", 1, 8, 1)
    stop: Stop = documented(
        "Up to 4 texts that end the generation; not part of it, nor looked for in demanded calls."
    )
    include_stop_str_in_output: bool | None = documented(
        "Keeps the text of `stop` that was met at the end of the answer.", default=False
    )
    stop_token_ids: Annotated[list[int] | None, FIRST_BAD] = documented(
        "Token ids that end the generation; they are not part of it.", maxItems=64
    )
    ignore_eos: bool | None = documented(
        "Keeps generating past the model's end-of-sequence token.", default=False
    )
    response_format: ResponseFormat | None = documented(
        "What the answer must be. At most one of this and the `guided_` parameters."
    )
    guided_json: SchemaOrText = documented("A JSON Schema that the answer validates against.")
    guided_regex: str | None = documented("A regular expression that matches the whole answer.")
    guided_grammar: str | None = documented("A grammar in GBNF; its rule `root` generates the whole answer.")
    stream: bool | None = documented("Sends the text as it is made, as server-sent events.", default=False)
    stream_options: StreamOptions | None = documented("Only with `stream`.")
    user: str | None = documented("Your own name for the end user; recorded with the request.", maxLength=256)
    return_token_ids: bool | None = documented(
        "Adds the token ids behind the text to each choice, as `token_ids`.", default=False
    )
    validate_only: bool | None = documented(
        "Checks the request and explains it, as JSON and without generating anything.", default=False
    )
