"""Checks an engine directory, loads its engine, sends it requests and converts the library's errors."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import structlog

from engines.errors import Finding
from engines.facts.engine_directory import CONFIG_FILE, EngineConfig, read_engine_config
from engines.facts.machine import probe
from engines.verification.verify import verify
from inference_service.backends.base import (
    BackendError,
    BackendStartError,
    EngineDeadError,
    EngineGrammarError,
    EngineRequestError,
)
from inference_service.backends.tensorrt_llm.library import LOGPROBS_SWITCH, Library, load_library
from inference_service.backends.tensorrt_llm.sampling import BiasTensors, GuidedDecoding, sampling_fields
from inference_service.backends.types import EngineRequest
from inference_service.constraints.grammar import Grammar

_log = structlog.stdlib.get_logger(__name__)
_SHUTTING_DOWN = "LLM is shutting down"
STATISTICS_SECONDS = 0.1
"""Seconds that a read waits for statistics that the engine does not have yet."""


@dataclass(frozen=True, slots=True)
class ExpectedEngine:
    """The limits that the service expects of the engine."""

    context_length: int
    max_concurrency: int | None
    """None: as many as the engine was built for."""


def check_directory(directory: Path, expected: ExpectedEngine) -> EngineConfig:
    """Verify an engine directory and return its configuration. Blocks for a second or two.

    Plans are compared with their manifest by size only: hashing them takes as long as loading them.

    Raises:
        BackendStartError: it cannot be served here; with a line for each reason.

    """
    findings = verify(directory, runtime=probe(), quick=True)
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        config = read_engine_config(directory)
        errors = [*_limits(config, expected), *_speculation(directory)]
    if errors:
        raise BackendStartError(
            f"the engine in {directory} cannot be served", [str(finding) for finding in errors]
        )
    for finding in findings:
        if finding.severity == "warning":
            _log.warning("engine", directory=str(directory), finding=str(finding))
    return config


def longest_request(config: EngineConfig) -> int:
    """Most tokens of one request. Where prompts cannot be chunked, they must fit one engine step."""
    if config.plugins.use_paged_context_fmha:
        return config.limits.max_seq_len
    return min(config.limits.max_seq_len, config.limits.max_num_tokens)


def _limits(config: EngineConfig, expected: ExpectedEngine) -> Iterator[Finding]:
    slots, longest = config.limits.max_batch_size, longest_request(config)
    if expected.max_concurrency is not None and expected.max_concurrency > slots:
        yield Finding("max_concurrency", str(expected.max_concurrency), f"at most the engine's {slots}")
    if expected.context_length > longest:
        yield Finding("context_length", str(expected.context_length), f"at most the engine's {longest}")


def _speculation(directory: Path) -> Iterator[Finding]:
    """Find a drafting engine: it needs settings when it is loaded, and supports few of the parameters."""
    document = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    drafted = document["build_config"].get("max_draft_len")
    if drafted:
        yield Finding("build_config.max_draft_len", str(drafted), "0: speculative decoding is not served")


def load_engine(directory: Path, config: EngineConfig, end_ids: frozenset[int]) -> Engine:
    """Import the library and load an engine with it. Blocks, for minutes where the engine is large.

    Args:
        directory: an engine directory that `check_directory` accepted.
        config: the directory's own configuration.
        end_ids: tokens that end a generation, at least one.

    Raises:
        BackendStartError: the library is missing or of another version, or cannot load the engine.

    """
    library = load_library()
    if library.options.guided is not None and not has_fast_tokenizer(directory):
        # The library sets xgrammar up when it loads the engine, and would not load it.
        _log.warning(
            "no_grammars", directory=str(directory), reason="transformers has no fast tokenizer for it"
        )
        library = replace(library, options=replace(library.options, guided=None))
    if library.version != config.version:
        raise BackendStartError(
            f"the engine in {directory} cannot be served: version: found {config.version}, expected the "
            f"installed TensorRT-LLM, {library.version}; build the engine with it"
        )
    _log.info("tensorrt_llm", version=library.version, refused=sorted(library.refused))
    try:
        llm = library.llm(**arguments(directory, config, library))
    except Exception as error:
        raise BackendStartError(f"TensorRT-LLM cannot load {directory}: {_reason(error)}") from error
    return Engine(llm, library, end_ids, config.shape.vocab_size)


def has_fast_tokenizer(directory: Path) -> bool:
    """Whether transformers makes a fast tokenizer of a directory's files, as the library would."""
    try:
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(directory))
    except Exception as error:
        _log.info("no_tokenizer", directory=str(directory), reason=f"{type(error).__name__}: {error}"[:300])
        return False
    return bool(getattr(tokenizer, "is_fast", False))


def arguments(directory: Path, config: EngineConfig, library: Library) -> dict[str, Any]:
    """The constructor's arguments.

    The engine's own limits are passed one by one: the defaults (2048 requests, 8192 tokens, 1024 of
    prompt) are not taken from the engine in every release, and larger ones end in a C++ check.
    """
    limits, paged = config.limits, config.plugins.use_paged_context_fmha
    guided = {"guided_decoding_backend": "xgrammar"} if library.options.guided else {}
    return {
        "model": str(directory),
        "max_batch_size": limits.max_batch_size,
        "max_num_tokens": limits.max_num_tokens,
        "max_seq_len": limits.max_seq_len,
        "max_input_len": limits.max_input_len,
        "max_beam_width": limits.max_beam_width,
        "kv_cache_config": library.kv_cache_config(enable_block_reuse=paged),
        "enable_chunked_prefill": paged,
        **guided,
    }


def _reason(error: Exception) -> str:
    """The first line of an error that is not blank."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


class Completion(Protocol):
    """One answer so far. The library changes it in place."""

    token_ids: Sequence[int]
    """All of them, from the first."""
    logprobs: Sequence[float]
    """One for each token, if requested; also for a stop word that was removed from the ids."""
    finish_reason: str | None
    """`stop`, `length`, `timeout` or `cancelled`."""
    stop_reason: int | str | None
    """The stop word that was met; None for the end id."""


class Output(Protocol):
    """A running request: an iterator over itself, one turn for each response of the engine."""

    @property
    def outputs(self) -> Sequence[Completion]: ...

    def abort(self) -> None:
        """Send the engine an abort; it releases the request later."""
        ...

    def __aiter__(self) -> AsyncIterator[object]: ...


class Engine:
    """A TensorRT-LLM instance. All of its requests belong to one event loop: it wakes no other.

    Args:
        llm: the library's own object.
        library: where it comes from.
        end_ids: tokens that end a generation, at least one.
        vocabulary_size: the engine's own.

    """

    def __init__(self, llm: Any, library: Library, end_ids: frozenset[int], vocabulary_size: int) -> None:
        self._llm = llm
        self._library = library
        self._end_ids = end_ids
        self._biases = BiasTensors(library.options.torch, vocabulary_size)
        # No public method reports a shutdown. Where this attribute is missing, the next request fails.
        self._reports_shutdown = hasattr(getattr(llm, "_executor", None), "is_shutdown")
        self._dead = False
        self._reading = threading.Lock()

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that it cannot honour, by their public names."""
        return self._library.refused

    @property
    def is_alive(self) -> bool:
        """Whether it can still serve. Once False, always False.

        The library notices a dead worker process at its next call: while nothing runs, a dead engine
        counts as alive.
        """
        self._dead = self._dead or self._has_shut_down()
        return not self._dead

    def check_grammar(self, grammar: Grammar) -> None:
        """Find out whether the engine can read a grammar. Blocks.

        Raises:
            EngineGrammarError: it cannot.

        """
        guided = self._guided()
        try:
            guided.check(grammar)
        except Exception as error:
            # Without its text, which shows the grammar.
            _log.error("grammar_unreadable", reason=type(error).__name__)
            raise EngineGrammarError("the engine cannot read the grammar of this request") from None

    def submit(self, request: EngineRequest) -> Output:
        """Send a request, whose grammar has passed the check, to the engine.

        Raises:
            BackendError: it cannot take this request, or any request.

        """
        try:
            output: Output = self._llm.generate_async(
                inputs={"prompt_token_ids": list(request.prompt_ids)},
                sampling_params=self._sampling_params(request),
                streaming=True,
            )
        except Exception as error:
            raise self.translate(error, request.request_id) from error
        return output

    def translate(self, error: Exception, request_id: str) -> BackendError:
        """Convert an exception of the library to the service's error."""
        if _SHUTTING_DOWN in str(error):
            self._dead = True
        # Without its traceback, which could show a prompt.
        _log.error("engine_error", request_id=request_id, reason=f"{type(error).__name__}: {error}"[:500])
        return self.failure("the engine failed this request")

    def failure(self, reason: str) -> BackendError:
        """The error of a request that failed, or of a dead engine."""
        return EngineRequestError(reason) if self.is_alive else EngineDeadError("the engine has shut down")

    def read_statistics(self) -> EngineStatistics | None:
        """The newest statistics; None: the engine has made no step since the last reading.

        Blocks for `STATISTICS_SECONDS` where there are none. So does the library's async variant: it makes
        the same call inside the coroutine, and so blocks the event loop and every stream.
        """
        with self._reading:
            stats = self._llm.get_stats(timeout=STATISTICS_SECONDS)
        return read(stats[-1]) if stats else None

    def shutdown(self) -> None:
        """End the engine and its worker processes. Blocks."""
        self._dead = True
        # The library's sockets must not be closed during a call.
        is_idle = self._reading.acquire(timeout=10 * STATISTICS_SECONDS)
        try:
            self._llm.shutdown()
        finally:
            if is_idle:
                self._reading.release()

    def _sampling_params(self, request: EngineRequest) -> Any:
        fields = sampling_fields(request, self._end_ids, self._library.fields)
        if request.logit_bias:
            fields["embedding_bias"] = self._biases.tensor(request.logit_bias)
        if request.grammar is not None:
            fields["guided_decoding"] = self._guided().params(request.grammar)
        params = self._library.sampling_params(**fields)
        if request.logprobs is not None:
            setattr(params, LOGPROBS_SWITCH, True)
        return params

    def _guided(self) -> GuidedDecoding:
        if self._library.options.guided is None:
            raise EngineGrammarError("this TensorRT-LLM takes no grammars")
        return self._library.options.guided

    def _has_shut_down(self) -> bool:
        executor = self._llm._executor if self._reports_shutdown else None
        return self._reports_shutdown and (executor is None or bool(executor.is_shutdown()))


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The numbers of one engine step; None where this version does not report them."""

    queued: int | None = None
    """Requests that the engine has and does not work on."""
    kv_blocks_used: int | None = None
    kv_blocks_free: int | None = None


def read(stats: Mapping[str, Any]) -> EngineStatistics:
    """The numbers of one object, whose keys are those of the engine's C++ types."""
    cache = stats.get("kvCacheStats")
    cache = cache if isinstance(cache, Mapping) else {}
    return EngineStatistics(
        queued=_count(stats.get("numQueuedRequests")),
        kv_blocks_used=_count(cache.get("usedNumBlocks")),
        kv_blocks_free=_count(cache.get("freeNumBlocks")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
