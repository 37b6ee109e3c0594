"""The workload: lengths of prompts and outputs, files of requests, arrivals.

A workload is a sequence of `BenchRequest`. Lengths are numbers of tokens. Synthetic prompts are random and
share no prefix unless the workload asks for one, so that no server answers them from its prefix cache.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lodestream_common.errors import SettingError

MAX_TOKENS = 1_000_000
"""Longest prompt or output that a workload may ask for, in tokens."""

ORDINARY_TOKENS = (300, 30_000)
"""Token ids that are ordinary text in each vocabulary in use: the least one, and one after the greatest."""

# Common words that are one token in each vocabulary in use.
_WORDS = (
    "the of and to in is it you that he was for on are with as his they at be this from have or by".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One request of a workload."""

    prompt: str | tuple[int, ...]
    """Text, or token ids."""
    output_tokens: int
    """The `max_tokens` of the request, 1 or more."""
    at: float | None = None
    """Seconds after the start of the load; None: the arrival process decides."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in tokens, as `--prompt-tokens` and `--output-tokens` spell it.

    `128` is always 128; `uniform:64:256` any of 64 to 256; `normal:MEAN:DEVIATION` and
    `lognormal:MEAN:DEVIATION` are rounded, and cut to the range [1, 1000000].
    """

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, text: str, flag: str) -> Lengths:
        """Read a distribution.

        Raises:
            SettingError: it is malformed or out of range; names the flag.

        """
        kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        is_known = len(values) == (1 if kind == "fixed" else 2) and kind in (
            "fixed",
            "uniform",
            "normal",
            "lognormal",
        )
        if not is_known:
            raise SettingError(f"{flag}: {text!r} is none of N, uniform:LOW:HIGH, normal:MEAN:DEVIATION, "
                               "lognormal:MEAN:DEVIATION")  # fmt: skip
        if not (1 <= values[0] <= MAX_TOKENS and all(0 <= value <= MAX_TOKENS for value in values)):
            raise SettingError(f"{flag}: {text!r} must hold numbers of tokens from 1 to {MAX_TOKENS}")
        if kind == "uniform" and values[1] < values[0]:
            raise SettingError(f"{flag}: {text!r} must have LOW up to HIGH")
        return cls(kind, *values)

    def draw(self, source: random.Random) -> int:
        """Draw one length."""
        match self.kind:
            case "uniform":
                drawn = float(source.randint(int(self.first), int(self.second)))
            case "normal":
                drawn = source.gauss(self.first, self.second)
            case "lognormal":
                # The parameters of the logarithm, from mean and deviation of the lengths themselves.
                variance = math.log1p((self.second / self.first) ** 2)
                drawn = source.lognormvariate(math.log(self.first) - variance / 2, math.sqrt(variance))
            case _:
                drawn = self.first
        return max(1, min(MAX_TOKENS, round(drawn)))


@dataclass(frozen=True, slots=True)
class SyntheticWorkload:
    """Random prompts without end, the same ones for the same seed."""

    prompt: Lengths
    output: Lengths
    seed: int
    as_tokens: bool
    """Prompts are token ids, so that their lengths are exact; else text of about one token a word."""
    shared_prefix: int = 0
    """Tokens at the start that all prompts have in common; the prompt's length includes them."""
    token_ids: tuple[int, int] = ORDINARY_TOKENS
    """The least id, and the one after the greatest."""

    def __iter__(self) -> Iterator[BenchRequest]:
        source = random.Random(self.seed)  # noqa: S311 - a load, repeatable
        prefix = self._piece(source, self.shared_prefix)
        while True:
            length = self.prompt.draw(source)
            piece = prefix[:length] + self._piece(source, max(0, length - self.shared_prefix))
            prompt = tuple(piece) if self.as_tokens else " ".join(str(word) for word in piece)
            yield BenchRequest(prompt, self.output.draw(source))

    def _piece(self, source: random.Random, length: int) -> list[Any]:
        if self.as_tokens:
            return [source.randrange(*self.token_ids) for _ in range(length)]
        return source.choices(_WORDS, k=length)


@dataclass(frozen=True, slots=True)
class FileWorkload:
    """The requests of a file, in turn, over and over."""

    requests: tuple[BenchRequest, ...]
    is_trace: bool = field(default=False)
    """They carry their own times, and are sent once."""

    def __iter__(self) -> Iterator[BenchRequest]:
        return iter(self.requests) if self.is_trace else itertools.cycle(self.requests)


def read_requests(path: Path, output: Lengths | None, seed: int) -> FileWorkload:
    """Read a file of conversations or prompts.

    Formats: ShareGPT (a JSON array of objects with `conversations`, whose first two turns become prompt and
    length of the output), and JSON lines of objects with `prompt` and, if wanted, `output_tokens`.

    Args:
        path: the file.
        output: lengths of the outputs, where given; else the file's own, of about four characters a token.
        seed: of the lengths that are drawn.

    Raises:
        SettingError: the file is unreadable, has another format, or holds no usable request.

    """
    source = random.Random(seed)  # noqa: S311 - a load, repeatable
    requests = []
    for record in _records(path):
        prompt, tokens = _prompt_of(record)
        if output is not None:
            tokens = output.draw(source)
        if prompt and tokens:
            requests.append(BenchRequest(prompt, tokens))
    if not requests:
        raise SettingError(f"--dataset: {path} holds no request with a prompt and a length of its output")
    return FileWorkload(tuple(requests))


def read_trace(path: Path, seed: int, as_tokens: bool) -> FileWorkload:
    """Read a recorded trace: JSON lines with `timestamp` in milliseconds, `input_length` and `output_length`.

    Prompts are synthetic and have the recorded lengths.

    Raises:
        SettingError: the file is unreadable or a line lacks a field; names the line.

    """
    requests = []
    for number, record in enumerate(_records(path), 1):
        try:
            at, length, output = (
                record["timestamp"] / 1e3,
                int(record["input_length"]),
                int(record["output_length"]),
            )
        except (KeyError, TypeError, ValueError):
            raise SettingError(
                f"--trace: {path}, request {number}: needs timestamp (ms), input_length and output_length"
            ) from None
        lengths = Lengths("fixed", max(1, length)), Lengths("fixed", max(1, output))
        drawn = next(iter(SyntheticWorkload(*lengths, seed + number, as_tokens)))
        requests.append(BenchRequest(drawn.prompt, drawn.output_tokens, at))
    if not requests:
        raise SettingError(f"--trace: {path} holds no request")
    requests.sort(key=lambda request: request.at or 0.0)
    first = requests[0].at or 0.0
    return FileWorkload(
        tuple(BenchRequest(r.prompt, r.output_tokens, (r.at or 0.0) - first) for r in requests), True
    )


def poisson_arrivals(rate: float, seed: int) -> Iterator[float]:
    """Times in seconds of a Poisson process of `rate` requests a second, without end."""
    source = random.Random(seed)  # noqa: S311 - a load, repeatable
    at = 0.0
    while True:
        at += source.expovariate(rate)
        yield at


def _records(path: Path) -> Sequence[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        records = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise SettingError(f"{path}: is neither a JSON array nor JSON lines: {error}") from None
    if not all(isinstance(record, dict) for record in records):
        raise SettingError(f"{path}: each entry must be a JSON object")
    return records


def _prompt_of(record: dict[str, Any]) -> tuple[str, int]:
    turns = record.get("conversations") or record.get("conversation")
    if isinstance(turns, list) and len(turns) > 1:
        texts = [turn.get("value", "") if isinstance(turn, dict) else "" for turn in turns[:2]]
        return str(texts[0]), _about_tokens(str(texts[1]))
    prompt, tokens = record.get("prompt"), record.get("output_tokens", 128)
    return (prompt, tokens) if isinstance(prompt, str) and isinstance(tokens, int) else ("", 0)


def _about_tokens(text: str) -> int:
    return math.ceil(len(text) / 4)
