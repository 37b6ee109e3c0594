"""What an engine directory says of itself, in the config.json that every build writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_service.backends.errors import BackendStartError

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The facts of an engine that decide how it is loaded. Limits are those of the finished build."""

    version: str
    """Of the TensorRT-LLM that built it."""
    ranks: int
    """GPUs that it needs, one file for each."""
    parallel_sizes: tuple[int, int, int]
    """Tensor, pipeline and context parallelism."""
    vocabulary_size: int
    max_batch_size: int
    """Requests that run at once."""
    max_num_tokens: int
    """Tokens of one engine step, over all requests."""
    max_seq_len: int
    """Tokens of one request, prompt and output together."""
    max_input_len: int
    max_beam_width: int
    paged_context_fmha: bool
    """Built so that prompts can be computed in chunks and KV blocks be used again."""
    kv_cache_type: str
    max_draft_len: int
    """More than 0 in engines that were built for speculative decoding."""

    @property
    def context_length(self) -> int:
        """Most tokens of one request. Where prompts cannot be chunked, they must fit one engine step."""
        if self.paged_context_fmha:
            return self.max_seq_len
        return min(self.max_seq_len, self.max_num_tokens)


def read_engine_config(directory: Path) -> EngineConfig:
    """Read an engine directory's config.json.

    Raises:
        BackendStartError: there is none, it is of something else, or a field is missing or malformed.

    """
    fields = _Fields(_read_json(directory), directory)
    return EngineConfig(
        version=fields.text("version"),
        ranks=fields.integer("pretrained_config.mapping.world_size"),
        parallel_sizes=(
            fields.integer("pretrained_config.mapping.tp_size"),
            fields.integer("pretrained_config.mapping.pp_size"),
            fields.integer("pretrained_config.mapping.cp_size", default=1),
        ),
        vocabulary_size=fields.integer("pretrained_config.vocab_size"),
        max_batch_size=fields.integer("build_config.max_batch_size"),
        max_num_tokens=fields.integer("build_config.max_num_tokens"),
        max_seq_len=fields.integer("build_config.max_seq_len"),
        max_input_len=fields.integer("build_config.max_input_len"),
        max_beam_width=fields.integer("build_config.max_beam_width"),
        paged_context_fmha=fields.flag("build_config.plugin_config.use_paged_context_fmha"),
        kv_cache_type=fields.text("build_config.kv_cache_type"),
        max_draft_len=fields.integer("build_config.max_draft_len", low=0, default=0),
    )


class _Fields:
    """Values by their dotted path."""

    def __init__(self, config: Mapping[str, Any], directory: Path) -> None:
        self._config = config
        self._directory = directory

    def integer(self, path: str, *, low: int = 1, default: int | None = None) -> int:
        value = self._find(path)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < low:
            raise self._wrong(path, value, f"a whole number of {low} or more")
        return value

    def text(self, path: str) -> str:
        value = self._find(path)
        if not isinstance(value, str):
            raise self._wrong(path, value, "a text")
        return value

    def flag(self, path: str) -> bool:
        value = self._find(path)
        if not isinstance(value, bool):
            raise self._wrong(path, value, "true or false")
        return value

    def _find(self, path: str) -> Any:
        value: Any = self._config
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _wrong(self, path: str, value: object, wanted: str) -> BackendStartError:
        found = "nothing" if value is None else repr(value)[:80]
        return BackendStartError(
            f"{self._directory / CONFIG_FILE}: {path}: found {found}, wanted {wanted}; build the engine again"
        )


def _read_json(directory: Path) -> Mapping[str, Any]:
    path = directory / CONFIG_FILE
    advice = "give --engine the directory that an engine build wrote"
    if not directory.is_dir():
        raise BackendStartError(f"there is no directory {directory}: {advice}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackendStartError(f"{directory} holds no engine, it has no {CONFIG_FILE}: {advice}") from None
    except OSError as error:
        raise BackendStartError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BackendStartError(
            f"{path} is no valid JSON ({error}): copy or build the engine again"
        ) from None
    if not isinstance(config, dict) or not {"pretrained_config", "build_config"} <= config.keys():
        raise BackendStartError(f"{directory} holds {_kind(config)}, not a built engine: {advice}")
    return config


def _kind(config: object) -> str:
    """What a config.json belongs to that is no engine's, by the rule of TensorRT-LLM itself."""
    if isinstance(config, dict) and {"architecture", "dtype"} <= config.keys():
        return "a TensorRT-LLM checkpoint"
    return "a model"
