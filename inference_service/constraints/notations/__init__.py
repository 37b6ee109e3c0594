"""Grammars as text: GBNF is read; Lark (llguidance) and EBNF (xgrammar) are written."""
