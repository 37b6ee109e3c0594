"""Logit bias as the engine takes it: a number for each token of its vocabulary.

The engine adds it before temperature, and after a grammar has ruled tokens out. -100 forbids a token, as
the contract says, whatever the model thinks of it; any other number is added as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

FORBIDDEN = -30_000.0
"""What -100 becomes. No logit makes up for it; and unlike infinity it leaves something to choose from
where a grammar asks for a forbidden token. Half precision, which some engines' logits have, can hold it."""
KEPT = 16

_FORBIDS = -100.0


class BiasTensors:
    """Makes tensors, and keeps the last `KEPT`: the choices of a request share theirs.

    One takes 4 bytes a token, 513 kB for Llama 3.1, for as long as its request runs, and crosses with it
    to the worker process.

    Args:
        torch: PyTorch.
        vocabulary_size: the engine's own, which may be larger than the tokenizer's.

    """

    def __init__(self, torch: Any, vocabulary_size: int) -> None:
        self._torch = torch
        self._vocabulary_size = vocabulary_size
        self._kept = lru_cache(maxsize=KEPT)(self._make)

    def tensor(self, bias: Mapping[int, float]) -> Any:
        """FP32, one dimension of `vocabulary_size`; not to be changed.

        Args:
            bias: token id, within the vocabulary, → range [-100, 100]; at least one.

        """
        return self._kept(tuple(sorted(bias.items())))

    def _make(self, entries: tuple[tuple[int, float], ...]) -> Any:
        single = self._torch.float32
        tensor = self._torch.zeros(self._vocabulary_size, dtype=single)
        values = [FORBIDDEN if value <= _FORBIDS else float(value) for _, value in entries]
        tensor[[token_id for token_id, _ in entries]] = self._torch.tensor(values, dtype=single)
        return tensor
