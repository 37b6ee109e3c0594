"""The command `lodestream chat`: a conversation in the terminal, streamed over gRPC."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence

from inference_client import Client, Delta, InferenceError, Message, Summary
from lodestream import tls
from lodestream.parser import CommandParser
from lodestream.tls import CallerTls
from lodestream_common.errors import OperatorError

_ABOUT = (
    "Chats with a served model. The conversation is the context of each answer. Ctrl-C stops an answer, "
    "Ctrl-D ends the chat. /reset begins a new conversation, /undo removes the last turn. Piped text is one "
    "message a line."
)


def run(arguments: Sequence[str]) -> int:
    """Chat until the input ends.

    Returns:
        0, or 1 where the last answer failed.

    """
    parser = CommandParser(
        "chat",
        _ABOUT,
        {},
        [
            "lodestream chat",
            "lodestream chat --target gpu1.internal:50051 --ca ca.pem",
            "echo 'Why is the sky blue?' | lodestream chat --max-tokens 60",
        ],
        operands="[OPTION ...]",
    )
    parser.add_argument("--target", metavar="ADDRESS", help="host:port of the service [LODESTREAM_TARGET, or "
                        "127.0.0.1:50051]; the key is in LODESTREAM_API_KEY")  # fmt: skip
    parser.add_argument("--model", default="", metavar="NAME", help="[the first that the service lists]")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--max-tokens", type=_whole, metavar="N", help="most tokens of an answer [the service's]"
    )
    tls.add_options(parser)
    parser.add_argument("--temperature", type=float, metavar="T", help="from 0 to 2 [the service's]")
    parsed = parser.parse(arguments)
    files = CallerTls.of(parsed)
    with Client.from_environment(parsed.target, tls=files.for_grpc() if files.is_given else None) as client:
        chat = Chat(client, parsed.model or _first_model(client), parsed.system)
        return converse(chat, parsed.max_tokens, parsed.temperature)


class Chat:
    """One conversation.

    Args:
        client: of the service.
        model: a served name.
        system: the system message; None: there is none.

    """

    def __init__(self, client: Client, model: str, system: str | None) -> None:
        self._client = client
        self._model = model
        self._head = [Message("system", system)] if system else []
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self._head, *self._turns]

    def reset(self) -> None:
        """Begin a new conversation with the same system message."""
        self._turns.clear()

    def undo(self) -> None:
        """Remove the last question and its answer."""
        del self._turns[-2:]

    def ask(self, text: str, max_tokens: int | None, temperature: float | None) -> str:
        """Ask, and print the answer while it arrives. What arrived until Ctrl-C belongs to the conversation.

        Returns:
            The figures of the answer; empty where it was stopped.

        Raises:
            InferenceError: the answer failed; the question is not part of the conversation then.

        """
        question = Message("user", text)
        stream = self._client.stream(
            model=self._model,
            messages=[*self.messages, question],
            max_tokens=max_tokens,
            temperature=temperature,
        )
        pieces: list[str] = []
        figures = ""
        try:
            with stream:
                for event in stream:
                    if isinstance(event, Delta):
                        pieces.append(event.text)
                        print(event.text, end="", flush=True)
                    elif isinstance(event, Summary):
                        figures = _figures(event)
        except KeyboardInterrupt:
            pass
        print()
        self._turns += [question, Message("assistant", "".join(pieces))]
        return figures


def converse(chat: Chat, max_tokens: int | None, temperature: float | None) -> int:
    """Read messages and commands from the standard input until it ends."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Only its import is needed: input() then has history and editing.
        import readline  # noqa: F401
    status = 0
    while (text := _read(is_terminal)) is not None:
        match text.strip():
            case "":
                continue
            case "/reset":
                chat.reset()
            case "/undo":
                chat.undo()
            case command if command.startswith("/"):
                print(f"{command.split()[0]}: unknown command; there are /reset and /undo", file=sys.stderr)
            case message:
                try:
                    figures, status = chat.ask(message, max_tokens, temperature), 0
                except InferenceError as error:
                    print(f"lodestream: {error.message}", file=sys.stderr)
                    status = 1
                    continue
                if is_terminal and figures:
                    print(f"\033[2m{figures}\033[0m")
    return status


def _read(is_terminal: bool) -> str | None:
    try:
        return input("> " if is_terminal else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return ""


def _first_model(client: Client) -> str:
    try:
        models = client.list_models(timeout=10)
    except InferenceError as error:
        raise OperatorError(f"the service does not answer: {error.message}") from None
    if not models:
        raise OperatorError("the service lists no model")
    return models[0].id


def _figures(summary: Summary) -> str:
    tokens, timings = summary.usage.completion_tokens, summary.timings
    parts = [f"{tokens} tokens"]
    if timings is not None:
        parts.append(f"first after {timings.time_to_first_token_ms:.0f} ms")
        if timings.decode_ms > 0 and tokens > 1:
            parts.append(f"{(tokens - 1) / timings.decode_ms * 1e3:.1f} tokens/s")
    return ", ".join(parts)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)
