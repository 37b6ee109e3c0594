"""`lodestream bench`, `chat` and `top` against servers with TLS that demand a certificate."""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from lodestream.bench.command import measure
from lodestream.cli import main
from lodestream.tls import OPTIONS
from lodestream_common.errors import OperatorError
from tests.rest_bridge.running import running_bridge
from tests.support.certificates import Certificates
from tests.support.service import running_service
from tests.transports.metered import metered_servers
from tests.transports.test_tls import tls_service

LOAD = ["--requests", "4", "--concurrency", "2", "--output-tokens", "4", "--ignore-eos", "--url"]


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def options(made: Certificates, *, own: bool = True) -> list[str]:
    """The options of a caller; with a certificate of its own unless `own` is False."""
    files = made.issue("caller")
    values = [made.ca, files["tls_certificate"], files["tls_key"]] if own else [made.ca]
    return [word for (flag, _), path in zip(OPTIONS, values, strict=False) for word in (flag, str(path))]


@asynccontextmanager
async def behind_tls(made: Certificates, address: str) -> AsyncIterator[str]:
    """A relay with TLS in front of an address, which demands certificates of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    files = made.issue("relay")
    context.load_cert_chain(files["tls_certificate"], files["tls_key"])
    host, port = address.rsplit(":", 1)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(host, int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, requests), pump(answers, writer), return_exceptions=True)
        for sink in (requests, writer):
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_bench_measures_over_grpc_with_mtls(made: Certificates) -> None:
    async with tls_service(made) as address:
        command = [*LOAD, f"grpcs://{address}"]
        runs, _ = await asyncio.to_thread(measure, [*command, *options(made)])
        assert (runs[0].figures["requests"], runs[0].figures["failed"]) == (4, 0)
        with pytest.raises(OperatorError, match="does not answer"):
            await asyncio.to_thread(measure, [*command, *options(made, own=False)])


async def test_bench_measures_over_https_with_and_without_mtls(made: Certificates) -> None:
    async with (
        running_service() as service,
        running_bridge(service.address, **made.issue("bridge")) as bridge,
        running_bridge(service.address) as plain,
        behind_tls(made, plain.address) as relay,
    ):
        for address, own in ((bridge.address, False), (relay, True)):
            runs, _ = await asyncio.to_thread(measure, [*LOAD, f"https://{address}", *options(made, own=own)])
            assert (runs[0].figures["requests"], runs[0].figures["failed"]) == (4, 0)
        for address, given in ((bridge.address, []), (relay, options(made, own=False))):
            with pytest.raises(OperatorError, match="does not answer"):
                await asyncio.to_thread(measure, [*LOAD, f"https://{address}", *given])


async def test_chat_talks_to_a_service_with_mtls(made: Certificates) -> None:
    async with tls_service(made) as address:

        async def chat(*given: str) -> tuple[int, bytes, bytes]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lodestream.cli", "chat", "--target", address, *given),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
            )
            out, err = await asyncio.wait_for(process.communicate(b"@say<<hello>>\n"), 60)
            return process.returncode or 0, out, err

        assert await chat(*options(made)) == (0, b"hello\n", b"")
        status, _, error = await chat(*options(made, own=False))
        assert status != 0
        assert b"does not answer" in error


async def test_top_reads_metrics_behind_tls(made: Certificates, capsys: pytest.CaptureFixture[str]) -> None:
    async with metered_servers(made.home) as servers, behind_tls(made, servers.metrics) as relay:
        command = ["top", f"https://{relay}", "--once", "--interval", "0.1"]
        assert await asyncio.to_thread(main, [*command, *options(made)]) == 0
        assert "ready" in capsys.readouterr().out
        assert await asyncio.to_thread(main, [*command, *options(made, own=False)]) == 1


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (
            ["bench", "--url", "http://127.0.0.1:1"],
            ["--ca"],
            "--ca: needs an address with https:// or grpcs://",
        ),
        (["top", "127.0.0.1:1"], ["--ca"], "--ca: needs an address with https://"),
        (["chat"], ["--cert"], "--cert: needs --key, too"),
        (["top", "https://127.0.0.1:1"], ["--key"], "--key: needs --cert, too"),
    ],
)
def test_options_without_effect_are_refused(
    made: Certificates, capsys: pytest.CaptureFixture[str], command: list[str], given: list[str], message: str
) -> None:
    pairs = dict(zip(*[iter(options(made))] * 2, strict=True))

    assert main([*command, *(word for flag in given for word in (flag, pairs[flag]))]) != 0
    assert message in capsys.readouterr().err
