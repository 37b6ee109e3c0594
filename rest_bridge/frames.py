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
        self._choices: dict[int, ChoiceFrames] = {}
        self._endings: list[Finished] = []
        self._summary: Summary | None = None

    def render(self, event: Event) -> bytes:
        """What goes out for one event; may be nothing."""
        if isinstance(event, Delta):
            choice = self._choices.get(event.choice_index)
            return self._first(event) if choice is None else choice.delta(event)
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

    def _first(self, delta: Delta) -> bytes:
        choice = self._open(delta.choice_index)
        return choice.opening(delta) + choice.delta(delta)

    def _ending(self, finished: Finished) -> bytes:
        self._endings.append(finished)
        choice = self._choices.get(finished.choice_index)
        if choice is not None:
            return choice.ending(finished)
        choice = self._open(finished.choice_index)
        return choice.opening(None) + choice.ending(finished)

    def _open(self, index: int) -> ChoiceFrames:
        if self._wanted.only_text:
            choice = ChoiceFrames(self._shape, self._head, self._tail, index)
        else:
            choice = RichChoiceFrames(self._shape, self._head, self._tail, index, self._wanted)
        self._choices[index] = choice
        return choice


def error_frame(body: Json) -> bytes:
    """The event that ends a stream that failed."""
    return b"data: " + dump(body) + b"\n\n"
