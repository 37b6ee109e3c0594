"""Settings of the gRPC service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lodestream_common.config import AddressText, CommonConfig
from lodestream_common.parameters import PARAMETERS


def cache_home() -> Path:
    """The directory of downloaded models (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lodestream"


class ServiceConfig(CommonConfig):
    """All settings of `lodestream serve`."""

    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of authorities (mTLS): clients must present a certificate that one of them "
        "issued. Needs --tls-certificate.",
    )
    engine: Path | None = Field(
        default=None,
        description="Directory of a compiled TensorRT-LLM engine with its tokenizer; takes the place of "
        "--model.",
    )
    backend: Literal["llama_cpp", "tensorrt_llm", "simulated"] = Field(
        default="llama_cpp",
        description="What generates: llama_cpp runs a GGUF model on this machine; tensorrt_llm, implied by "
        "--engine, runs a compiled engine on GPUs; simulated answers with made-up, deterministic text at a "
        "set speed, to test callers with.",
    )
    model: str | None = Field(
        default=None,
        description="A model of the catalog (see `lodestream model list`), a path to a GGUF file of "
        "architecture llama or qwen2, or hf://owner/repo/file.gguf; unset: qwen2.5-coder-0.5b-instruct, or "
        "smollm2-135m-instruct where the other cannot be fetched, and for the simulated backend.",
    )
    alias: dict[str, str] = Field(
        default_factory=dict,
        description="Another name for the served model, as NAME=ID; may be given more than once.",
    )
    cache_dir: Path = Field(default_factory=cache_home, description="Where fetched models are kept.")
    context_length: int | None = Field(
        default=None,
        ge=64,
        le=1_048_576,
        description="Most tokens of one request, prompt and output together; unset: the engine's own, or the "
        "model's, at most 8192, and less where memory is short.",
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Generations that run at once; more wait in the queue; unset: as many as the engine was "
        "built for, or 2 (the simulated one: 4).",
    )
    queue_limit: int = Field(
        default=256,
        ge=0,
        le=100_000,
        description="Requests of each priority that may wait; one more is refused at once. Each key takes at "
        "most half of what the others leave free.",
    )
    default_max_tokens: int = Field(
        default=int(PARAMETERS["max_tokens"].default or 0),
        ge=1,
        le=1_048_576,
        description="max_tokens of a request that sets none, reduced to what fits into the context; "
        "at most --max-tokens-limit.",
    )
    max_tokens_limit: int = Field(
        default=int(PARAMETERS["max_tokens"].high),
        ge=1,
        le=1_048_576,
        description="Most tokens that a request may ask for with max_tokens; prompt and answer together have "
        "to fit the context in any case.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of the llama_cpp engine; 0: one for each core that this process may use, by its "
        "cpuset and CPU quota.",
    )
    frontends: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that answer gRPC on one port. With 2 or more they do everything but the "
        "engine, which has a process of its own; 1: one process does all.",
    )
    prefill_chunk: int = Field(
        default=8,
        ge=1,
        le=4096,
        description="Tokens of prompt the llama_cpp engine computes per step. Smaller frees a cancelled "
        "request's slot sooner, larger reads long prompts faster.",
    )
    max_message_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest request message, in bytes.",
    )
    requests_per_minute: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Requests a minute for each key that has no limit of its own; 0: no limit.",
    )
    limits_url: str | None = Field(
        default=None,
        pattern=r"^(redis|rediss)://\S+$",
        description="Redis or Valkey in which all replicas count the requests and tokens of keys, as "
        "redis://host:6379/0; needs the extra `redis`; unset: each replica counts for itself.",
    )
    content_filter_file: Path | None = Field(
        default=None,
        description="File of rules that block or redact phrases and patterns in prompts and output, TOML or "
        ".json; followed as it changes; unset: nothing is filtered.",
    )
    metrics_address: AddressText | None = Field(
        default=None,
        description="host:port where /metrics is served over HTTP for Prometheus; unset: nowhere. No key is "
        "needed there, so keep it within your network.",
    )
    metrics_keys: bool = Field(
        default=False, description="Requests and tokens also carry the name of their API key as a label."
    )
    metrics_gateway_names: bool = Field(
        default=False,
        description="Queue length and KV cache use also under the names of vLLM, which the inference gateway "
        "of Kubernetes reads.",
    )
    smg_worker: bool = Field(
        default=False,
        description="Speak the worker protocol of the gateway smg, too, on the same address (docs/smg.md); "
        "needs the extra `smg`.",
    )
    receipts_url: str | None = Field(
        default=None,
        description="Where the usage receipts of all requests are kept: a path of a SQLite file, "
        "sqlite:///path, postgresql://..., or off; unset: receipts.db in the state directory, if it can be "
        "written.",
    )
    receipts_days: int = Field(
        default=90, ge=0, le=36_500, description="Days for which receipts are kept; 0: without end."
    )
    simulated_prefill_tps: float = Field(
        default=0.0, ge=0, le=1e9, description="Prompt tokens a second of the simulated engine; 0: no delay."
    )
    simulated_decode_tps: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Tokens a second and request of the simulated engine; 0: no delay.",
    )
    simulated_token_cost_us: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Microseconds of CPU that the simulated engine burns in the service's process for each "
        "token, as an engine library's own Python does.",
    )
    simulated_fault: str = Field(
        default="",
        description="A fault for every request of the simulated engine: fail_at=N, stall_at=N, die_at=N, "
        "ignore_cancel, or crash_at_start; several are joined by commas.",
    )

    @model_validator(mode="before")
    @classmethod
    def _imply_backend(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("engine") is not None:
            return {"backend": "tensorrt_llm", **given}
        return given

    @model_validator(mode="after")
    def _check_tokens(self) -> ServiceConfig:
        # An unset default follows a lower limit; only an explicit value can contradict it.
        if "default_max_tokens" in self.model_fields_set and self.default_max_tokens > self.max_tokens_limit:
            raise PydanticCustomError(
                "max_tokens",
                "default_max_tokens: {default} is above max_tokens_limit, which is {limit}",
                {"default": self.default_max_tokens, "limit": self.max_tokens_limit},
            )
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> ServiceConfig:
        if self.engine is None and self.backend == "tensorrt_llm":
            raise PydanticCustomError("engine", "backend: tensorrt_llm needs an engine; see --engine")
        if self.engine is not None and self.backend == "llama_cpp":
            raise PydanticCustomError("engine", "backend: llama_cpp cannot run an engine; see --model")
        return self
