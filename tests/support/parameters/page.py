"""Renders the page in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from lodestream_common.parameters import PARAMETERS, number_text
from tests.support.parameters import own_samples, shared_samples
from tests.support.parameters.derive import CHAT, COMPLETIONS, Endpoint, Outcome, Row, derive
from tests.support.parameters.engines import NAMES, Engines
from tests.support.parameters.sample import Sample

PAGE = Path(__file__).parents[3] / "docs" / "parameters.md"

_HEAD = """\
# Parameters

Made by `make parameters` from the schemas, the policy of the bridge and what the engines say of themselves;
`make test` asks the real servers whether each cell is true.

- **honoured**: it does what it says.
- **refused**: a 400 with the code `unsupported_parameter` that names it, at both transports.
- **no effect**: accepted, and named in the response header `x-ignored-parameters` and in
  `pg_metadata.ignored_parameters`; it does nothing here.

Null, and a value that asks for nothing (`functions` of `[]`, `function_call` of `none` or `auto`,
`modalities` of `["text"]`, `suffix` of `""`, `min_tokens` of 0), is accepted everywhere. A name that is not
on this page is accepted and named too, and refused where the bridge runs with `--strict`. Over gRPC,
`report.ignored_parameters` names what has no effect, and fields that the service does not know.

Default and range come from the table of parameters, `lodestream_common/parameters.py`; the operator may set
those of `max_tokens`. The column gRPC has the fields of `GenerateRequest`; — means that there is none.
"""
_FOOT = """\
¹ Refused where the installed TensorRT-LLM lacks what it takes, which is found when the service starts:
constraints and demanded calls take guided decoding and xgrammar, `logit_bias` takes `embedding_bias` and
PyTorch, penalties and `min_p` their fields of `SamplingParams`, log probabilities a switch there.

² The simulated engine has no model to sample from. It takes every sampling parameter and reports it as in
effect; what shows in its text are `seed`, `temperature` where it is 0, biases of -100 and 100, and
constraints.
"""
_SECTIONS: Sequence[tuple[str, Sequence[Sample], Sequence[Endpoint]]] = (
    ("Both endpoints", shared_samples.SHARED, (CHAT, COMPLETIONS)),
    ("Only POST /v1/chat/completions", own_samples.CHAT, (CHAT,)),
    ("Only POST /v1/completions", own_samples.COMPLETIONS, (COMPLETIONS,)),
)


def samples_of(endpoint: Endpoint) -> list[Sample]:
    """All samples for an endpoint, in the order of the page."""
    return [sample for _, samples, endpoints in _SECTIONS for sample in samples if endpoint in endpoints]


def rows(engines: Engines, endpoint: Endpoint) -> list[Row]:
    """The rows of an endpoint."""
    return [derive(sample, endpoint, engines) for sample in samples_of(endpoint)]


def render(engines: Engines) -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(engines, *section) for section in _SECTIONS), _FOOT])


def _section(engines: Engines, title: str, samples: Sequence[Sample], endpoints: Sequence[Endpoint]) -> str:
    titles = ["parameter", "gRPC", "default", "range", *map(_title, NAMES)]
    head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines = [_line(_same(derive(sample, endpoint, engines) for endpoint in endpoints)) for sample in samples]
    return "\n".join([f"## {title}\n", *head, *lines, ""])


def _title(name: str) -> str:
    return f"{name}²" if name == "simulated" else name


def _same(rows: Iterable[Row]) -> Row:
    first, *others = rows
    if any(other != first for other in others):
        raise ValueError(f"{first.sample.path}: the endpoints have different outcomes")
    return first


def _line(row: Row) -> str:
    when = f", {row.sample.when}" if row.sample.when else ""
    cells = [
        f"`{row.sample.path}`{when}",
        _grpc(row),
        *_settings(row.sample.path),
        *(_cell(row.outcomes[name]) for name in NAMES),
    ]
    return "".join(f"| {cell} " for cell in cells) + "|"


def _settings(path: str) -> tuple[str, str]:
    """Default and range from the table of parameters."""
    parameter = PARAMETERS.get(path)
    if parameter is None:
        return "", ""
    default = "" if parameter.default is None else number_text(parameter.default).lower()
    bounds = [
        f"{parameter.range} {parameter.unit}".rstrip() if parameter.low > -math.inf else "",
        f"at most {parameter.max_items}" if parameter.max_items else "",
        f"at most {parameter.max_length} characters" if parameter.max_length else "",
    ]
    return default, "; ".join(filter(None, bounds))


def _grpc(row: Row) -> str:
    return row.sample.by_grpc or ", ".join(f"`{field}`" for field in row.grpc) or "—"


def _cell(outcome: Outcome) -> str:
    most = "" if outcome.ceiling is None else f", to {outcome.ceiling:g}"
    return f"{outcome.kind}{most}{'¹' if outcome.depends else ''}"
