"""The route that returns the receipt of a past request."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from inference_client import UsageReceipt
from lodestream_common.keys import Level
from rest_bridge.openai.responses import Json, json_response
from rest_bridge.openapi import SECURED, USAGE_ERRORS
from rest_bridge.request import admit, bridge_of


class CachedTokens(BaseModel):
    """Parts of the prompt."""

    cached_tokens: int


class ReceiptTokens(BaseModel):
    """Tokens, as in the reply of a generation; those of an aborted request are counted, too."""

    prompt_tokens: int = Field(description="0 where the request was refused before the queue.")
    completion_tokens: int = Field(description="Tokens that the engine decoded.")
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = Field(
        default=None, description="Missing where the engine does not report it."
    )


class ReceiptTimings(BaseModel):
    """Milliseconds; all but the total are null where the request did not come to the queue."""

    queue_ms: float | None = Field(description="From arrival at the service to admission.")
    time_to_first_token_ms: float | None = Field(description="From arrival to the first token.")
    prefill_ms: float | None = Field(description="From admission to the first token.")
    decode_ms: float | None = Field(description="From the first token to the last.")
    total_ms: float = Field(description="From the start of the call to the service to its end.")


class Receipt(BaseModel):
    """What one generation request took at the service, also if it was refused or aborted there."""

    id: str = Field(description="The request's x-request-id.")
    object: Literal["usage.receipt"]
    created: float = Field(description="Seconds since the Unix epoch at which the request arrived.")
    model: str = Field(description="Empty where the request was refused before its model was known.")
    key_id: str
    key_name: str
    outcome: str = Field(description="ok, cancelled, or the code of the error.")
    finish_causes: list[str] = Field(description="The stop causes of the choices that ended.")
    choices: int
    usage: ReceiptTokens
    timings: ReceiptTimings


router = APIRouter(tags=["usage"])


@router.get(
    "/v1/usage/{request_id}",
    response_model=None,
    responses={200: {"model": Receipt}, **USAGE_ERRORS},
    openapi_extra=SECURED,
)
async def retrieve_usage(request: Request, request_id: str) -> Response:
    """Return the receipt of a past request of the same key; where an id was used twice, the newest one."""
    context = admit(request, Level.READ_ONLY)
    receipt = await bridge_of(request).client.get_usage(request_id, **context.rpc_options)
    context.rate_limits = partial(dict, receipt.rate_limits)
    return json_response(_receipt(receipt))


def _receipt(receipt: UsageReceipt) -> Json:
    cached = receipt.cached_tokens
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {
        "id": receipt.request_id,
        "object": "usage.receipt",
        "created": receipt.arrived,
        "model": receipt.model,
        "key_id": receipt.key_id,
        "key_name": receipt.key_name,
        "outcome": receipt.outcome,
        "finish_causes": [cause.value for cause in receipt.causes],
        "choices": receipt.choices,
        "usage": {
            "prompt_tokens": receipt.prompt_tokens,
            "completion_tokens": receipt.completion_tokens,
            "total_tokens": receipt.prompt_tokens + receipt.completion_tokens,
            **details,
        },
        "timings": {
            "queue_ms": receipt.queue_ms,
            "time_to_first_token_ms": receipt.time_to_first_token_ms,
            "prefill_ms": receipt.prefill_ms,
            "decode_ms": receipt.decode_ms,
            "total_ms": receipt.total_ms,
        },
    }
