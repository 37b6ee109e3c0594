"""The only part of xgrammar that serving calls."""

from __future__ import annotations


class Grammar:
    """A grammar that could be parsed."""

    @staticmethod
    def from_ebnf(ebnf_string: str, *, root_rule_name: str = "root") -> Grammar:
        """Read a grammar.

        Raises:
            RuntimeError: it cannot be read.

        """
        from inference_service.constraints.compiling import ConstraintKind, compile_constraint

        if root_rule_name != "root":
            raise NotImplementedError("the double reads grammars whose root is `root`")
        try:
            compile_constraint(ConstraintKind.GRAMMAR, ebnf_string)
        except Exception as error:
            raise RuntimeError(f"EBNF parser error: {error}") from None
        return Grammar()
