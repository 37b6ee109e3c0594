"""The command `lodestream`: runs one subcommand, and prints an expected error as one line."""

from __future__ import annotations

import importlib
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from lodestream_common.errors import OperatorError, SettingError, install_command
from lodestream_common.ready import PARENT_PIPE, announce_failure

OUR_PACKAGES = frozenset(
    {"engines", "inference_client", "inference_service", "lodestream", "lodestream_common", "rest_bridge"}
)


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand, and the function that takes its arguments and returns the exit status."""

    name: str
    summary: str
    module: str
    function: str = "run"

    def run(self, arguments: Sequence[str]) -> int:
        """Import the module of this command only, and run the command."""
        status: int = getattr(importlib.import_module(self.module), self.function)(arguments)
        return status


COMMANDS = (
    Command("up", "Fetch the model, then run both servers until Ctrl-C.", "lodestream.up"),
    Command("serve", "Run the gRPC service.", "lodestream.servers", "serve"),
    Command("bridge", "Run the REST bridge in front of a service.", "lodestream.servers", "bridge"),
    Command("keys create", "Make an API key and print it; it is not stored.", "lodestream.keys", "create"),
    Command("keys list", "List the API keys, without the keys themselves.", "lodestream.keys", "show"),
    Command("keys rotate", "Replace an API key by a new one, with an overlap.", "lodestream.keys", "rotate"),
    Command(
        "keys revoke",
        "Revoke an API key; running servers refuse it within a second.",
        "lodestream.keys",
        "revoke",
    ),
    Command("model list", "List the models of the catalog.", "lodestream.models", "show"),
    Command("model fetch", "Fetch a model and verify it.", "lodestream.models", "fetch"),
    Command("model path", "Print where a model's file is.", "lodestream.models", "path"),
    Command("engine plan", "Plan a TensorRT-LLM engine; needs no GPU.", "lodestream.engine", "plan"),
    Command("engine build", "Build an engine on the machine with the GPU.", "lodestream.engine", "build"),
    Command("engine verify", "Check an engine directory.", "lodestream.engine_directory", "verify"),
    Command(
        "engine inspect",
        "Show the contents of an engine directory.",
        "lodestream.engine_directory",
        "inspect",
    ),
    Command("engine adopt", "Write a manifest for an engine.", "lodestream.engine_directory", "adopt"),
    Command("filter check", "Check a file of rules for the content filter.", "lodestream.filter", "check"),
    Command("health", "Check whether a server serves; the exit status tells.", "lodestream.health"),
    Command("chat", "Chat with a served model.", "lodestream.chat"),
    Command("top", "Show what services do now, live.", "lodestream.top"),
    Command("usage", "Sum up the usage receipts by key, model or day.", "lodestream.usage"),
    Command("bench", "Put a server under load and measure its answers.", "lodestream.bench.command"),
    Command(
        "version", "Print the versions of lodestream and what it runs on.", "lodestream.cli", "print_versions"
    ),
)

_HEAD = """\
usage: lodestream COMMAND [ARGUMENT ...]

Serves a language model over gRPC and, through a bridge, over OpenAI-style REST.

commands:
"""
_TAIL = """
`lodestream COMMAND --help` explains a command with all its settings.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong arguments or settings, 130 interrupted.

    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch_and_flush(arguments)
    except OperatorError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        return _complain(f"{error.name} is not installed; run: {install_command('all')}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of stdout has closed the pipe. The flush at exit must not write to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _dispatch_and_flush(arguments: Sequence[str]) -> int:
    try:
        return _dispatch(arguments)
    finally:
        # A broken pipe is handled here; at the exit of the interpreter Python would print it.
        sys.stdout.flush()


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        arguments = ["version"]
    for words in (2, 1):
        name = " ".join(arguments[:words])
        for command in COMMANDS:
            if command.name == name:
                return command.run(arguments[words:])
    return _describe_group(arguments)


def overview(group: str = "") -> str:
    """List all commands, or those whose names begin with `group`."""
    rows = [f"  {c.name:<12} {c.summary}" for c in COMMANDS if c.name.startswith(group)]
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


def _describe_group(arguments: Sequence[str]) -> int:
    group = arguments[0] + " "
    if any(command.name.startswith(group) for command in COMMANDS):
        if len(arguments) == 1 or arguments[1] in ("-h", "--help"):
            print(overview(group))
            return 0
        raise _unknown_command(" ".join(arguments[:2]))
    raise _unknown_command(arguments[0])


def _unknown_command(name: str) -> SettingError:
    from difflib import get_close_matches

    near = get_close_matches(name, [command.name for command in COMMANDS], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; see lodestream --help"
    return SettingError(f"{name}: unknown command{hint}")


def _is_ours(error: ModuleNotFoundError) -> bool:
    return (error.name or "").split(".")[0] in OUR_PACKAGES


def _fail(error: OperatorError) -> int:
    if os.environ.get(PARENT_PIPE):
        # `lodestream up` prints the error as its last line, after the log lines.
        announce_failure(str(error), error.details)
        return error.exit_status
    return _complain(str(error), error.exit_status, error.details)


def _complain(message: str, status: int, details: Sequence[str] = ()) -> int:
    for line in (f"lodestream: {message}", *(f"  - {detail}" for detail in details)):
        indent = line[: len(line) - len(line.lstrip())]
        print(indent + " ".join(line.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())


_SHOWN = ("grpcio", "protobuf", "fastapi", "tokenizers", "xllamacpp")


def print_versions(arguments: Sequence[str]) -> int:
    """Print the versions, one `name version` a line."""
    if arguments in (["-h"], ["--help"]):
        print("usage: lodestream version\n\nPrints the versions of lodestream and of what it runs on.")
        return 0
    if arguments:
        raise SettingError(f"{arguments[0]}: version takes no arguments")
    print("lodestream", version("lodestream"))
    print("python", platform.python_version())
    for name in _SHOWN:
        print(name, _version_of(name))
    return 0


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
