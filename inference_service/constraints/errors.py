"""The errors of a constraint."""

from __future__ import annotations

_MAX_PATH = 200


class ConstraintError(ValueError):
    """Expected: the caller's constraint cannot be honoured exactly.

    Args:
        message: what is wrong, without the place.
        path: where: `$.properties.name.pattern` in a JSON Schema, `position 7` in a regular expression,
            `line 3, column 5` or `rule item` in a grammar; empty if it is the whole of it.

    """

    def __init__(self, message: str, path: str = "") -> None:
        self.message = message
        self.path = path if len(path) <= _MAX_PATH else f"{path[: _MAX_PATH - 1]}…"
        super().__init__(f"{message} (at {self.path})" if path else message)


class UnsupportedKeyword(ConstraintError):
    """A keyword of a JSON schema cannot be enforced exactly where it stands.

    Args:
        message: as `ConstraintError`.
        path: of the schema.
        keyword: of the schema.

    """

    def __init__(self, message: str, path: str, keyword: str) -> None:
        self.schema_path = path
        self.keyword = keyword
        super().__init__(message, f"{path}.{keyword}")
