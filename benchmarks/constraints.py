"""Compares our constraints with llguidance's on a collection of schemas; tests tool sets of bfcl-eval.

The collection has a JSON object a line: name, schema, and tests with their data and validity. Texts are
compact JSON. Times are processor time, so that other load on the machine does not count.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from benchmarks.servers import pair
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.json_schema.document import inside

COLLECTION = Path(__file__).parents[2] / "shared" / "data" / "maskbench" / "sample.jsonl.gz"
MODEL = "smollm2-135m-instruct"
Matches = Callable[[str], bool]

_BFCL_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class Refused(Exception):
    """A schema is refused."""


@dataclass
class Tally:
    """The results of one library on the collection."""

    name: str
    schemas: int = 0
    passing: int = 0
    refused: int = 0
    refusing: int = 0
    accepting: int = 0
    times: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, case: dict[str, Any], compile_schema: Callable[[Any], Matches]) -> None:
        """Compile one schema and match its test texts."""
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
    # The time that a library takes for its first use must not count for a schema.
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
    """Demand a call of each tool set from a running bridge on the simulated engine."""
    with (
        pair(backend="simulated", model=MODEL, requests_per_minute="0") as servers,
        httpx.Client(base_url=f"http://{servers.bridge.address}", timeout=60) as http,
    ):
        found = [demand_call(http, tools) for tools in _tool_sets()]
    violated = sum(not call.complies for call in found)
    dropped = Counter(name.rpartition(".")[2] for call in found for name in call.dropped)
    print(f"bfcl-eval: {len(found)} tool sets, {violated} with arguments that violate what is enforced")
    with_dropped = sum(bool(call.dropped) for call in found)
    print(f"           {with_dropped} with keywords that are dropped and named: {dict(dropped)}")


@dataclass(frozen=True, slots=True)
class DemandedCall:
    """The result of a demanded tool call."""

    complies: bool
    """Whether the arguments validate against the tool's schema without its dropped keywords."""
    dropped: tuple[str, ...]
    """The keywords that the reply names as not enforced, by their paths in the request."""


def demand_call(http: httpx.Client, tools: Sequence[Mapping[str, Any]]) -> DemandedCall:
    """Send tools with these schemas of arguments and `tool_choice: required`, and check the answer.

    Raises:
        httpx.HTTPStatusError: the request is refused.

    """
    functions = [{"name": f"f{number}", "parameters": schema} for number, schema in enumerate(tools)]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Call a tool."}],
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "required",
        "max_tokens": 2048,
    }
    reply = http.post("/v1/chat/completions", json=body).raise_for_status().json()
    dropped = tuple(reply["pg_metadata"].get("ignored_parameters", ()))
    calls = reply["choices"][0]["message"]["tool_calls"]
    return DemandedCall(
        bool(calls) and all(_complies(call["function"], tools, dropped) for call in calls), dropped
    )


def _complies(call: Mapping[str, str], tools: Sequence[Any], dropped: Sequence[str]) -> bool:
    number = int(call["name"].removeprefix("f"))
    place = f"tools[{number}].function.parameters"
    if place in dropped:
        # The whole schema is dropped: any object complies.
        return isinstance(json.loads(call["arguments"]), dict)
    schema = _without(tools[number], place, set(dropped))
    return bool(Draft202012Validator(schema).is_valid(json.loads(call["arguments"])))


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
    """Convert a schema of bfcl-eval to JSON Schema, as its own converter does."""
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
