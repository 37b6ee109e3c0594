"""How large a constraint may be. Together these bound the time of compiling one and of every token."""

from __future__ import annotations

MAX_SOURCE_BYTES = 524_288
"""Of the caller's text, in UTF-8."""

MAX_DEPTH = 64
"""Groups inside groups of a regular expression or a GBNF grammar."""

MAX_RULES = 20_000
MAX_ELEMENTS = 400_000
"""Characters, classes and references of a whole grammar; a counted repetition counts once."""

MAX_REPETITIONS = 65_536
"""Upper limit of a counted repetition in a regular expression or a GBNF grammar."""

MAX_ALTERNATIVES = 1_000
"""Ways to expand one schema (anyOf, oneOf, not, if) or one regular expression with anchors inside."""

MAX_SCHEMAS = 20_000
"""Distinct combinations of schemas that one document may need rules for."""

MAX_SECONDS = 2.0
"""Of compiling one constraint."""
