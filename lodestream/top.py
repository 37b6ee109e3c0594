"""The command `lodestream top`: what services do now, live in the terminal, read from their metrics."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lodestream import tls
from lodestream.parser import CommandParser
from lodestream.tls import CallerTls
from lodestream_common.errors import SettingError

_ABOUT = (
    "Shows what services do now: requests that run and wait, tokens a second, time to first token, KV cache. "
    "It reads the metrics that a service has at --metrics-address. Ctrl-C ends it."
)
_HTTPS = "https://"
_TIMEOUT = 3.0
"""Seconds that a server has for its metrics."""

_PIPE_WIDTH = 160
"""Columns of a page that no terminal shows."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one server at one time."""

    at: float
    """Of `time.monotonic`."""
    samples: Samples = field(default_factory=dict)
    error: str = ""
    """Why there are none."""

    def total(self, name: str) -> float | None:
        """The sum over all labels; None: there is no such sample."""
        found = [value for (sample, _), value in self.samples.items() if sample == name]
        return sum(found) if found else None

    def state(self) -> str:
        """The health of the service."""
        for (name, labels), value in self.samples.items():
            if name == "lodestream_health" and value:
                return dict(labels)["state"]
        return "starting"


def run(arguments: Sequence[str]) -> int:
    """Show the page until Ctrl-C, or once."""
    parser = CommandParser(
        "top",
        _ABOUT,
        {},
        ["lodestream top 127.0.0.1:9464", "lodestream top 10.0.0.1:9464 10.0.0.2:9464 --once"],
        operands="ADDRESS ...",
    )
    parser.add_argument(
        "addresses",
        nargs="+",
        metavar="ADDRESS",
        help="host:port of a service's metrics; https://host:port of a proxy with TLS in front of them",
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two readings [1]"
    )
    parser.add_argument("--once", action="store_true", help="print one page and end")
    tls.add_options(parser)
    parsed = parser.parse(arguments)
    files = CallerTls.of(parsed)
    files.check_used(is_tls=any(address.startswith(_HTTPS) for address in parsed.addresses), schemes=_HTTPS)
    if not 0.1 <= parsed.interval <= 3600:
        raise SettingError("--interval: must be a number of seconds from 0.1 to 3600")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    page = Page(parsed.addresses, files.for_https())
    page.read()
    if parsed.once:
        time.sleep(parsed.interval)
        page.read()
        console.print(page.render())
        return 0 if page.is_answered else 1
    try:
        with Live(page.render(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(parsed.interval)
                page.read()
                live.update(page.render(), refresh=True)
    except KeyboardInterrupt:
        return 0


def scrape(address: str, context: ssl.SSLContext) -> Scrape:
    """Read the metrics of one server."""
    now = time.monotonic()
    base = address.rstrip("/") if address.startswith(_HTTPS) else f"http://{address}"
    try:
        # A proxy of the environment would not reach a local address.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"{base}/metrics", timeout=_TIMEOUT) as reply:
            text = reply.read().decode()
    except (OSError, ValueError, urllib.error.URLError) as error:
        return Scrape(now, error=str(getattr(error, "reason", error)))
    return Scrape(now, read_samples(text))


def read_samples(text: str) -> Samples:
    """Read every sample of a scrape, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Page:
    """The last two readings of each server, and the table made of them."""

    def __init__(self, addresses: Sequence[str], context: ssl.SSLContext) -> None:
        self._context = context
        self._scrapes: dict[str, tuple[Scrape, Scrape]] = {
            address: (Scrape(0.0), Scrape(0.0)) for address in addresses
        }

    @property
    def is_answered(self) -> bool:
        """Whether every server answered the last time."""
        return not any(now.error for _, now in self._scrapes.values())

    def read(self) -> None:
        """Read every server once more."""
        self._scrapes = {
            address: (now, scrape(address, self._context)) for address, (_, now) in self._scrapes.items()
        }

    def render(self) -> Table:
        """Make the table."""
        table = Table(title=f"lodestream top · {time.strftime('%H:%M:%S')}", title_justify="left")
        columns = ("server", "state", "running", "waiting", "req/s", "prompt tok/s", "output tok/s",
                   "TTFT p50", "TTFT p99", "ITL p50", "KV used", "aborts")  # fmt: skip
        for column in columns:
            table.add_column(
                column, justify="left" if column in ("server", "state") else "right", no_wrap=True
            )
        for address, (before, now) in self._scrapes.items():
            if now.error:
                table.add_row(address, f"[red]{now.error}[/red]")
            else:
                table.add_row(address, *_cells(before, now))
        return table


def _cells(before: Scrape, now: Scrape) -> list[str]:
    state = now.state()
    running, limit = now.total("lodestream_requests_running"), now.total("lodestream_requests_running_limit")
    ttft, gap = "lodestream_time_to_first_token_seconds", "lodestream_inter_token_latency_seconds"
    return [
        f"[{'green' if state == 'ready' else 'yellow'}]{state}[/]",
        "-" if running is None else f"{running:.0f}/{limit or 0:.0f}",
        _number(now.total("lodestream_requests_waiting")),
        _rate(before, now, "lodestream_requests_total"),
        _rate(before, now, "lodestream_prompt_tokens_total"),
        _rate(before, now, "lodestream_completion_tokens_total"),
        _milliseconds(recent_quantile(before, now, ttft, 0.5)),
        _milliseconds(recent_quantile(before, now, ttft, 0.99)),
        _milliseconds(recent_quantile(before, now, gap, 0.5)),
        _kv_share(now),
        _number(now.total("lodestream_aborts_pending")),
    ]


def recent_quantile(before: Scrape, now: Scrape, histogram: str, share: float) -> float | None:
    """Estimate a quantile of what was observed between two readings, in the unit of the histogram.

    Linear within a bucket, as Prometheus does it; None: nothing was observed.
    """
    counts = sorted(_bucket_growth(before, now, f"{histogram}_bucket").items())
    total = counts[-1][1] if counts else 0.0
    if total <= 0:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low


def _bucket_growth(before: Scrape, now: Scrape, name: str) -> dict[float, float]:
    growth: dict[float, float] = {}
    for (sample, labels), value in now.samples.items():
        if sample == name:
            bound = float(dict(labels)["le"])
            growth[bound] = growth.get(bound, 0.0) + value - before.samples.get((sample, labels), 0.0)
    return growth


def _rate(before: Scrape, now: Scrape, counter: str) -> str:
    then, value = before.total(counter) or 0.0, now.total(counter) or 0.0
    if not before.samples or now.at <= before.at:
        return "-"
    # A counter that fell belongs to a server that was started again.
    return f"{max(0.0, value - then) / (now.at - before.at):.1f}"


def _kv_share(now: Scrape) -> str:
    used, free = now.total("lodestream_kv_cache_blocks_used"), now.total("lodestream_kv_cache_blocks_free")
    if used is None or free is None or used + free == 0:
        return "-"
    return f"{used / (used + free):.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f} ms"
