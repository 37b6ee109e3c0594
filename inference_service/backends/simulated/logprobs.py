"""Made-up log probabilities, the same for the same tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference_service.backends.types import TokenLogprob

_HALVED = math.log(0.5)


def made_up_logprobs(ids: Sequence[int], alternatives: int, vocabulary_size: int) -> list[TokenLogprob]:
    """For each token: itself with probability 1/2, then the ids that follow it with 1/4, 1/8, ..."""
    return [
        TokenLogprob(
            token_id,
            _HALVED,
            [((token_id + rank) % vocabulary_size, _HALVED * (rank + 1)) for rank in range(alternatives)],
        )
        for token_id in ids
    ]
