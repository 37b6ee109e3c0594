"""The arguments of the constructor, and their validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .builder import BuildConfig, CalibConfig, QuantConfig
from .configs import ExtendedRuntimePerfKnobConfig, KvCacheConfig, SchedulerConfig

_TORCH_ONLY = frozenset(
    {
        "stream_interval",
        "enable_iter_perf_stats",
        "enable_iter_req_stats",
        "print_iter_log",
        "cuda_graph_config",
        "sampler_type",
        "max_stats_len",
        "disable_overlap_scheduler",
        "attn_backend",
        "batch_wait_timeout_ms",
        "batch_wait_timeout_iters",
        "batch_wait_max_tokens_ratio",
    }
)

_NOT_SIMULATED = frozenset(
    {
        "pipeline_parallel_size",
        "context_parallel_size",
        "gpus_per_node",
        "batched_logits_processor",
        "normalize_log_probs",
        "num_postprocess_workers",
        "postprocess_tokenizer_dir",
        "peft_cache_config",
        "enable_lora",
        "lora_config",
        "speculative_config",
        "cache_transceiver_config",
        "return_perf_metrics",
        "iter_stats_max_iterations",
        "request_stats_max_iterations",
        "fail_fast_on_attention_window_too_large",
        "otlp_traces_endpoint",
        "orchestrator_type",
        "env_overrides",
        "embedding_parallel_mode",
    }
)


@dataclass(slots=True, kw_only=True)
class TrtLlmArgs:
    """The known arguments with their defaults."""

    model: str
    tokenizer: Any = None
    tokenizer_mode: str = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    max_batch_size: int = 2048
    max_num_tokens: int = 8192
    max_seq_len: int | None = None
    max_beam_width: int = 1
    max_input_len: int = 1024
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    scheduler_config: SchedulerConfig = field(default_factory=SchedulerConfig)
    batching_type: str | None = None
    enable_chunked_prefill: bool = False
    guided_decoding_backend: str | None = None
    gather_generation_logits: bool = False
    extended_runtime_perf_knob_config: ExtendedRuntimePerfKnobConfig | None = None
    build_config: BuildConfig | None = None
    quant_config: QuantConfig | None = None
    calib_config: CalibConfig | None = None
    workspace: str | None = None
    enable_build_cache: bool = False
    fast_build: bool = False
    enable_tqdm: bool = False
    load_format: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{name}: {value!r} is no {kind.__name__}")
        assert self.kv_cache_config.dtype == "auto"
        if self.guided_decoding_backend not in (None, "xgrammar"):
            raise ValueError(f"guided_decoding_backend {self.guided_decoding_backend!r} is not supported")
        if self.guided_decoding_backend and self.skip_tokenizer_init:
            raise ValueError("guided decoding needs a tokenizer")


_KINDS: dict[str, type] = {
    "kv_cache_config": KvCacheConfig,
    "scheduler_config": SchedulerConfig,
    "build_config": BuildConfig,
    "quant_config": QuantConfig,
    "calib_config": CalibConfig,
    "max_batch_size": int,
    "max_num_tokens": int,
    "max_seq_len": int,
    "max_beam_width": int,
    "max_input_len": int,
    "enable_chunked_prefill": bool,
}


def parse_arguments(**given: Any) -> TrtLlmArgs:
    """Check the names, then the values.

    Raises:
        ValueError: a name is unknown or of the other backend, or a value is wrong.
        NotImplementedError: the double does not simulate it.

    """
    for name in given:
        if name in _TORCH_ONLY or name not in {*TrtLlmArgs.__dataclass_fields__, *_NOT_SIMULATED}:
            raise ValueError(f"TrtLlmArgs got invalid argument: {name}")
        if name in _NOT_SIMULATED:
            raise NotImplementedError(f"the double does not simulate {name}")
    return TrtLlmArgs(**given)
