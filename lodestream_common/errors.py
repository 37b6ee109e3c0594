"""The errors that are reported to the operator in one line.

OperatorError       something that only the operator can correct
└── SettingError    a setting is unknown or malformed
"""

from __future__ import annotations

from collections.abc import Sequence


class OperatorError(Exception):
    """Expected: only the operator can correct it. The message is one line: what is wrong, and what to do.

    The command line prints it as `lodestream: <message>`, without a traceback, and exits with `exit_status`.

    Args:
        message: one line.
        details: further lines below the message, one for each thing that is wrong.

    """

    exit_status = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class SettingError(OperatorError):
    """Expected: a flag, environment variable or key of the settings file is unknown or malformed."""

    exit_status = 2
