"""Figures of a load: percentiles, throughput, goodput under an objective, ratios with confidence intervals.

Names follow the field: time to first token, inter-token latency (the mean time of a token after the first,
TPOT), inter-chunk latency (the gap between two arrivals of output), request latency (end to end).
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from lodestream.bench.load import LoadResult
from lodestream.bench.targets import Outcome
from lodestream_common.errors import SettingError

PERCENTILES = (50, 90, 95, 99)

BUSY_SHARE = 0.8
"""Share of a core above which the load client may be what limits the figures."""

_OBJECTIVES = {"ttft": "first_token_seconds", "itl": "token_seconds", "e2e": "total_seconds"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective: bounds in seconds, by the name of the figure that they bound."""

    bounds: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `ttft=300ms,itl=50ms,e2e=5s`.

        Raises:
            SettingError: it is malformed.

        """
        bounds = []
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            found = _DURATION.fullmatch(value)
            if name not in _OBJECTIVES or found is None:
                raise SettingError(
                    f"--slo: {part.strip()!r} must be ttft, itl or e2e = a time such as 300ms or 5s"
                )
            bounds.append((_OBJECTIVES[name], float(found[1]) / (1e3 if found[2] == "ms" else 1)))
        return cls(tuple(bounds))

    def holds(self, outcome: Outcome) -> bool:
        """Whether a request that succeeded kept every bound."""
        return not outcome.error and all(getattr(outcome, name) <= bound for name, bound in self.bounds)


def summarize(result: LoadResult, objective: Objective | None = None) -> dict[str, Any]:
    """Compute all figures of the time after the warm-up: times in milliseconds, throughputs a second."""
    begin = result.began + result.plan.warmup_seconds
    counted = [outcome for outcome in result.outcomes if outcome.due >= begin]
    good = [outcome for outcome in counted if not outcome.error]
    # A closed loop that ends by its number of requests ends with its last answer.
    end = result.stopped if result.plan.seconds else max((o.ended for o in counted), default=begin)
    seconds = max(end - begin, 1e-9)
    figures: dict[str, Any] = {
        "requests": len(counted),
        "failed": len(counted) - len(good),
        "errors": dict(Counter(outcome.error for outcome in counted if outcome.error)),
        "seconds": seconds,
        "request_throughput": sum(begin <= o.ended <= end for o in good) / seconds,
        "output_token_throughput": tokens_between(result.outcomes, begin, end) / seconds,
        "prompt_tokens": sum(o.prompt_tokens for o in good),
        "cached_tokens": sum(o.cached_tokens for o in good),
        "output_tokens": sum(o.output_tokens for o in good),
        "time_to_first_token_ms": distribution([o.first_token_seconds for o in good]),
        "inter_token_latency_ms": distribution([o.token_seconds for o in good if o.output_tokens > 1]),
        "inter_chunk_latency_ms": distribution([gap for o in good for gap in gaps(o)]),
        "request_latency_ms": distribution([o.total_seconds for o in good]),
        "slowest_share": slowest_share(good),
        "client_cpu_share": result.cpu_share,
        "client_late_p99_ms": percentile(sorted(result.late_seconds), 99) * 1e3,
    }
    if objective is not None:
        kept = [outcome for outcome in counted if objective.holds(outcome)]
        figures["goodput"] = sum(outcome.ended <= end for outcome in kept) / seconds
        figures["good_share"] = len(kept) / len(counted) if counted else 0.0
    return figures


def warnings(figures: dict[str, Any]) -> list[str]:
    """Say what makes the figures doubtful."""
    found = []
    if figures["client_cpu_share"] > BUSY_SHARE:
        share = round(figures["client_cpu_share"] * 100)
        found.append(f"the load client used {share} % of a core: it may be the limit, not the server")
    if figures["client_late_p99_ms"] > 50:
        late = round(figures["client_late_p99_ms"])
        found.append(f"the load client was {late} ms late (p99): latencies hold its own delay")
    if figures["failed"]:
        kinds = ", ".join(f"{kind}: {number}" for kind, number in figures["errors"].items())
        found.append(f"{figures['failed']} of {figures['requests']} requests failed ({kinds})")
    return found


def distribution(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, deviation, least, percentiles and most, in milliseconds; empty for no values."""
    if not seconds:
        return {}
    values = sorted(value * 1e3 for value in seconds)
    spread = stdev(values) if len(values) > 1 else 0.0
    shares = {f"p{share}": percentile(values, share) for share in PERCENTILES}
    return {"mean": fmean(values), "std": spread, "min": values[0], **shares, "max": values[-1]}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The percentile of values in order, by linear interpolation; 0 for no values."""
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * share / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def gaps(outcome: Outcome) -> list[float]:
    """Seconds between two arrivals of output."""
    return [after - before for before, after in zip(outcome.arrivals, outcome.arrivals[1:], strict=False)]


def tokens_between(outcomes: Sequence[Outcome], begin: float, end: float) -> float:
    """Output tokens that arrived in a time; the tokens of a request are spread evenly over its arrivals."""
    return sum(
        outcome.output_tokens * sum(begin <= at <= end for at in outcome.arrivals) / len(outcome.arrivals)
        for outcome in outcomes
        if outcome.arrivals
    )


def slowest_share(outcomes: Sequence[Outcome]) -> float:
    """The slowest request's tokens a second over the median request's: 1 is fair, near 0 is starved."""
    speeds = [1 / outcome.token_seconds for outcome in outcomes if outcome.token_seconds > 0]
    return min(speeds) / median(speeds) if speeds else 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of one target to another over rounds, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def compare(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio | None:
    """Compute the geometric mean of the ratios round by round, with a bootstrap interval.

    Args:
        ours: one figure a round.
        theirs: the other target's, of the same rounds.
        seed: of the bootstrap.

    Returns:
        None where a figure is missing or not above 0.

    """
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs or any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    logs = [math.log(a / b) for a, b in pairs]
    source = random.Random(seed)  # noqa: S311 - a resampling, repeatable
    means = sorted(fmean(source.choices(logs, k=len(logs))) for _ in range(_RESAMPLES))
    return Ratio(math.exp(fmean(logs)), math.exp(percentile(means, 2.5)), math.exp(percentile(means, 97.5)))
