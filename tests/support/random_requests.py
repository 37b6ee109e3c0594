"""Generates random valid requests from the API's own description."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from tests.inference_service.constraints.schemas import SCHEMAS
from tests.support.body_schema import CHAT, COMPLETION, Schema, components, resolved
from tests.support.reconcile import reconcile
from tests.support.service import MODEL_ID
from tests.support.texts import HARD_PIECES

ALIAS = "llama-3.1-8b"
"""An alias under which the model must be served."""
_VOCABULARY = 49_152
_OPTIONAL = 0.25
"""The probability of an optional parameter."""
_OFTEN = {"content": 1.0, "tools": 0.5}
_EDGE = 0.15
"""The probability that a number is its minimum or its maximum."""
_WORDS = ("the", "a", "one", " ", "\n", ", ", "12", "stop", '{"a": ', "}", "[", '"', *HARD_PIECES)
_REGEXES = ("[a-z]{1,3}", "(yes|no)", "\\d+", "[^x]?", "a{2,4}b*", "é|日本")
_GRAMMARS = ('root ::= "a"', 'root ::= [0-9]+ ("." [0-9])?', 'root ::= x | "b" root\nx ::= "c"{2}')
_OBJECTS = [schema for schema in SCHEMAS.values() if schema.get("type") == "object"]
_SCRIPTED_CALL = '@say<<{"name": "%s", "arguments": {"a": 1, "é": [true]}}>>'
_CALLED = ("get_weather", "f", "a-b_C9")


def random_request(random: Random) -> dict[str, Any]:
    """A valid body of a chat or text completion whose answer is the same each time."""
    schema = components()[random.choice([CHAT, COMPLETION])]
    body: dict[str, Any] = _Maker(random).value(schema, "")
    return reconcile(random, body)


class _Maker:
    """Generates values of schemas. Where a schema says too little, a method by the parameter's path does."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._by_hand: Mapping[str, Callable[[], Any]] = {
            "model": lambda: random.choice([MODEL_ID, MODEL_ID, ALIAS]),
            "max_tokens": self._max_tokens,
            "max_completion_tokens": self._max_tokens,
            "temperature": lambda: 0,
            "seed": lambda: random.choice([0, 1, -7, 2**63 - 1, -(2**63), random.getrandbits(40)]),
            "logit_bias": self._biases,
            "n": lambda: random.choice([1, 1, 1, 2, 3, 8]),
            "best_of": lambda: 1,
            "messages[].tool_calls[].function.name": self._name,
            "messages[].tool_calls[].function.arguments": self._arguments,
            "messages[].tool_call_id": lambda: f"call_{random.randrange(9)}",
            "messages[].tool_calls[].id": lambda: f"call_{random.randrange(9)}",
            "tools": lambda: [self._tool(name) for name in self._names()],
            "tools[].function.parameters": lambda: random.choice(_OBJECTS),
            "tool_choice.function.name": self._name,
            "response_format.json_schema.schema": self._schema,
            "guided_json": lambda: random.choice([self._schema(), json.dumps(self._schema())]),
            **{f"response_format.{name}": self._grammar for name in ("grammar", "ebnf")},
            "guided_grammar": self._grammar,
            "response_format.regex": self._regex,
            "guided_regex": self._regex,
        }

    def value(self, schema: Schema, path: str) -> Any:
        """A value of a schema, or of the method for this path if there is one."""
        if path in self._by_hand:
            return self._by_hand[path]()
        return self._of_schema(schema, path)

    def _of_schema(self, schema: Schema, path: str) -> Any:
        schema = resolved(schema)
        if "anyOf" in schema:
            return self._of_union(schema, path)
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        return getattr(self, f"_{schema['type']}")(schema, path)

    def _of_union(self, schema: Schema, path: str) -> Any:
        beside = {name: value for name, value in schema.items() if name != "anyOf"}
        branches = [resolved(branch) for branch in schema["anyOf"]]
        some = [branch for branch in branches if branch.get("type") != "null"]
        if len(some) < len(branches) and self._random.random() < 0.05:
            return None
        return self._of_schema({**beside, **self._random.choice(some)}, path)

    def _object(self, schema: Schema, path: str) -> dict[str, Any]:
        required = schema.get("required", ())
        names = [
            name
            for name in schema.get("properties", ())
            if name in required or self._random.random() < _OFTEN.get(name, _OPTIONAL)
        ]
        prefix = f"{path}." if path else ""
        return {name: self.value(schema["properties"][name], prefix + name) for name in names}

    def _array(self, schema: Schema, path: str) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
        count = most if self._random.random() < _EDGE else self._random.randint(least, min(4, most))
        return [self.value(schema["items"], f"{path}[]") for _ in range(count)]

    def _integer(self, schema: Schema, path: str) -> int:
        if "maximum" not in schema:
            return self._token_id()
        low, high = schema["minimum"], schema["maximum"]
        is_edge = self._random.random() < _EDGE
        return int(self._random.choice([low, high]) if is_edge else self._random.randint(low, high))

    def _number(self, schema: Schema, path: str) -> float:
        low, high = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 0.01), schema["maximum"]
        is_edge = self._random.random() < _EDGE
        return float(self._random.choice([low, high]) if is_edge else self._random.uniform(low, high))

    def _boolean(self, schema: Schema, path: str) -> bool:
        return self._random.random() < 0.5

    def _string(self, schema: Schema, path: str) -> str:
        if path.startswith("stop"):
            return self._random.choice(["x", "a", ", ", "]", "1", "the", "日本", "👍", "never met"])
        return self._text()[: schema.get("maxLength")]

    def _text(self) -> str:
        words = self._random.choices(_WORDS, k=self._random.randint(0, 8))
        if self._random.random() < 0.2:
            words.append(_SCRIPTED_CALL % self._name())
        return "x" + "".join(words)

    def _max_tokens(self) -> int:
        return self._random.choice([1, 2, 3, 5, 8, 13, 21, 40])

    def _token_id(self) -> int:
        return self._random.choice([0, _VOCABULARY - 1, self._random.randrange(_VOCABULARY), 216, 30])

    def _biases(self) -> dict[str, float]:
        values = (-100, 100, 0, 0.5, self._random.uniform(-100, 100))
        count = self._random.choice([0, 1, 2, 3, 300])
        return {str(self._token_id()): self._random.choice(values) for _ in range(count)}

    def _name(self) -> str:
        return self._random.choice(_CALLED)

    def _names(self) -> list[str]:
        return self._random.sample(_CALLED, self._random.randint(1, len(_CALLED)))

    def _tool(self, name: str) -> dict[str, Any]:
        tool: dict[str, Any] = self._of_schema(components()["Tool"], "tools[]")
        return {**tool, "function": {**tool["function"], "name": name}}

    def _arguments(self) -> str:
        return self._random.choice(["{}", '{"a":1}', '{"é": ["\\ud83d\\ude00", 1e3, null]}'])

    def _schema(self) -> Any:
        return self._random.choice([schema for schema in SCHEMAS.values() if isinstance(schema, dict)])

    def _grammar(self) -> str:
        return self._random.choice(_GRAMMARS)

    def _regex(self) -> str:
        return self._random.choice(_REGEXES)
