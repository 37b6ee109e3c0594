"""What can go wrong at the seam.

BackendError
├── BackendStartError    the engine cannot be loaded
├── EngineRequestError   one request failed
│   └── EngineGrammarError   its grammar is none that the engine can follow
└── EngineDeadError      the engine is gone
"""

from __future__ import annotations

from lodestream_common.errors import OperatorError


class BackendError(Exception):
    """Anything an engine raises on purpose."""


class BackendStartError(BackendError, OperatorError):
    """Expected: the engine cannot be loaded. The message is one line for the operator."""


class EngineRequestError(BackendError):
    """Unexpected: one request failed inside the engine, which goes on serving others."""


class EngineGrammarError(EngineRequestError):
    """Expected: the engine cannot follow a grammar. The message says why and is safe to send."""


class EngineDeadError(BackendError):
    """Unexpected: the engine is gone and every later request fails too."""
