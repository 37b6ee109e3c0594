"""What is new in an output that is cumulative."""

from __future__ import annotations

from collections.abc import Sequence


class OutputCursor:
    """Reads each id once out of a list that grows between two looks, and may shrink at the last one.

    The engine takes a stop word back out of its output with the final response, and never shows the
    end id at all. So an end of sequence at the tail is left alone until the engine says what it was,
    and is named with the finish.

    Args:
        end_ids: tokens that end the generation; none where the request ignores them.
        end_id: the one of them that the engine does not show.

    """

    def __init__(self, end_ids: frozenset[int], end_id: int) -> None:
        self._end_ids = end_ids
        self._end_id = end_id
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many ids were read."""
        return self._taken

    def has_news(self, ids: Sequence[int]) -> bool:
        """Whether `take` would give anything."""
        return self._settled(ids) > self._taken

    def take(self, ids: Sequence[int]) -> list[int]:
        """The new ids of an output that goes on."""
        return self._upto(ids, self._settled(ids))

    def take_cut(self, ids: Sequence[int]) -> list[int]:
        """The new ids of an output that ended for its length."""
        return self._upto(ids, len(ids))

    def take_ended(self, ids: Sequence[int], stop_reason: int | str | None) -> list[int]:
        """The new ids of an output that ended by itself, the end of sequence last."""
        end = self._end_id
        if isinstance(stop_reason, int):
            end = stop_reason
        elif ids and ids[-1] in self._end_ids:
            end = ids[-1]
        settled = len(ids) - (bool(ids) and ids[-1] == end)
        return [*self._upto(ids, settled), end]

    def _settled(self, ids: Sequence[int]) -> int:
        return len(ids) - (bool(ids) and ids[-1] in self._end_ids)

    def _upto(self, ids: Sequence[int], end: int) -> list[int]:
        fresh = list(ids[self._taken : end])
        self._taken = max(self._taken, end)
        return fresh
