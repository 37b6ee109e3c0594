"""Ids of calls: equal for a repeated request, unique in a conversation."""

from __future__ import annotations

import re
from itertools import product

from inference_service.output.tool_calls import call_ids


def test_ids_are_the_same_for_the_same_request() -> None:
    assert call_ids(7, [1, 2, 3], 1)(4) == call_ids(7, [1, 2, 3], 1)(4)
    assert re.fullmatch("call_[0-9a-f]{24}", call_ids(7, [1, 2, 3])(0))


def test_ids_differ_by_seed_prompt_choice_and_index() -> None:
    ids = [
        call_ids(seed, prompt, choice)(index)
        for seed, prompt, choice, index in product([0, 1, -1], [[], [1], [1, 2]], [0, 1], [0, 1])
    ]

    assert len(set(ids)) == len(ids)
