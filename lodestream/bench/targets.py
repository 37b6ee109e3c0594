"""The servers under load: this service over gRPC, or any OpenAI-style API over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from inference_client import AsyncClient, Delta, InferenceError, Summary
from lodestream.bench.http import Answer, HttpClient, Origin
from lodestream.bench.workload import BenchRequest
from lodestream.tls import NO_TLS, CallerTls
from lodestream_common.errors import OperatorError


@dataclass(slots=True)
class Outcome:
    """The outcome of one request. Times are seconds of `time.perf_counter`."""

    due: float
    """When it was to be sent."""
    began: float
    """When it was sent; later than `due` where the load client is late."""
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """When output arrived, one time for each event that held some."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    """As the server counts; the number of events, where it does not tell."""
    error: str = ""
    """The kind of a failure; empty: it succeeded."""

    @property
    def first_token_seconds(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.due

    @property
    def token_seconds(self) -> float:
        """Mean time of a token after the first (TPOT); 0 where there is only one."""
        more = self.output_tokens - 1
        return (self.arrivals[-1] - self.arrivals[0]) / more if more > 0 else 0.0

    @property
    def total_seconds(self) -> float:
        """From the time it was due to its end."""
        return self.ended - self.due


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """The request settings for either transport."""

    model: str
    """Empty: the first that the server lists."""
    api_key: str | None
    stream: bool
    chat: bool
    """HTTP: /chat/completions with text; else /completions."""
    temperature: float
    ignore_eos: bool
    timeout: float
    """Seconds for one request."""
    extra: Mapping[str, Any]
    """HTTP: further members of each body."""
    tls: CallerTls = NO_TLS
    """For the URLs with https:// or grpcs://."""


class Target(Protocol):
    """A server under load."""

    async def open(self) -> str:
        """Connect; the model that will be asked.

        Raises:
            OperatorError: the server cannot be reached, or serves no model.

        """

    async def send(self, request: BenchRequest, due: float) -> Outcome:
        """Send one request and read its answer; failures are outcomes, too."""

    async def close(self) -> None:
        """Close the connections."""


def make_target(url: str, options: TargetOptions) -> Target:
    """Make the target for a URL.

    Raises:
        SettingError: the URL has none of the known forms.

    """
    if url.startswith(("grpc://", "grpcs://")):
        return GrpcTarget(url, options)
    return HttpTarget(Origin.parse(url), options)


class GrpcTarget:
    """The inference service, through the project's own client."""

    def __init__(self, url: str, options: TargetOptions) -> None:
        scheme, _, address = url.partition("://")
        tls = options.tls.for_grpc() if scheme == "grpcs" else None
        self._client = AsyncClient(address.rstrip("/"), api_key=options.api_key, retries=0, tls=tls)
        self._options = options
        self._model = options.model

    async def open(self) -> str:
        try:
            models = await self._client.list_models(timeout=10)
        except InferenceError as error:
            raise OperatorError(f"the server does not answer: {error.message}") from None
        if not self._model:
            if not models:
                raise OperatorError("the server lists no model; name one with --model")
            self._model = models[0].id
        return self._model

    async def send(self, request: BenchRequest, due: float) -> Outcome:
        outcome = Outcome(due, time.perf_counter())
        try:
            await self._read(request, outcome)
        except InferenceError as error:
            outcome.error = error.code
        outcome.ended = time.perf_counter()
        return outcome

    async def close(self) -> None:
        await self._client.close()

    async def _read(self, request: BenchRequest, outcome: Outcome) -> None:
        options = self._options
        prompt: dict[str, Any] = (
            {"prompt": request.prompt} if isinstance(request.prompt, str) else {"token_ids": request.prompt}
        )
        stream = self._client.stream(
            model=self._model,
            max_tokens=request.output_tokens,
            temperature=options.temperature,
            ignore_eos=options.ignore_eos or None,
            timeout=options.timeout,
            **prompt,
        )
        async with stream:
            async for event in stream:
                if isinstance(event, Delta):
                    outcome.arrivals.append(time.perf_counter())
                elif isinstance(event, Summary):
                    outcome.prompt_tokens = event.usage.prompt_tokens
                    outcome.output_tokens = event.usage.completion_tokens
                    outcome.cached_tokens = event.usage.cached_tokens or 0


class HttpTarget:
    """Any server with OpenAI-style routes."""

    def __init__(self, origin: Origin, options: TargetOptions) -> None:
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        self._client = HttpClient(origin, headers, options.tls.for_https() if origin.is_tls else None)
        self._origin = origin
        self._options = options
        self._model = options.model

    async def open(self) -> str:
        if self._model:
            return self._model
        try:
            answer = await asyncio.wait_for(self._client.send("GET", "/models"), 10)
        except OSError as error:
            raise OperatorError(f"{self._origin.authority} does not answer: {error}") from None
        if not answer.status:
            raise OperatorError(f"{self._origin.authority} does not answer: it closed the connection")
        try:
            self._model = orjson.loads(answer.body)["data"][0]["id"]
        except (ValueError, LookupError, TypeError):
            raise OperatorError(
                f"{self._origin.authority} lists no model (HTTP {answer.status}); name one with --model"
            ) from None
        return self._model

    async def send(self, request: BenchRequest, due: float) -> Outcome:
        options = self._options
        path, body = self._body(request)
        outcome = Outcome(due, time.perf_counter())
        try:
            answer = await asyncio.wait_for(self._client.send("POST", path, body), options.timeout)
        except TimeoutError:
            outcome.error = "timeout"
        except OSError:
            outcome.error = "connection"
        else:
            read_answer(answer, outcome, streamed=options.stream)
        outcome.ended = outcome.ended or time.perf_counter()
        return outcome

    async def close(self) -> None:
        self._client.close()

    def _body(self, request: BenchRequest) -> tuple[str, bytes]:
        options = self._options
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.output_tokens,
            "temperature": options.temperature,
        }
        if options.chat:
            body["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            body["prompt"] = request.prompt
        if options.ignore_eos:
            body["ignore_eos"] = True
        if options.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return "/chat/completions" if options.chat else "/completions", orjson.dumps(
            body | dict(options.extra)
        )


def read_answer(answer: Answer, outcome: Outcome, *, streamed: bool) -> None:
    """Fill an outcome from an HTTP answer: arrivals, usage, the kind of a failure."""
    if answer.pieces:
        outcome.ended = answer.pieces[-1][0]
    if answer.status != 200:
        outcome.error = f"http_{answer.status}" if answer.status else "connection"
        return
    if not answer.is_whole:
        outcome.error = "cut_short"
        return
    if streamed:
        _read_events(answer, outcome)
    else:
        outcome.arrivals.append(outcome.ended)
        _read_usage(orjson.loads(answer.body), outcome)
    if not outcome.error and not outcome.arrivals:
        outcome.error = "no_output"
    outcome.output_tokens = outcome.output_tokens or len(outcome.arrivals)


def _read_events(answer: Answer, outcome: Outcome) -> None:
    is_done = False
    for at, data in _events(answer):
        if data == b"[DONE]":
            is_done = True
            continue
        try:
            event = orjson.loads(data)
        except ValueError:
            outcome.error = "not_json"
            return
        if error := event.get("error"):
            outcome.error = str(
                (isinstance(error, dict) and (error.get("code") or error.get("type"))) or "error"
            )
            return
        if any(_has_output(choice) for choice in event.get("choices") or ()):
            outcome.arrivals.append(at)
        _read_usage(event, outcome)
    if not is_done:
        outcome.error = "cut_short"


def _events(answer: Answer) -> Iterator[tuple[float, bytes]]:
    """The data of each server-sent event, and when its last byte arrived."""
    rest = b""
    for at, piece in answer.pieces:
        *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield at, b"\n".join(lines)


def _has_output(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(
        choice.get("text")
        or delta.get("content")
        or delta.get("tool_calls")
        or delta.get("reasoning_content")
        or delta.get("refusal")
    )


def _read_usage(event: dict[str, Any], outcome: Outcome) -> None:
    if usage := event.get("usage"):
        outcome.prompt_tokens = usage.get("prompt_tokens") or 0
        outcome.output_tokens = usage.get("completion_tokens") or 0
        outcome.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
