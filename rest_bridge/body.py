"""Reading a request's body: once, as a stream, up to a limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from rest_bridge.errors import ClientGone, invalid, too_large


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: 413 as soon as it is known to be over `limit` bytes, 400 if it is not said to be JSON.
        ClientGone: the caller left before it was complete.

    """
    _check_headers(request, limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large(limit)
    except ClientDisconnect as error:
        raise ClientGone from error
    return bytes(body)


def _check_headers(request: Request, limit: int) -> None:
    media_type = request.headers.get("content-type", "application/json").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise invalid("content-type", "The request's content-type must be application/json.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)
