"""What two hops cost by themselves: the engine, gRPC, a second process, TCP, and no work of ours between.

As little as a service and a bridge could do: a message of fixed bytes for each of the engine's chunks, over
grpc.aio, passed on as it is. No parsing, no detokenizing, no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import grpc
import uvloop

from benchmarks.engine import EngineArguments, Result, child, load_engine, request
from inference_service.backends.llama_cpp.loop_waker import LoopWaker
from lodestream.servers import GRPC_EXPERIMENTS

_METHOD = "/bare.Bare/Stream"
_MESSAGE = b'{"text":"about as long as a message of ours"}\n'
_END = b"end\n"


class _Client(asyncio.Protocol):
    """Takes what comes as it comes, like the client of the REST benchmark, and costs as little."""

    def __init__(self) -> None:
        self.first_at = 0.0
        """On the clock of `time.perf_counter`."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.first_at = self.first_at or time.perf_counter()
        if data.endswith(_END):
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the relay broke off"))


class BareRelay:
    """Both processes, from outside."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, prompts: list[list[int]], tokens: int) -> Result:
        """Generate `tokens` tokens for every prompt at once."""
        began = time.perf_counter()

        async def one(prompt: list[int]) -> float:
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(_Client, "127.0.0.1", self._port)
            transport.write(json.dumps(request(prompt, tokens)).encode() + b"\n")
            await client.ended
            transport.close()
            return client.first_at - began

        async def all_of_them() -> list[float]:
            return await asyncio.gather(*(one(prompt) for prompt in prompts))

        firsts = uvloop.run(all_of_them())
        return Result(len(prompts) * tokens / (time.perf_counter() - began), firsts)


@contextmanager
def bare_relay(engine: EngineArguments) -> Iterator[BareRelay]:
    """Start both processes."""
    with ExitStack() as stack:
        service = stack.enter_context(_process("service", *engine.words))
        yield BareRelay(stack.enter_context(_process("relay", str(service))))


@contextmanager
def _process(*words: str) -> Iterator[int]:
    """Run one of the two; the port it listens on."""
    with child("benchmarks.bare", *words, GRPC_EXPERIMENTS=GRPC_EXPERIMENTS) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


async def _service(arguments: EngineArguments) -> None:
    engine = load_engine(arguments)
    bell = LoopWaker()

    async def stream(body: bytes, _: Any) -> AsyncIterator[bytes]:
        made: asyncio.Queue[bool] = asyncio.Queue()

        def on_chunk(_: bytes) -> bool:
            bell.ring(lambda: made.put_nowait(True))
            return False

        def generate() -> None:
            engine.handle_completions(body, on_chunk)
            bell.ring(lambda: made.put_nowait(False))

        threading.Thread(target=generate).start()
        while await made.get():
            yield _MESSAGE

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    service, method = _METHOD[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def _relay(service: int) -> None:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{service}")
    stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_METHOD)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = stream(await reader.readline())
        while (message := await call.read()) is not grpc.aio.EOF:
            writer.write(cast("bytes", message))
        writer.write(_END)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _main(role: str, *arguments: str) -> None:
    if role == "service":
        uvloop.run(_service(EngineArguments.of(arguments)))
    else:
        uvloop.run(_relay(int(arguments[0])))


if __name__ == "__main__":
    _main(*sys.argv[1:])
