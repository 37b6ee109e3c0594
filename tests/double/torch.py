"""The part of PyTorch that a logit bias needs, with the same strictness about types and shapes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class dtype:  # noqa: N801  PyTorch's own name
    name: str


float32 = dtype("float32")
float16 = dtype("float16")


class Tensor:
    """A one-dimensional tensor."""

    def __init__(self, values: Sequence[float], kind: dtype) -> None:
        self._values = array("f", values)
        self.dtype = kind

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._values),)

    def tolist(self) -> list[float]:
        return self._values.tolist()

    def __setitem__(self, places: Sequence[int], values: Tensor) -> None:
        if values.dtype is not self.dtype:
            raise RuntimeError(f"Index put requires the same dtypes, got {self.dtype} and {values.dtype}")
        if values.shape != (len(places),):
            raise RuntimeError(f"shape mismatch: {values.shape} cannot be put into {len(places)} places")
        for place, value in zip(places, values.tolist(), strict=True):
            if not -len(self._values) <= place < len(self._values):
                raise IndexError(f"index {place} is out of bounds for dimension 0 with size {self.shape[0]}")
            self._values[place] = value


def zeros(size: int, *, dtype: dtype = float32) -> Tensor:
    return Tensor([0.0] * size, dtype)


def tensor(values: Sequence[float], *, dtype: dtype = float32) -> Tensor:
    return Tensor(values, dtype)
