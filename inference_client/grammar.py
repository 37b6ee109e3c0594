"""The grammar of a stream, as GenerateStream's own comment has it: started *( delta | finished ) summary."""

from __future__ import annotations

from inference_client.errors import ProtocolError
from inference_client.events import Delta, Event, Finished, Started


def cut_short() -> ProtocolError:
    """What is wrong with a stream that ends well, and has no summary."""
    return ProtocolError("The stream ended without its summary.")


class StreamGrammar:
    """Checks the events of one stream, in order."""

    __slots__ = ("_finished", "_live", "_open", "_summarised")

    def __init__(self) -> None:
        self._live = False
        """Between the first event and the last."""
        self._summarised = False
        self._open: set[int] = set()
        self._finished: set[int] = set()

    def check(self, event: Event) -> None:
        """Take the next event.

        Raises:
            ProtocolError: it may not come here.

        """
        if not self._live:
            self._check_outside(event)
        elif isinstance(event, Delta):
            self._check_delta(event.choice_index)
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

    def _check_delta(self, choice: int) -> None:
        if choice in self._finished:
            raise ProtocolError(f"Choice {choice} went on after it had ended.")
        self._open.add(choice)

    def _check_finished(self, choice: int) -> None:
        if choice in self._finished:
            raise ProtocolError(f"Choice {choice} ended twice.")
        self._open.discard(choice)
        self._finished.add(choice)

    def _check_summary(self) -> None:
        if self._open or not self._finished:
            raise ProtocolError("The summary came before every choice had ended.")
        self._live = False
        self._summarised = True
