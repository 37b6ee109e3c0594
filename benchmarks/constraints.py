"""Constraints over a collection of schemas, with llguidance beside us, and over the tool sets of bfcl-eval.

The collection is lines of JSON: name, schema, and tests with data and whether they are valid. Texts are
compact.
Times are processor time, so that a busy machine does not count.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.json_schema.document import inside
from inference_service.constraints.tools import CallableTool, CallList, calls_grammar

COLLECTION = Path(__file__).parents[2] / "shared" / "data" / "maskbench" / "sample.jsonl.gz"
Matches = Callable[[str], bool]

_BFCL_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class Refused(Exception):
    """A schema is not taken."""


@dataclass
class Tally:
    """What came of a collection."""

    name: str
    schemas: int = 0
    passing: int = 0
    refused: int = 0
    refusing: int = 0
    accepting: int = 0
    times: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, case: dict[str, Any], compile_schema: Callable[[Any], Matches]) -> None:
        """Try one schema with its texts."""
        self.schemas += 1
        began = time.thread_time()
        try:
            matches = compile_schema(case["schema"])
        except Refused as error:
            self.refused += 1
            self.reasons[str(error)[:70]] += 1
            return
        finally:
            self.times.append(time.thread_time() - began)
        wrong = [test["valid"] for test in case["tests"] if matches(_text(test["data"])) != test["valid"]]
        self.passing += not wrong
        self.refusing += True in wrong
        self.accepting += False in wrong

    def row(self) -> str:
        """A row of the table."""
        times = sorted(self.times)
        p50, p95, p99 = (1000 * times[int(len(times) * q)] for q in (0.5, 0.95, 0.99))
        shares = f"{100 * self.passing / self.schemas:.1f} % | {100 * self.refused / self.schemas:.1f} %"
        return (
            f"| {self.name} | {shares} | {self.refusing} | {self.accepting} "
            f"| {p50:.1f} / {p95:.1f} / {p99:.1f} / {1000 * times[-1]:.0f} ms |"
        )


def measure(collection: Path | None) -> None:
    """Print the tables."""
    path = collection or COLLECTION
    if path.exists():
        _measure_collection(path)
    else:
        print(f"no collection at {path}")
    if importlib.util.find_spec("bfcl_eval"):
        _measure_tools()
    else:
        print("bfcl-eval is not installed: pip install --no-deps bfcl-eval")


def _measure_collection(path: Path) -> None:
    from importlib.metadata import version

    ours, theirs = Tally("lodestream"), Tally(f"llguidance {version('llguidance')}")
    # The first use of a library is not a schema's time.
    compile_constraint(ConstraintKind.REGEX, "(?=ab)(?!ac).*")
    for case in _cases(path):
        ours.add(case, _compile_ours)
        theirs.add(case, _compile_theirs)
    print("| | passes all | refused | wrongly refuses | wrongly accepts | compile p50 / p95 / p99 / max |")
    print("|---|---|---|---|---|---|")
    print(ours.row())
    print(theirs.row())
    for reason, count in ours.reasons.most_common(12):
        print(f"{count:5} refused: {reason}")


def _cases(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _compile_ours(schema: Any) -> Matches:
    try:
        grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    except ConstraintError as error:
        raise Refused(error.message) from None

    def matches(text: str) -> bool:
        try:
            return grammar.matches(text)
        except ConstraintError:
            return False

    return matches


def _compile_theirs(schema: Any) -> Matches:
    from llguidance import LLMatcher, LLTokenizer

    tokenizer = LLTokenizer("byte")
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    error = LLMatcher.validate_grammar(grammar, tokenizer)
    if error:
        raise Refused(error)

    def matches(text: str) -> bool:
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()

    return matches


def _measure_tools() -> None:
    """Demand a call of each tool set, as the simulated engine answers it."""
    sets = violated = with_dropped = 0
    dropped: Counter[str] = Counter()
    for tools in _tool_sets():
        sets += 1
        wanted = [
            CallableTool(
                f'{{"name": "{number}", "arguments": ', tool, strict=False, path=f"tools[{number}].parameters"
            )
            for number, tool in enumerate(tools)
        ]
        grammar = calls_grammar(wanted, CallList("}", "\n", 1))
        with_dropped += bool(grammar.ignored)
        dropped.update(path.rpartition(".")[2] for path in grammar.ignored)
        call = json.loads(grammar.shortest_text())
        number = int(call["name"])
        schema = _without(tools[number], f"tools[{number}].parameters", set(grammar.ignored))
        violated += not Draft202012Validator(schema).is_valid(call["arguments"])
    print(f"bfcl-eval: {sets} tool sets, {violated} with arguments that violate what is enforced")
    print(f"           {with_dropped} with keywords that are left out and named: {dict(dropped)}")


def _without(value: Any, path: str, ignored: set[str]) -> Any:
    """A schema without the keywords that are not enforced."""
    match value:
        case dict():
            places = {name: inside(path, name) for name in value}
            return {
                n: _without(value[n], place, ignored) for n, place in places.items() if place not in ignored
            }
        case list():
            return [_without(item, f"{path}[{index}]", ignored) for index, item in enumerate(value)]
    return value


def _tool_sets() -> Iterator[list[dict[str, Any]]]:
    found = importlib.util.find_spec("bfcl_eval")
    if found is None or not found.submodule_search_locations:
        return
    for path in sorted(Path(found.submodule_search_locations[0], "data").glob("*.json")):
        for line in path.read_text(encoding="utf-8").splitlines():
            functions = json.loads(line).get("function") if line.startswith('{"id"') else None
            if functions:
                tools = functions if isinstance(functions, list) else [functions]
                yield [_json_schema(tool["parameters"]) for tool in tools]


def _json_schema(value: Any) -> Any:
    """A schema of the collection in JSON Schema's words, as its own converter does it."""
    if isinstance(value, list):
        return [_json_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    converted = {name: _json_schema(item) for name, item in value.items()}
    kind = value.get("type")
    if isinstance(kind, str) and kind in _BFCL_TYPES:
        converted["type"] = _BFCL_TYPES[kind]
        if kind == "float":
            converted["format"] = "float"
    return converted
