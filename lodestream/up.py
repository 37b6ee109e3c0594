"""`lodestream up`: fetches the model, runs both servers, and ends them on one Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from inference_service.config import ServiceConfig
from lodestream import health, settings
from lodestream.parser import CommandParser
from lodestream.settings import BRIDGE, COMMON, SERVICE
from lodestream.sources import PREFIX
from lodestream_common.address import check_free, check_open_address, parse_address
from lodestream_common.config import CommonConfig
from lodestream_common.errors import OperatorError
from lodestream_common.keys import Keyring
from lodestream_common.ready import PARENT_PIPE, READY_FILE, read_failure, read_ready
from rest_bridge.config import BridgeConfig

if TYPE_CHECKING:
    from inference_service.models.loader import ModelFile


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
    from inference_service.models import loader

    model = loader.configured(service, show_progress=True)
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
        await self._wait_for(lambda: health.ask(grpc, 1.0) == health.SERVING)
        await self._wait_for(lambda: health.ask(f"http://{http}", 1.0) == health.SERVING)
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


_KILL_GRACE_SECONDS = 10.0
"""What a server gets between being asked to hurry and being killed. It aborts what runs, tells its callers,
and closes its engine."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running server, in a session of its own: Ctrl-C on the terminal does not reach it."""

    name: str
    """`service` or `bridge`."""
    process: asyncio.subprocess.Process
    ready_file: Path
    exit: asyncio.Task[int]
    """Done once the process has ended, with its return code."""

    @classmethod
    async def start(cls, name: str, command: Sequence[str], directory: Path, parent_pipe: int) -> Child:
        """Start `lodestream <command>`, with no other settings than those in `command`.

        Args:
            name: what people call it.
            command: the subcommand and its flags.
            directory: where it announces that it is ready.
            parent_pipe: the reading end of a pipe that this process holds open as long as it lives.

        """
        ready_file = directory / f"{name}.json"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        environment |= {READY_FILE: str(ready_file), PARENT_PIPE: str(parent_pipe)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lodestream.cli",
            *command,
            env=environment,
            pass_fds=(parent_pipe,),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )
        return cls(name, process, ready_file, asyncio.create_task(process.wait()))

    @property
    def address(self) -> str | None:
        """Where it serves; None as long as it does not."""
        return read_ready(self.ready_file)

    @property
    def failure(self) -> OperatorError:
        """Why it ended, once it has ended by itself: its own words, where it had any."""
        told = read_failure(self.ready_file)
        if told is None:
            return OperatorError(f"the {self.name} {describe_exit(self.exit.result())}; see its log above")
        return OperatorError(f"the {self.name} cannot serve: {told[0]}", told[1])

    async def end(self, hurry: asyncio.Event, patience: float) -> int:
        """Ask it to end; once `hurry` is set or `patience` seconds are over, ask again; then kill it.

        Returns:
            The return code; at most `patience` and a few seconds later.

        """
        hurried = asyncio.create_task(hurry.wait())
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exit, hurried}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not self.exit.done():
            # Of two equal signals that wait together the system delivers one; to servers both mean the same.
            self._signal(signal.SIGINT)
            await asyncio.wait({self.exit}, timeout=_KILL_GRACE_SECONDS)
        if not self.exit.done():
            # The whole session: whatever the server has started goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return await self.exit

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


def describe_exit(code: int) -> str:
    """Put a return code into words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


_REQUEST = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "max_tokens": 100,
    "temperature": 0,
}

_BANNER = """
lodestream is ready; Ctrl-C ends it.

  REST    http://{http}
  gRPC    {grpc}
  model   {model}{aliases}
{note}
{transports}

Try it:

{curl}
"""

_OPEN = """\
No API key exists, so the servers are open: anybody on this machine may call them. They listen on loopback
only. To close them: lodestream keys create --name NAME"""

_GUARDED = """\
Callers need an API key. A new one: KEY=$(lodestream keys create --name NAME)"""


def banner(*, http: str, grpc: str, names: Sequence[str], note: str | None, guarded: bool) -> str:
    """Write the addresses, the model id, who may call, and a curl line to paste.

    Args:
        http: `host:port` of the bridge, as callers on this machine reach it.
        grpc: `host:port` of the service, likewise.
        names: what requests may call the model: its id, then its aliases.
        note: what else there is to say about the model.
        guarded: whether callers need a key; the line then takes it out of $KEY.

    """
    model, *aliases = names
    return _BANNER.format(
        http=http,
        grpc=grpc,
        model=model,
        aliases=f" (also {', '.join(aliases)})" if aliases else "",
        note=f"\n{textwrap.fill(note, 100)}\n" if note else "",
        transports=_GUARDED if guarded else _OPEN,
        curl=curl(http, model, guarded),
    )


def curl(http: str, model: str, guarded: bool) -> str:
    """Write a chat request for a POSIX shell."""
    body = json.dumps({"model": model, **_REQUEST}).replace("'", "'\\''")
    lines = [f"curl http://{http}/v1/chat/completions", "-H 'Content-Type: application/json'"]
    if guarded:
        lines.append('-H "Authorization: Bearer $KEY"')
    return " \\\n  ".join([*lines, f"-d '{body}'"])
