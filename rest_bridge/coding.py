"""Content codings of request bodies, decoded piece by piece and never beyond a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from rest_bridge.errors import ApiError, invalid, too_large, unsupported_coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's number for the gzip format with its largest window."""
_ZSTD_WINDOW_LOG = 23
"""8 MiB, what a decoder should support (RFC 8878, section 3.1.1.1.2); a frame may ask for 2 GiB."""
_MOST_PARTS = 1024
"""Members or frames of one body. Empty ones unpack to nothing, and each costs a new decompressor."""


class _Decompressor(Protocol):
    """What the libraries' decompressors have in common."""

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
        coding: the header `content-encoding`.
        limit: most bytes of the decoded body.

    Raises:
        ApiError: 415: it is neither `gzip` nor `zstd`.

    """

    def __init__(self, coding: str, limit: int) -> None:
        make = _CODINGS.get(coding.strip().lower())
        if make is None:
            raise unsupported_coding()
        self._make = make
        self._limit = limit
        self._size = 0
        self._parts = 0
        self._part: _Decompressor | None = None

    def decode(self, data: bytes) -> bytes:
        """What the next piece unpacks to.

        Raises:
            ApiError: 413 as soon as it is over the limit, and unpacked no further; 400 if it is malformed.

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
        """See that nothing is missing.

        Raises:
            ApiError: 400: the body ends too early.

        """
        if self._part is not None or not self._parts:
            raise _malformed()

    def _next_part(self) -> _Decompressor:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _malformed()
        return self._make()


def _malformed() -> ApiError:
    return invalid("content-encoding", "The body is not what its Content-Encoding says, or it is incomplete.")
