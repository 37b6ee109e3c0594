"""Reads and writes grammars as text: reads GBNF, writes Lark (llguidance) and EBNF (xgrammar)."""
