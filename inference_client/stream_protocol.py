"""The grammar of a stream, as GenerateStream's own comment has it: started *( delta | finished ) summary."""

from __future__ import annotations

from inference_client.conversation import ToolCallDelta
from inference_client.errors import ProtocolError
from inference_client.events import Delta, Event, Finished, Started


def cut_short() -> ProtocolError:
    """What is wrong with a stream that ends well, and has no summary."""
    return ProtocolError("The stream ended without its summary.")


class StreamProtocolChecker:
    """Checks the events of one stream, in order.

    Args:
        choices: how many the request asks for; 0 where it is to be validated only.

    """

    __slots__ = ("_calls", "_choices", "_finished", "_live", "_summarised")

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._live = False
        """Between the first event and the last."""
        self._summarised = False
        self._finished: set[int] = set()
        self._calls: dict[int, int] = {}
        """How many tool calls a choice has begun."""

    def restart(self) -> None:
        """Expect a stream from its beginning again; so far there was no more than that of another one."""
        self._live = False

    def check(self, event: Event) -> None:
        """Take the next event.

        Raises:
            ProtocolError: it may not come here.

        """
        if not self._live:
            self._check_outside(event)
        elif isinstance(event, Delta):
            choice = event.choice_index
            if choice in self._finished or choice >= self._choices:
                raise self._surplus(choice, "went on after it had ended")
            for piece in event.tool_calls:
                self._check_call(choice, piece)
        elif isinstance(event, Finished):
            self._check_finished(event.choice_index)
        elif isinstance(event, Started):
            raise ProtocolError("The stream started twice.")
        else:
            self._check_summary()

    def _check_outside(self, event: Event) -> None:
        if self._summarised:
            raise ProtocolError("The stream went on after its summary.")
        if not isinstance(event, Started):
            raise ProtocolError(f"The stream began with a {type(event).__name__.lower()} event.")
        self._live = True

    def _check_call(self, choice: int, piece: ToolCallDelta) -> None:
        begun = self._calls.get(choice, 0)
        call = f"Tool call {piece.index} of choice {choice}"
        if piece.index > begun:
            raise ProtocolError(f"{call} came before call {begun}.")
        if piece.index < begun:
            if piece.id is not None or piece.name is not None:
                raise ProtocolError(f"{call} began twice.")
            return
        if piece.id is None or piece.name is None:
            raise ProtocolError(f"{call} began without its id or its name.")
        self._calls[choice] = begun + 1

    def _check_finished(self, choice: int) -> None:
        if choice in self._finished or choice >= self._choices:
            raise self._surplus(choice, "ended twice")
        self._finished.add(choice)

    def _check_summary(self) -> None:
        if len(self._finished) != self._choices:
            raise ProtocolError("The summary came before every choice had ended.")
        self._live = False
        self._summarised = True

    def _surplus(self, choice: int, again: str) -> ProtocolError:
        if choice in self._finished:
            return ProtocolError(f"Choice {choice} {again}.")
        return ProtocolError(f"Choice {choice} was not asked for: the request wants {self._choices}.")
