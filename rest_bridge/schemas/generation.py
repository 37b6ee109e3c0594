"""What both ways of generating take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lodestream_common.parameters import PARAMETERS
from rest_bridge.schemas.constraints import ResponseFormat, SchemaOrText
from rest_bridge.schemas.fields import FIRST_BAD, RequestModel, documented, parameter
from rest_bridge.schemas.inputs import Stop
from rest_bridge.schemas.logit_bias import LogitBias

_MAX_TOKENS = PARAMETERS["max_tokens"]


class StreamOptions(RequestModel):
    """What a stream holds beside the text."""

    include_usage: bool | None = documented(
        "Sends one more chunk before the end, with the token counts and no choices.", default=False
    )


class GenerationRequest(RequestModel):
    """The parameters that chat and text completions share."""

    model: str = Field(description="A served model id, or an alias of one.")
    max_tokens: int | None = documented(
        PARAMETERS["max_tokens"].meaning, minimum=PARAMETERS["max_tokens"].low
    )
    max_completion_tokens: int | None = documented(
        "Another name of `max_tokens`.", minimum=PARAMETERS["max_tokens"].low
    )
    temperature: float | None = parameter("temperature")
    top_p: float | None = parameter("top_p")
    top_k: int | None = parameter("top_k")
    min_p: float | None = parameter("min_p")
    frequency_penalty: float | None = parameter("frequency_penalty")
    presence_penalty: float | None = parameter("presence_penalty")
    repetition_penalty: float | None = parameter("repetition_penalty")
    seed: int | None = parameter("seed")
    logit_bias: LogitBias = documented(PARAMETERS["logit_bias"].meaning)
    n: int | None = parameter("n")
    stop: Stop = documented(PARAMETERS["stop"].meaning)
    include_stop_str_in_output: bool | None = parameter("include_stop_str_in_output")
    stop_token_ids: Annotated[list[int] | None, FIRST_BAD] = parameter("stop_token_ids")
    ignore_eos: bool | None = parameter("ignore_eos")
    response_format: ResponseFormat | None = documented(
        "What the answer must be. At most one of this and the `guided_` parameters."
    )
    guided_json: SchemaOrText = documented("A JSON Schema that the answer validates against.")
    guided_regex: str | None = documented("A regular expression that matches the whole answer.")
    guided_grammar: str | None = documented("A grammar in GBNF; its rule `root` generates the whole answer.")
    stream: bool | None = documented("Sends the text as it is made, as server-sent events.", default=False)
    stream_options: StreamOptions | None = documented("Only with `stream`.")
    user: str | None = parameter("user")
    return_token_ids: bool | None = documented(
        "Adds the token ids behind the text to each choice, as `token_ids`.", default=False
    )
    validate_only: bool | None = documented(
        "Checks the request and explains it, as JSON and without generating anything.", default=False
    )
