"""The pacing of the tested servers: their default, or the value of TEST_PACING."""

from __future__ import annotations

import os
from typing import Any

_SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "off": {"max_stream_interval": 0.0},
    "always": {"stream_pacing": "always", "max_stream_interval": 0.02},
    "random": {"stream_pacing": "random", "max_stream_interval": 0.02},
}


def pacing_settings() -> dict[str, Any]:
    """The settings about pacing, for either server."""
    return _SETTINGS[os.environ.get("TEST_PACING", "auto")]
