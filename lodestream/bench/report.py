"""Shows figures: tables for a terminal, JSON, CSV of each request, an HTML report in one file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lodestream.bench.figures import PERCENTILES, Ratio, gaps, tokens_between, warnings
from lodestream.bench.load import LoadResult
from lodestream.bench.plots import Series, histogram, plot

LATENCIES = {
    "time_to_first_token_ms": "Time to first token (ms)",
    "inter_token_latency_ms": "Inter-token latency (ms)",
    "inter_chunk_latency_ms": "Inter-chunk latency (ms)",
    "request_latency_ms": "Request latency (ms)",
}
THROUGHPUTS = {
    "request_throughput": "Requests a second",
    "output_token_throughput": "Output tokens a second",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One load against one target, with its figures."""

    target: str
    label: str
    """Its difference from the others: `concurrency 16`, `rate 4`, a round."""
    result: LoadResult
    figures: dict[str, Any]


def show_run(run: Run, console: Console) -> None:
    """Print the figures of one load."""
    figures = run.figures
    table = Table(title=f"{run.target} · {run.result.model} · {run.label}", title_justify="left")
    table.add_column("")
    for name in ("mean", *(f"p{share}" for share in PERCENTILES), "max"):
        table.add_column(name, justify="right")
    for name, title in LATENCIES.items():
        values = figures[name]
        cells = (
            [f"{values[key]:.1f}" for key in ("mean", *(f"p{s}" for s in PERCENTILES), "max")]
            if values
            else []
        )
        table.add_row(title, *cells)
    console.print(table)
    parts = [
        f"{figures['requests']} requests in {figures['seconds']:.1f} s",
        f"{figures['request_throughput']:.2f} requests/s",
        f"{figures['output_token_throughput']:.1f} output tokens/s",
        f"prompt {figures['prompt_tokens']} tokens, of them cached {figures['cached_tokens']}",
        f"output {figures['output_tokens']} tokens",
    ]
    if "goodput" in figures:
        parts.append(f"goodput {figures['goodput']:.2f} requests/s ({figures['good_share']:.1%} good)")
    console.print(" · ".join(parts), highlight=False)
    console.print(
        f"load client: {figures['client_cpu_share']:.0%} of a core, "
        f"{figures['client_late_p99_ms']:.1f} ms late (p99)",
        highlight=False,
    )
    for warning in warnings(figures):
        console.print(f"warning: {warning}", style="yellow", highlight=False)


def show_sweep(runs: Sequence[Run], console: Console) -> None:
    """Print one row for each load of a sweep."""
    table = Table(title="Sweep", title_justify="left")
    columns = ("", "req/s", "tok/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "e2e p99", "failed")
    for name in columns:
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for run in runs:
        figures = run.figures
        cells = [
            f"{figures['request_throughput']:.2f}",
            f"{figures['output_token_throughput']:.1f}",
            *(
                f"{figures[name].get(share, 0.0):.1f}"
                for name, share in (
                    ("time_to_first_token_ms", "p50"),
                    ("time_to_first_token_ms", "p99"),
                    ("inter_token_latency_ms", "p50"),
                    ("inter_token_latency_ms", "p99"),
                    ("request_latency_ms", "p99"),
                )
            ),
            str(figures["failed"]),
        ]
        table.add_row(run.label, *cells)
    console.print(table)


def show_ratios(
    ratios: dict[str, Ratio | None], targets: Sequence[str], rounds: int, console: Console
) -> None:
    """Print how the first target compares with the second."""
    table = Table(title=f"{targets[0]} over {targets[1]}, {rounds} rounds in turn", title_justify="left")
    for name in ("", "ratio", "95 % interval"):
        table.add_column(name, justify="left" if not name else "right")
    for name, ratio in ratios.items():
        if ratio is None:
            table.add_row(name, "-", "-")
        else:
            table.add_row(name, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}")
    console.print(table)


def as_document(runs: Sequence[Run], ratios: dict[str, Ratio | None]) -> dict[str, Any]:
    """Everything measured but the single requests, for JSON."""
    return {
        "runs": [
            {
                "target": run.target,
                "label": run.label,
                "model": run.result.model,
                "plan": asdict(run.result.plan),
                "figures": run.figures,
                "warnings": warnings(run.figures),
            }
            for run in runs
        ],
        "ratios": {name: asdict(ratio) if ratio else None for name, ratio in ratios.items()},
    }


def write_json(path: Path, runs: Sequence[Run], ratios: dict[str, Ratio | None]) -> None:
    """Write all figures."""
    path.write_text(json.dumps(as_document(runs, ratios), indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """Write a line for each request."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["target", "label", "due_s", "late_ms", "time_to_first_token_ms", "inter_token_latency_ms",
             "request_latency_ms", "prompt_tokens", "cached_tokens", "output_tokens", "error"]
        )  # fmt: skip
        for run in runs:
            for outcome in run.result.outcomes:
                has_output = bool(outcome.arrivals)
                writer.writerow(
                    [
                        run.target,
                        run.label,
                        f"{outcome.due - run.result.began:.4f}",
                        f"{(outcome.began - outcome.due) * 1e3:.3f}",
                        f"{outcome.first_token_seconds * 1e3:.3f}" if has_output else "",
                        f"{outcome.token_seconds * 1e3:.3f}" if has_output else "",
                        f"{outcome.total_seconds * 1e3:.3f}",
                        outcome.prompt_tokens,
                        outcome.cached_tokens,
                        outcome.output_tokens,
                        outcome.error,
                    ]
                )


_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.2rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:1rem}
svg{width:100%;height:auto;font:11px system-ui,sans-serif;fill:currentColor}
svg .title{font-size:13px;font-weight:600}svg .grid line{stroke:currentColor;stroke-opacity:.15}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
.warning{color:#b45309}
"""


def write_html(path: Path, runs: Sequence[Run], ratios: dict[str, Ratio | None]) -> None:
    """Write a report that needs no other file: tables and plots of each load, and of the sweep."""
    parts = [
        f"<h1>Load of {escape(', '.join(dict.fromkeys(run.target for run in runs)))}</h1>",
        _overview(runs),
    ]
    if ratios:
        parts.append(_ratio_table(ratios))
    if len(runs) > 1:
        parts.append(_sweep_plots(runs))
    parts += [_run_section(run) for run in runs]
    document = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Load report</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path.write_text(document, encoding="utf-8")


def _overview(runs: Sequence[Run]) -> str:
    head = ["", *THROUGHPUTS.values(), "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "Latency p99", "Failed"]
    rows = []
    for run in runs:
        figures = run.figures
        shares = [
            figures["time_to_first_token_ms"].get("p50"),
            figures["time_to_first_token_ms"].get("p99"),
            figures["inter_token_latency_ms"].get("p50"),
            figures["inter_token_latency_ms"].get("p99"),
            figures["request_latency_ms"].get("p99"),
        ]
        cells = [f"{run.target} {run.label}", *(f"{figures[name]:.2f}" for name in THROUGHPUTS)]
        rows.append([*cells, *("" if v is None else f"{v:.1f}" for v in shares), str(figures["failed"])])
    return _table(head, rows)


def _ratio_table(ratios: dict[str, Ratio | None]) -> str:
    rows = [
        [name, *((f"{r.value:.3f}", f"{r.low:.3f}", f"{r.high:.3f}") if r else ("-", "-", "-"))]
        for name, r in ratios.items()
    ]
    return "<h2>First target over the second</h2>" + _table(["", "ratio", "from", "to (95 %)"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _sweep_plots(runs: Sequence[Run]) -> str:
    by_target: dict[str, list[Run]] = {}
    for run in runs:
        by_target.setdefault(run.target, []).append(run)
    if max(map(len, by_target.values())) < 2:
        return ""

    def over_load(name: str, share: str = "") -> list[Series]:
        def value(run: Run) -> float:
            figure = run.figures[name]
            return float(figure.get(share, 0.0) if share else figure)

        return [
            Series(target, [(_offered(run), value(run)) for run in group], is_line=True)
            for target, group in by_target.items()
        ]

    plots = [
        plot(
            "Throughput over load",
            "concurrency or rate",
            "output tokens/s",
            over_load("output_token_throughput"),
        ),
        plot("TTFT p99 over load", "concurrency or rate", "ms", over_load("time_to_first_token_ms", "p99")),
        plot("ITL p99 over load", "concurrency or rate", "ms", over_load("inter_token_latency_ms", "p99")),
    ]
    return f'<h2>Over the load</h2><div class="plots">{"".join(plots)}</div>'


def _offered(run: Run) -> float:
    return run.result.plan.rate or float(run.result.plan.concurrency or 0)


def _run_section(run: Run) -> str:
    began = run.result.began
    good = [outcome for outcome in run.result.outcomes if not outcome.error]
    first = [(o.due - began, o.first_token_seconds * 1e3) for o in good]
    whole = [(o.due - began, o.total_seconds * 1e3) for o in good]
    plots = [
        plot("Time to first token over time", "s", "ms", [Series("TTFT", first)]),
        plot("Request latency over time", "s", "ms", [Series("latency", whole)]),
        plot("Output tokens over time", "s", "tokens/s", [Series("tokens", _speed(run), is_line=True)]),
        histogram("Time to first token", "ms", [y for _, y in first]),
        histogram("Inter-token latency", "ms", [o.token_seconds * 1e3 for o in good if o.output_tokens > 1]),
        histogram("Longest gap between two arrivals", "ms", [max(gaps(o), default=0.0) * 1e3 for o in good]),
    ]
    notes = "".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(run.figures))
    return (
        f'<h2>{escape(run.target)} · {escape(run.label)}</h2>{notes}<div class="plots">{"".join(plots)}</div>'
    )


def _speed(run: Run) -> list[tuple[float, float]]:
    """Tokens a second in each of at most 60 equal parts of the time."""
    began = run.result.began
    last = max((o.ended for o in run.result.outcomes), default=began)
    width = max((last - began) / 60, 0.25)
    parts = int((last - began) / width)
    return [
        (
            (i + 0.5) * width,
            tokens_between(run.result.outcomes, began + i * width, began + (i + 1) * width) / width,
        )
        for i in range(parts)
    ]
