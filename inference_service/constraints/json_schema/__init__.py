"""Compiles JSON schemas: reads them, expands their logic, and writes them as rules.

`document` finds schemas and references, `expansion` resolves the logic into alternatives (`facts`) of the
`demands` of keywords, and `compiler` writes each with `objects`, `arrays`, `strings` and `numbers`.
"""

from __future__ import annotations
