"""Independent implementations for tests of grammars: random sentences, and whether a text is a sentence.

Sentences are generated from the printed EBNF. Three implementations must agree on whether a text is a
sentence: a walk over the printed EBNF, our own matcher, and llguidance on the printed Lark.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import Chars, Choice, Literal, Node, Ref, Repeat, Rules, Sequence
from inference_service.constraints.notations.ebnf import to_ebnf
from inference_service.constraints.notations.gbnf import parse_gbnf
from inference_service.constraints.notations.lark import to_lark

_TOKENIZER = LLTokenizer("byte")
_MAX_EBNF = 60_000
"""The largest printed grammar for the walk, which is slow, in characters."""


class Sampler:
    """Writes random sentences of a grammar.

    Choices are random at first; once the sentence is long, the shortest way to its end is taken.
    """

    def __init__(self, grammar: Grammar, seed: int, budget: int = 60) -> None:
        self._rules = printed_rules(grammar)
        self._random = Random(seed)
        self._budget = budget
        self._depths = _depths(self._rules)

    def sentence(self) -> str:
        parts: list[str] = []
        waiting: list[Node] = [Ref("root")]
        steps = 0
        while waiting:
            node = waiting.pop()
            steps += 1
            if isinstance(node, Literal):
                parts.append(node.text)
            elif isinstance(node, Chars):
                parts.append(self._char(node))
            else:
                waiting.extend(reversed(self._parts(node, is_late=steps > self._budget)))
        return "".join(parts)

    def _char(self, node: Chars) -> str:
        # The first range is most often ASCII; errors are most likely at both ends of a range.
        low, high = node.ranges[0] if self._random.random() < 0.6 else self._random.choice(node.ranges)
        return chr(self._random.choice((low, high, self._random.randint(low, high))))

    def _parts(self, node: Node, *, is_late: bool) -> list[Node]:
        if isinstance(node, Ref):
            return [self._rules[node.name]]
        if isinstance(node, Sequence):
            return list(node.items)
        if isinstance(node, Repeat):
            most = node.least + 3 if node.most is None else node.most
            often = (
                node.least
                if is_late
                else self._random.choice((node.least, most, self._random.randint(node.least, most)))
            )
            return [node.item] * min(often, max(node.least, 40))
        assert isinstance(node, Choice)
        if is_late:
            return [min(node.options, key=lambda option: _depth(option, self._depths))]
        return [self._random.choice(node.options)]


def _depths(rules: Rules) -> dict[str, float]:
    depths = dict.fromkeys(rules, float("inf"))
    for _ in rules:
        for name, node in rules.items():
            depths[name] = min(depths[name], 1 + _depth(node, depths))
    return depths


def _depth(node: Node, depths: dict[str, float]) -> float:
    if isinstance(node, Ref):
        return depths[node.name]
    if isinstance(node, Sequence):
        return max((_depth(item, depths) for item in node.items), default=0)
    if isinstance(node, Choice):
        return min(_depth(option, depths) for option in node.options)
    if isinstance(node, Repeat):
        return _depth(node.item, depths) if node.least else 0
    return 0


def error_of(kind: ConstraintKind, source: str) -> str:
    """The error of a constraint; empty if it compiles."""
    try:
        compile_constraint(kind, source)
    except ConstraintError as error:
        return str(error)
    return ""


@lru_cache(maxsize=32)
def printed_rules(grammar: Grammar) -> Rules:
    """The rules of a grammar as xgrammar reads them."""
    return parse_gbnf(to_ebnf(grammar)).rules


def matches(grammar: Grammar, text: str) -> bool:
    """Whether the grammar describes the text; all implementations must agree."""
    found = grammar.matches(text)
    assert found == follows(grammar, text), "llguidance disagrees"
    try:
        is_small = len(to_ebnf(grammar)) <= _MAX_EBNF
    except ConstraintError:
        # The grammar is too large for its notation, so the engine refuses it.
        is_small = False
    if is_small:
        assert found == _derives(printed_rules(grammar), text), "the printed EBNF disagrees"
    return found


def follows(grammar: Grammar, text: str) -> bool:
    """Whether llguidance accepts the text by the printed Lark."""
    lark = to_lark(grammar)
    error = LLMatcher.validate_grammar(lark, _TOKENIZER)
    assert not error, error[:500]
    matcher = LLMatcher(_TOKENIZER, lark, log_level=0)
    return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()


def text_of_llguidance(schema: Any, seed: int, longest: int = 120) -> str | None:
    """A random ASCII text that llguidance generates for a schema; None if none ends in time."""
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    if LLMatcher.validate_grammar(grammar, _TOKENIZER):
        return None
    matcher, random = LLMatcher(_TOKENIZER, grammar, log_level=0), Random(seed)
    found = bytearray()
    while len(found) < longest:
        bias = matcher.compute_logit_bias()
        allowed = [byte for byte in range(128) if bias[byte]]
        if matcher.is_accepting() and (not allowed or random.random() < 0.3):
            return found.decode()
        if not allowed:
            return None
        usual = [byte for byte in allowed if byte in b'"}],:0123456789abc']
        byte = random.choice(usual if usual and random.random() < 0.8 else allowed)
        assert matcher.consume_token(byte)
        found.append(byte)
    return None


def _derives(rules: Rules, text: str) -> bool:
    """Whether the rules generate the text, by following all derivations in parallel."""
    stacks = _advance(rules, {(Ref("root"),)})
    for char in text:
        moved = {
            stack[1:] if isinstance(stack[0], Chars) else (*_rest(stack[0], char), *stack[1:])
            for stack in stacks
            if stack and _begins(stack[0], char)
        }
        stacks = _advance(rules, moved)
    return () in stacks


def _begins(node: Node, char: str) -> bool:
    if isinstance(node, Chars):
        return any(low <= ord(char) <= high for low, high in node.ranges)
    return isinstance(node, Literal) and node.text.startswith(char)


def _rest(node: Node, _char: str) -> tuple[Node, ...]:
    assert isinstance(node, Literal)
    return (Literal(node.text[1:]),) if len(node.text) > 1 else ()


def _advance(rules: Rules, stacks: set[tuple[Node, ...]]) -> set[tuple[Node, ...]]:
    """Every stack with a character on top, or empty, that is reachable from these.

    The top is the first item.
    """
    waiting, seen, found = list(stacks), set(stacks), set()
    while waiting:
        stack = waiting.pop()
        if not stack or isinstance(stack[0], Chars) or (isinstance(stack[0], Literal) and stack[0].text):
            found.add(stack)
            continue
        for way in _ways(rules, stack[0]):
            following = (*way, *stack[1:])
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


def _ways(rules: Rules, node: Node) -> list[tuple[Node, ...]]:
    if isinstance(node, Ref):
        return [(rules[node.name],)]
    if isinstance(node, Sequence):
        return [node.items]
    if isinstance(node, Choice):
        return [(option,) for option in node.options]
    if isinstance(node, Repeat):
        most = None if node.most is None else node.most - 1
        again = () if most == 0 else (Repeat(node.item, max(0, node.least - 1), most),)
        return [(node.item, *again), *([()] if node.least == 0 else [])]
    return [()]
