"""How large a constraint may be. Together they bound the time of compiling and of every token."""

from __future__ import annotations

MOST_SOURCE_BYTES = 65_536
"""Of the caller's text, in UTF-8."""

MOST_DEPTH = 64
"""Groups inside groups, schemas inside schemas."""

MOST_RULES = 4_000
MOST_ELEMENTS = 60_000
"""Characters, classes and references of the whole grammar, repetitions written out."""

MOST_REPETITIONS = 65_536
"""Upper limit of a counted repetition, and of a length in a JSON Schema."""

BLOCK = 256
"""Longer repetitions are split into blocks of so many; llama.cpp refuses 2,000, and turns an upper limit
above that into none at all."""

MOST_LEFT_PATHS = 20_000
"""Ways from a rule to what may come first in it. llama.cpp walks each of them when it loads a grammar."""

MOST_PROPERTIES = 500
MOST_CHOICES = 1_000
"""Values of one enum, branches of one anyOf."""

MOST_SCHEMAS = 5_000
"""Schemas of one document, those that have to be expanded for merging counted each time."""
