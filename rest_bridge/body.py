"""Reading a request's body: once, as a stream, up to a limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from rest_bridge.coding import Decoder
from rest_bridge.errors import ClientGone, too_large


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: 413 as soon as it is known to be over `limit` bytes, as sent or as decoded; 415 if it is in
            a coding other than gzip and zstd.
        ClientGone: the caller left before it was complete.

    """
    _check_length(request, limit)
    decoder = _decoder(request, limit)
    body, arrived = bytearray(), 0
    try:
        async for chunk in request.stream():
            arrived += len(chunk)
            if arrived > limit:
                raise too_large(limit)
            body += decoder.decode(chunk) if decoder else chunk
    except ClientDisconnect as error:
        raise ClientGone from error
    if decoder:
        decoder.finish()
    return bytes(body)


def _decoder(request: Request, limit: int) -> Decoder | None:
    coding = ",".join(request.headers.getlist("content-encoding"))
    return None if coding.strip().lower() in ("", "identity") else Decoder(coding, limit)


def _check_length(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)
