"""The options of `lodestream bench`, and the scenario files that hold them."""

from __future__ import annotations

import json
import tomllib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lodestream import tls
from lodestream.parser import CommandParser
from lodestream.sources import suggestion
from lodestream_common.errors import SettingError

_ABOUT = (
    "Puts a server under load and prints how fast it answers: this service over gRPC, or any server with an "
    "OpenAI-style HTTP API. The load is a closed loop (--concurrency), Poisson arrivals (--rate) or a "
    "recorded trace (--trace)."
)
_EXAMPLES = [
    "lodestream bench --url http://127.0.0.1:8000 --concurrency 16 --seconds 30",
    "lodestream bench --url grpc://127.0.0.1:50051 --rate 4 --requests 200 --slo ttft=300ms,itl=50ms",
    "lodestream bench --sweep 1,4,16,64 --seconds 20 --html report.html",
    "lodestream bench --url http://127.0.0.1:8000 --compare http://127.0.0.1:9000/v1 --rounds 5",
]
_LENGTHS = "N, uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEAN:DEVIATION"

Option = tuple[str, dict[str, object]]

_SERVER: list[Option] = [
    (
        "--url",
        {
            "default": "http://127.0.0.1:8000",
            "metavar": "URL",
            "help": "http(s)://HOST:PORT[/PATH] or grpc(s)://HOST:PORT [http://127.0.0.1:8000]",
        },
    ),
    ("--compare", {"metavar": "URL", "help": "a second server; both are measured in turn"}),
    ("--rounds", {"type": int, "default": 5, "metavar": "N", "help": "rounds of --compare [5]"}),
    ("--model", {"default": "", "metavar": "NAME", "help": "[the first that the server lists]"}),
    ("--api-key", {"metavar": "KEY", "help": "[LODESTREAM_API_KEY]"}),
]
_REQUESTS: list[Option] = [
    ("--chat", {"action": "store_true", "help": "HTTP: chat completions of text, rather than completions"}),
    ("--text", {"action": "store_true", "help": "prompts are text, rather than token ids"}),
    ("--prompt-tokens", {"default": "128", "metavar": "LENGTHS", "help": f"{_LENGTHS} [128]"}),
    ("--output-tokens", {"metavar": "LENGTHS", "help": "the same, for the output [128, or the file's]"}),
    (
        "--shared-prefix",
        {"type": int, "default": 0, "metavar": "N", "help": "tokens that all prompts share [0]"},
    ),
    ("--token-ids", {"default": "300:30000", "metavar": "LOW:HIGH", "help": "ids in prompts [300:30000]"}),
    ("--dataset", {"type": Path, "metavar": "PATH", "help": "ShareGPT JSON, or JSON lines with a prompt"}),
    ("--ignore-eos", {"action": "store_true", "help": "each output has exactly its length"}),
    ("--temperature", {"type": float, "default": 0.0, "metavar": "T", "help": "[0]"}),
    ("--no-stream", {"action": "store_true", "help": "whole answers, rather than streams"}),
    ("--body", {"default": "{}", "metavar": "JSON", "help": "HTTP: further members of each body"}),
    ("--timeout", {"type": float, "default": 300.0, "metavar": "SECONDS", "help": "of a request [300]"}),
    ("--seed", {"type": int, "default": 0, "metavar": "N", "help": "of prompts, lengths and arrivals [0]"}),
]
_LOAD: list[Option] = [
    (
        "--concurrency",
        {
            "type": int,
            "metavar": "N",
            "help": "requests open at any time [16]; with --rate or --trace the most [no bound]",
        },
    ),
    ("--rate", {"type": float, "metavar": "R", "help": "requests a second, arriving at random (Poisson)"}),
    (
        "--trace",
        {
            "type": Path,
            "metavar": "PATH",
            "help": "JSON lines with timestamp (ms), input_length and output_length",
        },
    ),
    ("--requests", {"type": int, "metavar": "N", "help": "requests to send"}),
    ("--seconds", {"type": float, "metavar": "S", "help": "time to send requests for [30]"}),
    (
        "--warmup",
        {"type": float, "default": 0.0, "metavar": "S", "help": "time at the start not counted [0]"},
    ),
    ("--ramp", {"type": float, "default": 0.0, "metavar": "S", "help": "time to reach --concurrency [0]"}),
    ("--sweep", {"metavar": "N,N,...", "help": "one load for each concurrency; with --rate, for each rate"}),
]
_FIGURES: list[Option] = [
    ("--slo", {"metavar": "BOUNDS", "help": "objective of the goodput: ttft=300ms,itl=50ms,e2e=5s"}),
    ("--json", {"metavar": "PATH", "help": "write all figures; -: print them and nothing else"}),
    ("--csv", {"metavar": "PATH", "help": "write a line for each request"}),
    ("--html", {"metavar": "PATH", "help": "write a report with plots in one file"}),
    ("--scenario", {"type": Path, "metavar": "PATH", "help": "TOML file of these options; flags count more"}),
]


def parse(arguments: Sequence[str]) -> Namespace:
    """Parse the options, those of a scenario file included.

    Raises:
        SettingError: an option is unknown or malformed, or the scenario file cannot be read.

    """
    parser = CommandParser("bench", _ABOUT, {}, _EXAMPLES, operands="[OPTION ...]")
    groups = {"the server": _SERVER, "the requests": _REQUESTS, "the load": _LOAD, "the figures": _FIGURES}
    for headline, options in groups.items():
        group = parser.add_argument_group(headline)
        for flag, details in options:
            group.add_argument(flag, **details)  # type: ignore[arg-type]
    tls.add_options(parser)
    parsed = parser.parse(arguments)
    if parsed.scenario is None:
        return parsed
    # Read once more with the file's options in front: flags that follow them count more.
    return parser.parse([*_scenario_words(parsed), *arguments])


def _scenario_words(parsed: Namespace) -> list[str]:
    path: Path = parsed.scenario
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"--scenario: {path} cannot be read: {error}") from None
    known = ["--" + name.replace("_", "-") for name in vars(parsed) if name != "config"]
    words: list[str] = []
    for key, value in document.get("bench", document).items():
        flag = "--" + key.replace("_", "-")
        if flag not in known:
            raise SettingError(f"{path}: {key}: unknown option{suggestion(flag, known)}")
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words
