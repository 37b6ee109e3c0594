"""API keys: what one is (`key`), the file that keeps them (`file`), and what a server asks (`ring`), and
how it slows down whoever tries keys (`failures`).
"""

from __future__ import annotations

from lodestream_common.keys.failures import FailedKeys
from lodestream_common.keys.file import KeyFile
from lodestream_common.keys.key import ApiKey, Level
from lodestream_common.keys.ring import Keyring

__all__ = ["ApiKey", "FailedKeys", "KeyFile", "Keyring", "Level"]
