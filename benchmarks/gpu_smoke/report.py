"""The file to send back: Markdown to read, with everything once more as JSON at its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.gpu_smoke.differences import MEANINGS, Difference
from benchmarks.gpu_smoke.expected import ANSWERS
from benchmarks.gpu_smoke.steps import Steps


def report(steps: Steps) -> str:
    """All that was found."""
    parts = [
        "# GPU smoke test",
        *_machine(steps.results.get("machine", {})),
        "## Steps",
        _table(("step", "outcome", "seconds"), [(s.name, s.status, s.seconds) for s in steps.done]),
        *_differences(steps.results.get("differences", [])),
        *_behaviour(steps.results.get("behaviour", {})),
        *_checks(steps.results.get("doors", {})),
        *_suite(steps.results.get("contract suite", [])),
        *_load(steps.results.get("benchmark", [])),
        *_errors(steps),
        "## Everything, as JSON",
        _fenced(json.dumps(document(steps), indent=1, default=str), "json"),
    ]
    return "\n\n".join(parts) + "\n"


def document(steps: Steps) -> dict[str, Any]:
    """The same for programs."""
    results = {
        **steps.results,
        "differences": [asdict(difference) for difference in steps.results.get("differences", [])],
    }
    return {"steps": [asdict(step) for step in steps.done], "results": results}


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
    for gpu in machine.get("gpus", ()):
        yield f"- {gpu['name']}, SM {gpu['sm']}, {gpu['memory_bytes'] / 2**30:.1f} GiB"
    plain = ("driver", "cuda", "tensorrt", "tensorrt_llm", "python", "platform", "cpus", "commit")
    yield "\n".join(f"- {name}: {machine.get(name)}" for name in plain)
    yield _table(("package", "version"), machine.get("packages", {}).items())


def _differences(differences: Sequence[Difference]) -> Iterator[str]:
    yield "## What is not as it was taken to be"
    for kind, meaning in MEANINGS.items():
        rows = [(d.part, d.name, d.note) for d in differences if d.kind == kind]
        yield f"### {kind}: {meaning}\n\n{_table(('part', 'name', 'note'), rows)}"


def _behaviour(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## How the engine behaves"
    answers = found.get("answers", {})
    rows = [
        (name, answers[name], wanted, "" if answers[name] == wanted else "differs")
        for name, wanted in ANSWERS.items()
        if name in answers
    ]
    yield _table(("question", "answer", "of the double", ""), rows)


def _checks(checks: Mapping[str, str]) -> Iterator[str]:
    yield "## Both doors"
    rows = [(name, outcome.strip().splitlines()[-1]) for name, outcome in checks.items()]
    yield _table(("check", "outcome"), rows)


def _suite(lines: Sequence[str]) -> Iterator[str]:
    yield "## The contract of all backends"
    yield _fenced("\n".join(lines)) if lines else "Nothing."


def _load(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Speed"
    names = ("streams", "door", "tokens_per_second", "ttft_median_ms", "ttft_p95_ms")
    yield _table(names, [[row[name] for name in names] for row in rows])


def _errors(steps: Steps) -> Iterator[str]:
    yield "## What went wrong"
    told = [step for step in steps.done if step.error]
    for step in told:
        yield f"### {step.name}: {step.status}\n\n{_fenced(step.error.strip())}"
    if not told:
        yield "Nothing."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    if not lines:
        return "Nothing."
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _fenced(text: str, language: str = "") -> str:
    return f"~~~~{language}\n{text}\n~~~~"
