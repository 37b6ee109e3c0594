"""`lodestream up`: the model fetched, both servers running, one Ctrl-C to end them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from inference_service.config import ServiceConfig
from lodestream import probe, settings
from lodestream.banner import banner
from lodestream.child import Child, describe_exit
from lodestream.groups import BRIDGE, COMMON, SERVICE
from lodestream.parser import CommandParser
from lodestream_common.address import check_free, check_open_address, parse_address
from lodestream_common.config import CommonConfig
from lodestream_common.errors import OperatorError
from lodestream_common.keys import Keyring
from rest_bridge.config import BridgeConfig

if TYPE_CHECKING:
    from inference_service.models.store import ModelFile

API_PAGES_MODEL = "llama-3.1-8b"
"""The name in the API page's examples, so that they run unchanged."""

_ABOUT = (
    "Fetches the model if it is not there yet, starts the gRPC service and the REST bridge as two "
    "processes, waits until both are ready, and runs them until Ctrl-C: the bridge finishes its requests "
    "first, then the service. A second Ctrl-C ends both at once. Where no --alias is given, the model also "
    f"answers to {API_PAGES_MODEL}, the name in the examples of the API page."
)
_EXAMPLES = (
    "lodestream up",
    "lodestream up --model ~/models/llama-3.1-8b.gguf --http-address 127.0.0.1:9000",
    "lodestream up --model smollm2-135m-instruct --alias my-model=smollm2-135m-instruct",
)
Answer = TypeVar("Answer")

_PERIOD = 0.05
"""Seconds between two looks at servers that are starting."""
_MARGIN = 10.0
"""Seconds beyond the grace that a server gets to end, before it is killed."""


def run(arguments: Sequence[str]) -> int:
    """Run both servers until told to end."""
    parser = CommandParser("up", _ABOUT, {**SERVICE, **BRIDGE, **COMMON}, _EXAMPLES)
    given = settings.collect(parser.parse(arguments))
    _hear_signals()
    service, bridge = settings.build(ServiceConfig, given), settings.build(BridgeConfig, given)
    guarded = _check_doors(service, bridge)
    from inference_service.models import store

    model = store.configured(service, show_progress=True)
    try:
        return asyncio.run(Supervisor(_settled(service, model.id), bridge, model, guarded).run())
    except OperatorError:
        # What follows stands clear of the servers' log lines.
        print(file=sys.stderr)
        raise


def _settled(service: ServiceConfig, model_id: str) -> ServiceConfig:
    """What the service is told: the model that was found, and the API page's name for it."""
    update: dict[str, Any] = {}
    if service.engine is None and service.model is None:
        update["model"] = model_id
    if not service.alias and model_id != API_PAGES_MODEL:
        update["alias"] = {API_PAGES_MODEL: model_id}
    return service.model_copy(update=update)


def _hear_signals() -> None:
    """Let every signal that ends servers end the fetch too, by way of KeyboardInterrupt.

    Shells start background jobs with SIGINT ignored, and an unhandled SIGTERM would leave pip running.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _check_doors(service: ServiceConfig, bridge: BridgeConfig) -> bool:
    """Refuse early what the servers would refuse after the model was fetched; True if keys guard them."""
    guarded = Keyring(service.keys_file).guarded
    for setting, address in (("grpc_address", service.grpc_address), ("http_address", bridge.http_address)):
        wanted = parse_address(address, setting)
        check_open_address(wanted, guarded, setting)
        check_free(wanted, setting)
    return guarded


class Supervisor:
    """Starts the service and the bridge, watches over them, and ends them in order."""

    def __init__(self, service: ServiceConfig, bridge: BridgeConfig, model: ModelFile, guarded: bool) -> None:
        self._service = service
        self._bridge = bridge
        self._model = model
        self._guarded = guarded
        self._children: list[Child] = []
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Supervise until a signal comes or a child ends.

        Returns:
            0 after one signal and a clean end, 130 after a second signal.

        Raises:
            OperatorError: a child ended by itself, or not cleanly.

        """
        self._listen_to_signals()
        with tempfile.TemporaryDirectory(prefix="lodestream-") as directory, _parent_pipe() as pipe:
            try:
                await _unless(self._asked, self._serve(Path(directory), pipe))
            finally:
                failures = await self._end_children()
        if self._hurry.is_set():
            return 128 + signal.SIGINT
        if failures:
            raise OperatorError("; ".join(failures))
        return 0

    def _listen_to_signals(self) -> None:
        def on_signal() -> None:
            if self._asked.is_set():
                self._hurry.set()
            self._asked.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)

    async def _serve(self, directory: Path, pipe: int) -> None:
        print(f"Starting {self._model.id} on {self._service.backend} ...", file=sys.stderr, flush=True)
        start = partial(self._start, directory=directory, pipe=pipe)
        service = await start("service", "serve", self._service)
        bridge = await start("bridge", "bridge", await self._bridge_settings(service))
        grpc = _reachable(await self._wait_for(lambda: service.address))
        http = _reachable(await self._wait_for(lambda: bridge.address))
        await self._wait_for(lambda: probe.ask(grpc, 1.0) == probe.SERVING)
        await self._wait_for(lambda: probe.ask(f"http://{http}", 1.0) == probe.SERVING)
        names = [self._model.id, *self._service.alias]
        said = banner(http=http, grpc=grpc, names=names, note=self._model.stands_in, guarded=self._guarded)
        print(said, flush=True)
        await asyncio.wait({child.exit for child in self._children}, return_when=asyncio.FIRST_COMPLETED)
        self._check_children()

    async def _start(
        self, name: str, command: str, config: CommonConfig, *, directory: Path, pipe: int
    ) -> Child:
        child = await Child.start(name, [command, *settings.as_flags(config)], directory, pipe)
        self._children.append(child)
        return child

    async def _bridge_settings(self, service: Child) -> BridgeConfig:
        """Tell the bridge where the service really is, once that is known."""
        address = parse_address(self._service.grpc_address, "grpc_address")
        # Loading takes the service a while, and the bridge can start meanwhile, if it knows the port.
        if address.port == 0 and not address.is_unix:
            address = parse_address(await self._wait_for(lambda: service.address))
        return self._bridge.model_copy(update={"grpc_address": str(address.reachable)})

    async def _wait_for(self, ask: Callable[[], Answer | None]) -> Answer:
        """Ask again and again, in a thread, until the answer is true.

        Raises:
            OperatorError: a child ended meanwhile.

        """
        while True:
            self._check_children()
            if answer := await asyncio.to_thread(ask):
                return answer
            await asyncio.sleep(_PERIOD)

    def _check_children(self) -> None:
        for child in self._children:
            if child.exit.done():
                raise child.failure

    async def _end_children(self) -> list[str]:
        """End the bridge and then the service, and say which did not end cleanly."""
        failures = []
        for child in reversed(self._children):
            code = await child.end(self._hurry, self._service.shutdown_grace + _MARGIN)
            # A server that was still loading had nothing to clean up, and dies of the signal itself.
            if code not in (0, -signal.SIGTERM):
                failures.append(f"the {child.name} {describe_exit(code)}")
        return failures


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and drop it once the event is set."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        working.cancel()
        waiting.cancel()


@contextlib.contextmanager
def _parent_pipe() -> Iterator[int]:
    """Hold a pipe open: its reading end reaches its end when this process does, however that happens."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _reachable(address: str) -> str:
    return str(parse_address(address).reachable)
