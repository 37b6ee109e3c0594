"""Constraints on an answer: JSON schemas, regular expressions, GBNF grammars, tool calls.

Each is parsed and checked once into a `Grammar`, which describes exactly the texts that an answer may be.
Engines print it in their own notation. A constraint that cannot be enforced exactly is refused with a
`ConstraintError(message, path)`.
"""

from __future__ import annotations
