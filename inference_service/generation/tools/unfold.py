"""Conversations for templates that take one call a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from inference_service.generation.turns import ChatTurn


def one_call_a_turn(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    """The same conversation, as if the model had made its calls one after the other.

    Each call is followed by its result. Results that belong to no call of the message before them stay
    where they are, behind the others.
    """
    unfolded: list[ChatTurn] = []
    position = 0
    while position < len(turns):
        turn = turns[position]
        position += 1
        results: list[ChatTurn] = []
        while len(turn.tool_calls) > 1 and position < len(turns) and turns[position].role == "tool":
            results.append(turns[position])
            position += 1
        unfolded += _unfolded(turn, results)
    return unfolded


def _unfolded(turn: ChatTurn, results: Sequence[ChatTurn]) -> Iterator[ChatTurn]:
    if len(turn.tool_calls) <= 1:
        yield turn
        return
    called = {call.id for call in turn.tool_calls}
    for index, call in enumerate(turn.tool_calls):
        yield replace(turn, content="" if index else turn.content, tool_calls=(call,))
        yield from (result for result in results if result.tool_call_id == call.id)
    yield from (result for result in results if result.tool_call_id not in called)
