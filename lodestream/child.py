"""A server that runs as a child of `lodestream up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lodestream.setting import PREFIX
from lodestream_common.errors import OperatorError
from lodestream_common.ready import PARENT_PIPE, READY_FILE, read_failure, read_ready

_LAST_SECONDS = 10.0
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
            await asyncio.wait({self.exit}, timeout=_LAST_SECONDS)
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
