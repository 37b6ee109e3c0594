"""Names for calls."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

CallIds = Callable[[int], str]
"""The id of a call, by its index."""


def call_ids(seed: int, prompt: Sequence[int], choice: int = 0) -> CallIds:
    """Ids that are the same whenever a request is repeated with its seed.

    The prompt is part of them because a conversation often keeps its seed from request to request, and
    no two calls of one conversation may have the same id.

    Args:
        seed: the request's.
        prompt: its token ids.
        choice: index of the choice that makes the calls.

    """
    base = hashlib.sha256(f"{seed} {choice} ".encode() + array("q", prompt).tobytes())

    def call_id(index: int) -> str:
        digest = base.copy()
        digest.update(str(index).encode())
        return f"call_{digest.hexdigest()[:24]}"

    return call_id
