"""The command `lodestream up`: fetches the model, runs both servers, and ends them on one Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
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
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.keys import Keyring
from lodestream_common.ready import PARENT_PIPE, READY_FILE, read_failure, read_ready
from lodestream_common.tls import check_plain_text
from lodestream_common.waiting import finishes_before
from rest_bridge.config import BridgeConfig

if TYPE_CHECKING:
    from inference_service.models.loader import ModelFile


EXAMPLE_MODEL = "llama-3.1-8b"
"""The model's name in the examples of the API page, which run unchanged with this alias."""

_ABOUT = (
    "Fetches the model if it is not there yet, starts the gRPC service and the REST bridge as two "
    "processes, waits until both are ready, and runs them until Ctrl-C: the bridge finishes its requests "
    "first, then the service. A second Ctrl-C ends both at once. Without --alias the model also has the "
    f"alias {EXAMPLE_MODEL}, the name in the examples of the API page."
)
_EXAMPLES = (
    "lodestream up",
    "lodestream up --model ~/models/llama-3.1-8b.gguf --http-address 127.0.0.1:9000",
    "lodestream up --model smollm2-135m-instruct --alias my-model=smollm2-135m-instruct",
)
ResultT = TypeVar("ResultT")

_PERIOD = 0.05
"""Seconds between two checks of servers that are starting."""
_KILL_MARGIN = 10.0
"""Seconds after the shutdown grace at which a server is killed."""


def run(arguments: Sequence[str]) -> int:
    """Run both servers until a signal or a failure ends them."""
    parser = CommandParser("up", _ABOUT, {**SERVICE, **BRIDGE, **COMMON}, _EXAMPLES)
    given = settings.collect(parser.parse(arguments))
    _interrupt_on_signals()
    service, bridge = settings.build(ServiceConfig, given), settings.build(BridgeConfig, given)
    requires_key = _check_addresses(service, bridge)
    from inference_service.models import loader

    model = loader.configured(service, show_progress=True)
    try:
        return asyncio.run(Supervisor(_with_model(service, model.id), bridge, model, requires_key).run())
    except OperatorError:
        # An empty line separates the error from the log lines of the servers.
        print(file=sys.stderr)
        raise


def _with_model(service: ServiceConfig, model_id: str) -> ServiceConfig:
    """Complete the settings of the service with the found model, and with the alias of the API page."""
    update: dict[str, Any] = {}
    if service.engine is None and service.model is None:
        update["model"] = model_id
    if not service.alias and model_id != EXAMPLE_MODEL:
        update["alias"] = {EXAMPLE_MODEL: model_id}
    return service.model_copy(update=update)


def _interrupt_on_signals() -> None:
    """Let every signal that ends servers raise KeyboardInterrupt, so that it ends a fetch too.

    A background job of a shell ignores SIGINT by default, and an unhandled SIGTERM would leave pip running.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _check_addresses(service: ServiceConfig, bridge: BridgeConfig) -> bool:
    """Check the addresses before the model is fetched; return whether callers need a key."""
    requires_key = Keyring(service.keys_file).requires_key
    for setting, address in (("grpc_address", service.grpc_address), ("http_address", bridge.http_address)):
        parsed = parse_address(address, setting)
        check_open_address(parsed, requires_key, setting)
        tls = service.tls_certificate is not None
        check_plain_text(
            parsed,
            allowed=service.insecure or tls,
            setting=setting,
            remedy="--tls-certificate and --tls-key",
        )
        check_free(parsed, setting)
    if service.tls_certificate is not None and bridge.service_ca is None:
        raise SettingError("tls_certificate: both servers use it, and the bridge needs service_ca, too")
    return requires_key


class Supervisor:
    """Starts the service and the bridge, waits until one of them ends, and ends them in order."""

    def __init__(
        self, service: ServiceConfig, bridge: BridgeConfig, model: ModelFile, requires_key: bool
    ) -> None:
        self._service = service
        self._bridge = bridge
        self._model = model
        self._requires_key = requires_key
        self._children: list[Child] = []
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> int:
        """Run both servers until a signal arrives or a child ends.

        Returns:
            0 after one signal and a clean end, 130 after a second signal.

        Raises:
            OperatorError: a child ended by itself, or with an error.

        """
        self._listen_to_signals()
        with tempfile.TemporaryDirectory(prefix="lodestream-") as directory, _parent_pipe() as pipe:
            try:
                await finishes_before(self._stop, self._serve(Path(directory), pipe))
            finally:
                failures = await self._end_children()
        if self._stop_now.is_set():
            return 128 + signal.SIGINT
        if failures:
            raise OperatorError("; ".join(failures))
        return 0

    def _listen_to_signals(self) -> None:
        def on_signal() -> None:
            if self._stop.is_set():
                self._stop_now.set()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)

    async def _serve(self, directory: Path, pipe: int) -> None:
        print(f"Starting {self._model.id} on {self._service.backend} ...", file=sys.stderr, flush=True)
        start = partial(self._start, directory=directory, pipe=pipe)
        service = await start("service", "serve", self._service)
        bridge = await start("bridge", "bridge", await self._bridge_settings(service))
        grpc = _reachable(await self._wait_for(lambda: service.address))
        http = _reachable(await self._wait_for(lambda: bridge.address))
        tls = health.ProbeTls.of(self._bridge)
        scheme = "https" if self._bridge.tls_certificate else "http"
        await self._wait_for(lambda: health.probe(grpc, 1.0, tls) == health.SERVING)
        await self._wait_for(lambda: health.probe(f"{scheme}://{http}", 1.0, tls) == health.SERVING)
        names = [self._model.id, *self._service.alias]
        note = self._model.fallback_reason
        call = curl(f"{scheme}://{http}", names[0], self._requires_key, self._bridge.service_ca)
        print(
            banner(f"{scheme}://{http}", grpc, names, note=note, requires_key=self._requires_key, call=call),
            flush=True,
        )
        await asyncio.wait({child.exit for child in self._children}, return_when=asyncio.FIRST_COMPLETED)
        self._check_children()

    async def _start(
        self, name: str, command: str, config: CommonConfig, *, directory: Path, pipe: int
    ) -> Child:
        child = await Child.start(name, [command, *settings.as_flags(config)], directory, pipe)
        self._children.append(child)
        return child

    async def _bridge_settings(self, service: Child) -> BridgeConfig:
        """Complete the settings of the bridge with the real address of the service."""
        address = parse_address(self._service.grpc_address, "grpc_address")
        # If the port is known, the bridge starts while the service still loads the model.
        if address.port == 0 and not address.is_unix:
            address = parse_address(await self._wait_for(lambda: service.address))
        return self._bridge.model_copy(update={"grpc_address": str(address.reachable)})

    async def _wait_for(self, check: Callable[[], ResultT | None]) -> ResultT:
        """Call `check` in a thread, again and again, until the result is true.

        Raises:
            OperatorError: a child ended.

        """
        while True:
            self._check_children()
            if result := await asyncio.to_thread(check):
                return result
            await asyncio.sleep(_PERIOD)

    def _check_children(self) -> None:
        for child in self._children:
            if child.exit.done():
                raise child.failure

    async def _end_children(self) -> list[str]:
        """End the bridge and then the service; the result describes those that failed."""
        failures = []
        for child in reversed(self._children):
            code = await child.end(self._stop_now, self._service.shutdown_grace + _KILL_MARGIN)
            # A server that still loads has nothing to clean up, so the signal kills it.
            if code not in (0, -signal.SIGTERM):
                failures.append(f"the {child.name} {describe_exit(code)}")
        return failures


@contextlib.contextmanager
def _parent_pipe() -> Iterator[int]:
    """Keep a pipe open: its reading end reports the end of file when this process ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _reachable(address: str) -> str:
    return str(parse_address(address).reachable)


_KILL_GRACE_SECONDS = 10.0
"""Seconds between the second signal and the kill. The server aborts its requests, answers their callers, and
closes its engine."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running server, in its own session, so that Ctrl-C on the terminal does not reach it."""

    name: str
    """`service` or `bridge`."""
    process: asyncio.subprocess.Process
    ready_file: Path
    exit: asyncio.Task[int]
    """The wait for the end of the process; its result is the return code."""

    @classmethod
    async def start(cls, name: str, command: Sequence[str], directory: Path, parent_pipe: int) -> Child:
        """Start `lodestream <command>`, with no settings but those in `command`.

        Args:
            name: `service` or `bridge`.
            command: the subcommand and its flags.
            directory: gets the file in which the server announces that it is ready.
            parent_pipe: the reading end of the pipe that this process keeps open.

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
        """The address where it serves; None until then."""
        return read_ready(self.ready_file)

    @property
    def failure(self) -> OperatorError:
        """The error of a server that ended by itself, with the reason that it announced, if any."""
        reason = read_failure(self.ready_file)
        if reason is None:
            return OperatorError(f"the {self.name} {describe_exit(self.exit.result())}; see its log above")
        return OperatorError(f"the {self.name} cannot serve: {reason[0]}", reason[1])

    async def end(self, stop_now: asyncio.Event, timeout: float) -> int:
        """Send SIGTERM; after `timeout` seconds, or if `stop_now` is set, send SIGINT; at last kill it.

        Returns:
            The return code; it takes at most `timeout` and 10 s.

        """
        stopping = asyncio.create_task(stop_now.wait())
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exit, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not self.exit.done():
            # The system delivers two pending signals of one kind as one. The servers treat SIGINT like
            # SIGTERM.
            self._signal(signal.SIGINT)
            await asyncio.wait({self.exit}, timeout=_KILL_GRACE_SECONDS)
        if not self.exit.done():
            # The whole session, with every process that the server has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return await self.exit

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


def describe_exit(code: int) -> str:
    """Describe a return code in words."""
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

  REST    {http}
  gRPC    {grpc}
  model   {model}{aliases}
{note}
{transports}

Try it:

{curl}
"""

_OPEN = """\
No API key exists, so the servers are open: anybody on this machine may call them. They listen on loopback
only. To require keys: lodestream keys create --name NAME"""

_WITH_KEYS = """\
Callers need an API key. A new one: KEY=$(lodestream keys create --name NAME)"""


def banner(
    http: str, grpc: str, names: Sequence[str], *, note: str | None, requires_key: bool, call: str
) -> str:
    """Write the text that `lodestream up` prints when both servers are ready.

    Args:
        http: URL of the bridge, as callers on this machine reach it.
        grpc: `host:port` of the service, likewise.
        names: the id of the model, then its aliases.
        note: a remark about the model.
        requires_key: whether callers need a key.
        call: a command that asks the model.

    """
    model, *aliases = names
    return _BANNER.format(
        http=http,
        grpc=grpc,
        model=model,
        aliases=f" (also {', '.join(aliases)})" if aliases else "",
        note=f"\n{textwrap.fill(note, 100)}\n" if note else "",
        transports=_WITH_KEYS if requires_key else _OPEN,
        curl=call,
    )


def curl(http: str, model: str, requires_key: bool, ca: Path | None) -> str:
    """Write a chat request as a curl command for a POSIX shell.

    Args:
        http: URL of the bridge.
        model: which is asked.
        requires_key: whether it needs a key, which the command reads from $KEY.
        ca: file of the authorities that both servers' certificate comes from; None: it needs none.

    """
    body = json.dumps({"model": model, **_REQUEST}).replace("'", "'\\''")
    lines = [f"curl {http}/v1/chat/completions", "-H 'Content-Type: application/json'"]
    if ca is not None:
        lines.append(f"--cacert {shlex.quote(str(ca))}")
    if requires_key:
        lines.append('-H "Authorization: Bearer $KEY"')
    return " \\\n  ".join([*lines, f"-d '{body}'"])
