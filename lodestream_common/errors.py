"""What the operator is told on purpose.

OperatorError       something only the operator can mend
└── SettingError    a setting is unknown or malformed
"""

from __future__ import annotations

from collections.abc import Sequence


class OperatorError(Exception):
    """Expected: only the operator can mend it. The message is one line: what is wrong, and what to do.

    The command line prints it as `lodestream: <message>`, without a traceback, and exits with `exit_status`.

    Args:
        message: the line.
        details: where several things are wrong, one line for each, printed below the message.

    """

    exit_status = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class SettingError(OperatorError):
    """Expected: a flag, environment variable or key of the settings file is unknown or malformed."""

    exit_status = 2
