"""Generates docs/structured-output.md from the compiler's tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from inference_service.constraints.errors import MAX_SECONDS, MAX_SOURCE_BYTES
from inference_service.constraints.json_schema.keywords import KEYWORDS, Role
from inference_service.constraints.json_schema.strings import FORMATS, NUMBER_FORMATS
from inference_service.constraints.json_text import MAX_WHITESPACE
from tests.transports.pydantic_types import MODELS, NOT_ALWAYS_VALID, REFUSED

ZOD_LIMITS = Path(__file__).parents[1] / "node" / "zod_limits.json"
PAGE = Path(__file__).parents[2] / "docs" / "structured-output.md"

_HEAD = f"""\
# Structured output

Made by `make parameters` from the compiler's own tables; `make test` tries every keyword.

A constraint (`response_format`, `guided_json`, `guided_regex`, `guided_grammar`, or the parameters of
tools that have to be called) is compiled once into a grammar, which the engine follows token by token.
Every answer that ends by itself complies. One that ends with `length` is a beginning of such an answer.
- **Exact or refused.** What cannot be enforced exactly is refused with 400 / INVALID_ARGUMENT and its
  place in the schema. For a tool without `strict`, only the keyword is left out, and named with its path
  among the ignored parameters (`x-ignored-parameters`, `pg_metadata.ignored_parameters`,
  `report.ignored_parameters`).
- **By the specification.** JSON Schema 2020-12; drafts 4 to 2019-09 by their own words. Members and
  elements that a schema says nothing of are allowed: say `"additionalProperties": false` where there
  shall be none.
- **Order.** Members come in the order of `properties`, then names that only `required` has, then further
  ones; or those of `required` come first, in its order.
- **White space.** Compact by default: at most one space, behind a colon or a comma. With `whitespace`
  `"flexible"` (`constraint.whitespace`): spaces, tabs and line breaks between the parts, up to
  {MAX_WHITESPACE} in one place; none before or behind the whole JSON. It counts for `response_format` and
  `guided_json`, and for calls that a model may make instead of that JSON. Demanded calls are compact.
- **Numbers** have at most 18 digits before the point, 20 behind it, and exponents of two digits. Integers
  have no point.
- **Limits.** {MAX_SOURCE_BYTES // 1024} KiB of schema, {MAX_SECONDS:g} seconds of processor time for
  compiling.
- **Regular expressions** mean what ECMAScript and Python agree on. `guided_regex` describes the whole
  text; `pattern` is found anywhere unless anchored.
- **GBNF grammars** (`guided_grammar`) have a rule `root` that describes the whole text. A rule may
  contain itself, but not begin with itself.

## Keywords
"""


def page() -> str:
    """The whole page."""
    enforced = (k for k in KEYWORDS.values() if k.role in (Role.ENFORCED, Role.STRUCTURE))
    refused = ", ".join(f"`{k.name}`" for k in KEYWORDS.values() if k.role is Role.REFUSED)
    silent = ", ".join(f"`{k.name}`" for k in KEYWORDS.values() if k.role is Role.ANNOTATION)
    lines = [
        "| keyword | what is enforced |",
        "|---|---|",
        *(f"| `{keyword.name}` | {keyword.note} |" for keyword in enforced),
        "",
        f"Refused: {refused}.",
        "",
        f"Annotations that are read over: {silent}.",
        "Any other keyword is an annotation too, and named among the ignored parameters.",
        "",
        "## Formats",
        "",
        f"Of strings: {', '.join(f'`{name}`' for name in FORMATS)}.",
        "Some are narrower than their standard: seconds end at 59, and an email address has no quoted parts.",
        "",
        f"Of numbers: {', '.join(f'`{name}`' for name in NUMBER_FORMATS)}; the first two with their ranges.",
        "",
        "Other formats are annotations, and named.",
        "",
        "## Types of programs",
        "",
        f"OpenAI's packages write schemas of types. {len(MODELS)} types of pydantic and those of zod 4",
        "are tried with them (`tests/transports/test_pydantic_types.py`, `tests/node/zod.test.js`). All are",
        "fully usable but these:",
        "",
        "| type | what happens | why |",
        "|---|---|---|",
        *_limits("pydantic", {"refused": REFUSED, "invalid": NOT_ALWAYS_VALID}),
        *_limits("zod", json.loads(ZOD_LIMITS.read_text(encoding="utf-8"))),
    ]
    return f"{_HEAD}\n" + "\n".join(lines) + "\n"


_MEANINGS = {
    "refused": "refused",
    "invalid": "answers keep to the schema, but not always to the type",
    "sdk": "refused by the package",
}


def _limits(library: str, limits: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for kind, names in limits.items():
        yield from (f"| {library}: {name} | {_MEANINGS[kind]} | {why} |" for name, why in names.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
