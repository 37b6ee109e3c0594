from __future__ import annotations

from collections.abc import Sequence

from lodestream_common.errors import OperatorError


class ModelError(OperatorError):
    """Expected: a model cannot be found, fetched, verified or read."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(" ".join(message.split()), details)


class FetchStopped(ModelError):
    """Somebody told the fetch to end."""
