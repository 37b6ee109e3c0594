"""Reading one call while it is being written."""

from __future__ import annotations

from collections.abc import Collection, Generator

from inference_service.generation.tools.json_object import SPACE, MalformedJson, ObjectScanner

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_KEYS = ARGUMENT_KEYS | {"name", "type"}


class NoCall(Exception):
    """Expected: the text is no call, or not any more."""


class CallReader:
    """Recognizes `{"name": ..., "arguments": {...}}` of a known tool, behind its opening brace.

    The members may come in any order. `parameters` goes for `arguments` as some models were trained to
    say, and so does a further member `"type": "function"`.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._arguments: list[str] = []
        self._scanner: ObjectScanner | None = None
        self._text = self._read()
        next(self._text)
        self.name: str | None = None
        self.is_named = False
        """Whether its name is being read, or was: so far it is that of one of the tools."""
        self.is_done = False
        """Whether the call's own closing brace was met."""

    @property
    def is_open(self) -> bool:
        """Whether it is known to be a call: of one of the tools, with an object of arguments."""
        return self.name is not None and self._scanner is not None

    @property
    def has_arguments(self) -> bool:
        """Whether the arguments are complete."""
        return self._scanner is not None and self._scanner.is_complete

    def feed(self, char: str) -> None:
        """Take the next character in.

        Raises:
            NoCall: no call goes on with it.

        """
        try:
            self._text.send(char)
        except StopIteration:
            self.is_done = True
        except MalformedJson as error:
            raise NoCall from error

    def take(self) -> str:
        """The text of the arguments that is new since the last time."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def _read(self) -> Generator[None, str, None]:
        keys = _KEYS
        char = ","
        while char == ",":
            key = yield from _word((yield from _visible()), keys)
            keys -= ARGUMENT_KEYS if key in ARGUMENT_KEYS else {key}
            if (yield from _visible()) != ":":
                raise NoCall
            yield from self._member(key, (yield from _visible()))
            char = yield from _visible()
        if char != "}" or not self.is_open:
            raise NoCall

    def _member(self, key: str, first: str) -> Generator[None, str, None]:
        if key == "name":
            self.is_named = True
            self.name = yield from _word(first, self._names)
        elif key == "type":
            yield from _word(first, ("function",))
        else:
            yield from self._object(first)

    def _object(self, char: str) -> Generator[None, str, None]:
        scanner = ObjectScanner()
        scanner.feed(char)
        self._scanner = scanner
        self._arguments.append(char)
        while not scanner.is_complete:
            char = yield
            scanner.feed(char)
            self._arguments.append(char)


def _visible() -> Generator[None, str, str]:
    char = yield
    while char in SPACE:
        char = yield
    return char


def _word(first: str, words: Collection[str]) -> Generator[None, str, str]:
    """Read one of the words, in quotes; give up at the first character that none of them has."""
    if first != '"':
        raise NoCall
    text = ""
    while (char := (yield)) != '"':
        text += char
        if not any(word.startswith(text) for word in words):
            raise NoCall
    if text not in words:
        raise NoCall
    return text
