from __future__ import annotations


class ModelError(Exception):
    """Expected: a model cannot be found, fetched, verified or read. One line that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
