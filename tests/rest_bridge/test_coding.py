"""Bodies with a content coding are decoded within the body limit, or refused."""

from __future__ import annotations

import gzip
import json
import resource
import sys
import zlib
from collections.abc import Callable

import httpx
import pytest

from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import http_client, running_bridge
from tests.support.scripted import Running, ScriptedService

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024 * 1024
Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstd.compress}


async def post(http: httpx.AsyncClient, content: bytes, coding: str) -> httpx.Response:
    headers = {"content-encoding": coding, "content-type": "application/json"}
    return await http.post(CHAT, content=content, headers=headers)


@pytest.mark.parametrize("coding", PACKS)
async def test_a_coded_body_is_decoded(
    http: httpx.AsyncClient, service: ScriptedService, coding: str
) -> None:
    """It may come in one part or in several, with the name of the coding in any case."""
    body, pack = json.dumps(chat()).encode(), PACKS[coding]
    for content in (pack(body), pack(body[:9]) + pack(body[9:]), pack(b"") + pack(body)):
        assert (await post(http, content, coding.upper())).status_code == 200
    plain = (await http.post(CHAT, content=body)).status_code
    assert plain == 200
    assert [seen.request for seen in service.seen] == [service.seen[-1].request] * 4


async def test_the_coding_identity_is_accepted(http: httpx.AsyncClient) -> None:
    assert (await post(http, json.dumps(chat()).encode(), "identity")).status_code == 200


@pytest.mark.parametrize("coding", ["", ",", ",identity"])
async def test_an_empty_content_encoding_is_ignored(http: httpx.AsyncClient, coding: str) -> None:
    """Empty elements of the list are ignored, too."""
    assert (await post(http, json.dumps(chat()).encode(), coding)).status_code == 200
    packed = gzip.compress(json.dumps(chat()).encode())
    assert (await post(http, packed, f"{coding}, gzip".replace("identity", ""))).status_code == 200


@pytest.mark.parametrize("coding", ["br", "deflate", "compress", "gzip, zstd", "gzip;q=1", "none"])
async def test_other_codings_are_refused(
    http: httpx.AsyncClient, service: ScriptedService, coding: str
) -> None:
    """The error has the usual body and the accepted codings."""
    reply = await post(http, zlib.compress(json.dumps(chat()).encode()), coding)
    error = reply.json()["error"]

    assert (reply.status_code, error["code"], error["param"]) == (
        415,
        "unsupported_content_encoding",
        "content-encoding",
    )
    assert reply.headers["accept-encoding"] == "gzip, zstd"
    assert service.seen == []


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_with_invalid_coding_is_refused(http: httpx.AsyncClient, coding: str) -> None:
    """The bodies are plain, damaged, truncated, empty, followed by garbage, or have endless parts."""
    body, pack = json.dumps(chat()).encode(), PACKS[coding]
    good = pack(body)
    broken = b"????" + good[4:]
    for content in (body, broken, good[:-3], b"", good + b"rubbish", pack(b"") * 2000 + good):
        reply = await post(http, content, coding)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (
            400,
            "invalid_value",
            "content-encoding",
        )


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_decompression_bomb_is_refused(running: Running, coding: str) -> None:
    """A GiB in a small body takes no more memory than the limit."""
    packed = _bomb(coding)
    assert len(packed) < 2 * MIB
    async with (
        running_bridge(running.target, max_body_bytes=2 * MIB) as bridge,
        http_client(bridge.url) as http,
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reply = await post(http, packed, coding)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert grown < 64 * 1024, f"{grown} KiB"


def _bomb(coding: str) -> bytes:
    """A GiB of zeros: eight parts, each of which is already larger than the memory that may be used."""
    piece = bytes(MIB)
    packer = zlib.compressobj(wbits=31) if coding == "gzip" else zstd.ZstdCompressor()
    packed = [packer.compress(piece) for _ in range(128)]
    return b"".join([*packed, packer.flush()]) * 8


async def test_a_window_beyond_the_standards_is_refused(http: httpx.AsyncClient) -> None:
    """A frame that demands a GiB of memory is refused."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(json.dumps(chat()).encode()) + packer.flush()

    assert (await post(http, packed, "zstd")).status_code == 400
