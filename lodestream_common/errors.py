"""What the operator is told on purpose.

OperatorError       something only the operator can mend
└── SettingError    a setting is unknown or malformed
"""

from __future__ import annotations


class OperatorError(Exception):
    """Expected: only the operator can mend it. The message is one line: what is wrong, and what to do.

    The command line prints it as `lodestream: <message>`, without a traceback, and exits with `exit_status`.
    """

    exit_status = 1


class SettingError(OperatorError):
    """Expected: a flag, environment variable or key of the settings file is unknown or malformed."""

    exit_status = 2
