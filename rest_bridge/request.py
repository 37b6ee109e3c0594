"""Reads a request: its API key, its deadline, and its body up to a limit."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import ClientDisconnect, Request

from inference_client import AsyncClient, InferenceError
from lodestream_common.failed_keys import FailedKeys, bearer_token
from lodestream_common.keys import Keyring, Level
from lodestream_common.pacing import INTERVAL_NAME, Pacer, parse_interval
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import INVALID_API_KEY, ApiError, ClientGone, invalid, too_large, unsupported_coding
from rest_bridge.metrics import BridgeMetrics
from rest_bridge.middleware import RequestContext, until_revoked
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.security import check_key

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,20})?")
_MAX_SECONDS = 3600
_ENGINE_NAME_SECONDS = 60.0
"""Seconds for which the engine's name is kept."""
_RPC_TIMEOUT = 2.0
"""Seconds that the service has to report the engine's name."""


class EngineName:
    """The name of the engine behind a service without keys. It is kept for a minute."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._requested_at = -math.inf

    async def name(self, client: AsyncClient) -> str | None:
        """The name, at most a minute old; None: the service does not report it."""
        now = time.monotonic()
        if now - self._requested_at > _ENGINE_NAME_SECONDS:
            self._requested_at = now
            with contextlib.suppress(InferenceError):
                models = await client.list_models(timeout=_RPC_TIMEOUT)
                self._name = models[0].backend if models else None
        return self._name


@dataclass(frozen=True, slots=True)
class Bridge:
    """The state of the app, shared by all requests."""

    config: BridgeConfig
    client: AsyncClient
    keyring: Keyring
    failed_keys: FailedKeys
    pacer: Pacer
    metrics: BridgeMetrics | None
    engine: EngineName = field(default_factory=EngineName)


def bridge_of(request: Request) -> Bridge:
    """The state of the app that serves a request."""
    bridge: Bridge = request.app.state.bridge
    return bridge


def admit(request: Request, needed: Level) -> RequestContext:
    """Check a request's key, and read its deadline and its stream interval, before its body is read.

    Returns:
        The request's context, with all three.

    Raises:
        ApiError: the key does not allow this, or the deadline or the stream interval is malformed.

    """
    bridge = bridge_of(request)
    context: RequestContext = request.state.context
    token = bearer_token(request.headers.get("authorization"))
    context.identify(bridge.keyring, token)
    try:
        if bridge.keyring.requires_key:
            check_key(context.key, needed)
    except ApiError as error:
        if token is not None and error.row is INVALID_API_KEY:
            context.refusal_delay = bridge.failed_keys.delay(context.client or "")
        raise
    context.api_key = token
    context.timeout = _timeout(request.headers.get("x-request-timeout"), bridge.config.request_timeout)
    context.max_interval = _max_interval(request.headers.get(INTERVAL_NAME))
    context.until_revoked = until_revoked(bridge.keyring, token)
    return context


def _timeout(header: str | None, default: float | None) -> float | None:
    if header is None:
        return default
    seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise invalid(
            "x-request-timeout",
            f"x-request-timeout must be a decimal number of seconds in (0, {_MAX_SECONDS}].",
        )
    return seconds


def _max_interval(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        return parse_interval(header)
    except ValueError as error:
        raise invalid(INTERVAL_NAME, f"{INTERVAL_NAME} {error}.") from None


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: 413 as soon as the body is over `limit` bytes, encoded or decoded; 415 if it is in
            a coding other than gzip and zstd.
        ClientGone: the caller left before the body was complete.

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
    names = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    # Empty elements of a list mean nothing (RFC 9110, section 5.6.1).
    codings = [name.strip() for name in names if name.strip() not in ("", "identity")]
    return Decoder(",".join(codings), limit) if codings else None


def _check_length(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)


_GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's number for the gzip format with its largest window."""
_ZSTD_WINDOW_LOG = 23
"""8 MiB, which a decoder should support (RFC 8878, section 3.1.1.1.2); a frame may demand 2 GiB."""
_MAX_PARTS = 1024
"""Members or frames of one body. Empty ones decode to no bytes, and each costs a new decompressor."""


class _Decompressor(Protocol):
    """The interface that the libraries' decompressors share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip_member() -> _Decompressor:
    return zlib.decompressobj(_GZIP_WINDOW)


def _zstd_frame() -> _Decompressor:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    frame: _Decompressor = zstd.ZstdDecompressor(options=options)
    return frame


_CODINGS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _gzip_member,
    "x-gzip": _gzip_member,
    "zstd": _zstd_frame,
}


class Decoder:
    """Decodes one body.

    Args:
        coding: in lower case, as in the header `content-encoding`.
        limit: largest size of the decoded body, in bytes.

    Raises:
        ApiError: 415: the coding is neither `gzip` nor `zstd`.

    """

    def __init__(self, coding: str, limit: int) -> None:
        make = _CODINGS.get(coding)
        if make is None:
            raise unsupported_coding()
        self._make = make
        self._limit = limit
        self._size = 0
        self._parts = 0
        self._part: _Decompressor | None = None

    def decode(self, data: bytes) -> bytes:
        """Decode the next part of the body.

        Raises:
            ApiError: 413 as soon as the decoded body is over the limit; 400 if it is malformed.

        """
        decoded = bytearray()
        while data:
            part = self._part or self._next_part()
            try:
                decoded += part.decompress(data, self._limit + 1 - self._size - len(decoded))
            except (zlib.error, zstd.ZstdError) as error:
                raise _malformed() from error
            if self._size + len(decoded) > self._limit:
                raise too_large(self._limit)
            self._part, data = (None, part.unused_data) if part.eof else (part, b"")
        self._size += len(decoded)
        return bytes(decoded)

    def finish(self) -> None:
        """Check that the body is complete.

        Raises:
            ApiError: 400: the body ends too early.

        """
        if self._part is not None or not self._parts:
            raise _malformed()

    def _next_part(self) -> _Decompressor:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _malformed()
        return self._make()


def _malformed() -> ApiError:
    return invalid("content-encoding", "The body does not match its Content-Encoding, or it is incomplete.")


Schema = TypeVar("Schema", bound=RequestModel)

_MAX_PROBLEMS = 8
_OWN_KINDS = frozenset({"invalid_value", "missing_required_parameter", "unsupported_parameter"})
_PLACE = re.compile(r" at line (\d+) column (\d+)\Z")
_PROBLEMS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "list_type": "must be an array",
    "missing": "is required",
    "model_type": "must be an object",
    "string_type": "must be a string",
}
"""Pydantic's type of a problem → the text for callers."""


def parse_body(schema: type[Schema], body: bytes) -> Schema:
    """Parse and validate a request's body.

    Raises:
        ApiError: 400, with the first wrong parameter as `param`.

    """
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise invalid(None, "The request body must be a JSON object.")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    raise _refusal(found)


def _parse_json(body: bytes) -> object:
    if not body.strip():
        raise invalid(None, "The request body is empty; it must be a JSON object.")
    try:
        # NaN and lone surrogates are not JSON, though some parsers accept them.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        place = _PLACE.search(str(error))
    where = f" (line {place[1]}, column {place[2]})" if place else ""
    raise invalid(None, f"The request body is not valid JSON{where}.")


def _refusal(found: Sequence[ErrorDetails]) -> ApiError:
    problems = [f"{_path(error['loc'])} {_problem(error)}." for error in found[:_MAX_PROBLEMS]]
    return invalid(_path(found[0]["loc"]), " ".join(problems), _code(found[0]["type"]))


def _problem(error: ErrorDetails) -> str:
    return error["msg"] if error["type"] in _OWN_KINDS else _PROBLEMS.get(error["type"], "is malformed")


def _code(kind: str) -> str:
    if kind in _OWN_KINDS:
        return kind
    return "missing_required_parameter" if kind == "missing" else "invalid_value"


def _path(loc: Sequence[int | str]) -> str:
    # Only declared members are validated, so the path has no name that the caller chose.
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return path.removeprefix(".")
