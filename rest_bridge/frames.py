"""The events of a stream as text."""

from __future__ import annotations

from inference_client import Delta, Event, Finished, Summary
from rest_bridge.account import Account
from rest_bridge.answer import Json, new_id, usage
from rest_bridge.choice_frames import ChoiceFrames, RichChoiceFrames, Shape, dump
from rest_bridge.wanted import Wanted

DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"


class Frames:
    """Renders the events of one stream, each as the bytes that go out for it.

    Args:
        shape: the endpoint's.
        model: the name that the caller used.
        created: seconds since the Unix epoch.
        wanted: what there is beside text.
        account: tells what became of the request.

    """

    __slots__ = ("_account", "_choices", "_endings", "_head", "_shape", "_summary", "_tail", "_wanted")

    def __init__(self, shape: Shape, model: str, wanted: Wanted, account: Account, created: int) -> None:
        common = {"id": new_id(shape.prefix), "object": shape.kind, "created": created, "model": model}
        self._shape = shape
        self._wanted = wanted
        self._account = account
        self._head = b"data: " + dump(common)[:-1] + b',"choices":['
        # Where usage is asked for, every other chunk says that it has none.
        self._tail = b'],"usage":null' + _END if wanted.usage else b"]" + _END
        self._choices: list[ChoiceFrames] = []
        self._endings: list[Finished] = []
        self._summary: Summary | None = None

    def render(self, event: Event) -> bytes:
        """What goes out for one event; may be nothing."""
        if isinstance(event, Delta):
            index, choices = event.choice_index, self._choices
            return choices[index].delta(event) if index < len(choices) else self._first(event)
        if isinstance(event, Finished):
            return self._ending(event)
        if isinstance(event, Summary):
            self._summary = event
        return b""

    def closing(self) -> bytes:
        """What goes out after the last event of a stream that went well."""
        if self._summary is None or not self._wanted.usage:
            return DONE
        last = {
            "usage": usage(self._summary.usage),
            "pg_metadata": self._account.metadata(self._summary, self._endings),
        }
        return self._head + b"]," + dump(last)[1:-1] + _END + DONE

    def _ending(self, finished: Finished) -> bytes:
        self._endings.append(finished)
        opening = self._open(finished.choice_index, has_text=True)
        return opening + self._choices[finished.choice_index].ending(finished)

    def _first(self, delta: Delta) -> bytes:
        opening = self._open(delta.choice_index, has_text=bool(delta.text))
        return opening + self._choices[delta.choice_index].delta(delta)

    def _open(self, index: int, *, has_text: bool) -> bytes:
        """The beginnings of all choices up to this one: in order, as OpenAI's SDK expects them."""
        frames = b""
        for number in range(len(self._choices), index + 1):
            choice = self._choice(number)
            self._choices.append(choice)
            frames += choice.opening(has_text and number == index)
        return frames

    def _choice(self, index: int) -> ChoiceFrames:
        if self._wanted.only_text:
            return ChoiceFrames(self._shape, self._head, self._tail, index)
        return RichChoiceFrames(self._shape, self._head, self._tail, index, self._wanted)


def error_frame(body: Json) -> bytes:
    """The event that ends a stream that failed."""
    return b"data: " + dump(body) + b"\n\n"
