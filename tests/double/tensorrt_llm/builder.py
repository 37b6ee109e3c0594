"""Build settings with the documented fields and defaults, and the files of a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from .configs import QuantAlgo, StrictModel

_FP8_LIKE = frozenset({QuantAlgo.FP8, QuantAlgo.W4A8_AWQ, QuantAlgo.NVFP4})


class PluginConfig(StrictModel):
    gpt_attention_plugin: str | None = "auto"
    gemm_plugin: str | None = None
    gemm_swiglu_plugin: str | None = None
    fp8_rowwise_gemm_plugin: str | None = None
    low_latency_gemm_plugin: str | None = None
    low_latency_gemm_swiglu_plugin: str | None = None
    gemm_allreduce_plugin: str | None = None
    nccl_plugin: str | None = "auto"
    lora_plugin: str | None = None
    dora_plugin: bool = False
    use_paged_context_fmha: bool = True
    use_fp8_context_fmha: bool = True
    context_fmha: bool = True
    bert_context_fmha_fp32_acc: bool = False
    remove_input_padding: bool = True
    paged_state: bool = True
    tokens_per_block: int = 32
    multiple_profiles: bool = False
    reduce_fusion: bool = False
    user_buffer: bool = False
    use_fused_mlp: bool = True
    norm_quant_fusion: bool = False
    fuse_fp4_quant: bool = False
    pp_reduce_scatter: bool = False
    streamingllm: bool = False
    manage_weights: bool = False


class BuildConfig(StrictModel):
    max_input_len: int = 1024
    max_seq_len: int | None = None
    opt_batch_size: int = 8
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192
    opt_num_tokens: int | None = None
    max_prompt_embedding_table_size: int = 0
    kv_cache_type: str | None = None
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    strongly_typed: bool = True
    force_num_profiles: int | None = None
    profiling_verbosity: str = "layer_names_only"
    max_draft_len: int = 0
    speculative_decoding_mode: str = "NONE"
    use_refit: bool = False
    use_strip_plan: bool = False
    weight_sparsity: bool = False
    weight_streaming: bool = False
    input_timing_cache: str | None = None
    output_timing_cache: str = "model.cache"
    max_encoder_input_len: int = 1024
    dry_run: bool = False
    visualize_network: str | None = None
    monitor_memory: bool = False
    enable_debug_output: bool = False
    use_mrope: bool = False
    lora_config: dict[str, Any] = Field(default_factory=dict)
    plugin_config: PluginConfig = Field(default_factory=PluginConfig)

    def adjusted(self, quant: QuantConfig, positions: int, world_size: int) -> BuildConfig:
        """The settings that the builder really uses; the library only logs the changes."""
        result = self.model_copy(deep=True)
        plugins = result.plugin_config
        if plugins.multiple_profiles and self.opt_num_tokens is not None:
            raise ValueError("multiple_profiles and opt_num_tokens do not go together")
        result.max_seq_len = self.max_seq_len or positions
        result.max_input_len = min(self.max_input_len, result.max_seq_len)
        result.opt_num_tokens = self.opt_num_tokens or self.max_batch_size * self.max_beam_width
        result.kv_cache_type = self.kv_cache_type or "PAGED"
        plugins.use_fp8_context_fmha &= quant.quant_algo in _FP8_LIKE
        if quant.kv_cache_quant_algo is QuantAlgo.INT8:
            plugins.use_paged_context_fmha = False
        if quant.kv_cache_quant_algo is QuantAlgo.FP8 and not plugins.use_fp8_context_fmha:
            plugins.use_paged_context_fmha = False
        if world_size == 1:
            plugins.nccl_plugin = None
            plugins.reduce_fusion = False
        return result


class QuantConfig(StrictModel):
    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: QuantAlgo | None = None
    group_size: int = 128
    smoothquant_val: float = 0.5
    clamp_val: list[float] | None = None
    use_meta_recipe: bool = False
    has_zero_point: bool = False
    pre_quant_scale: bool = False
    exclude_modules: list[str] | None = None
    mamba_ssm_cache_dtype: str | None = None


class CalibConfig(StrictModel):
    device: str = "cuda"
    calib_dataset: str = "cnn_dailymail"
    calib_batches: int = 512
    calib_batch_size: int = 1
    calib_max_seq_length: int = 512
    random_seed: int = 1234
    tokenizer_max_seq_length: int = 2048


LLAMA_3_1_8B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}
"""The names of the shape in a checkpoint's own config.json."""


def build_engine(
    directory: Path,
    model: dict[str, Any],
    build_config: BuildConfig,
    quant: QuantConfig,
    *,
    tp_size: int = 1,
    logits_dtype: str = "float32",
    script: dict[str, Any] | None = None,
) -> None:
    """Write the output of a build: config.json and one engine file per rank, which holds the script."""
    from . import __version__

    if model["num_key_value_heads"] % tp_size:
        raise ValueError(f"{model['num_key_value_heads']} KV heads cannot be divided by {tp_size}")
    build = build_config.adjusted(quant, model["max_position_embeddings"], tp_size)
    config = {
        "version": __version__,
        "pretrained_config": _pretrained_config(model, quant, tp_size, logits_dtype),
        "build_config": build.model_dump(mode="json", exclude={"dry_run", "visualize_network"}),
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=4))
    for rank in range(tp_size):
        (directory / f"rank{rank}.engine").write_text(json.dumps(script or {}))


def _pretrained_config(
    model: dict[str, Any], quant: QuantConfig, tp_size: int, logits_dtype: str
) -> dict[str, Any]:
    return {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "vocab_size": model["vocab_size"],
        "hidden_size": model["hidden_size"],
        "num_hidden_layers": model["num_hidden_layers"],
        "num_attention_heads": model["num_attention_heads"],
        "num_key_value_heads": model["num_key_value_heads"],
        "head_size": model["head_dim"],
        "hidden_act": "silu",
        "intermediate_size": model["intermediate_size"],
        "logits_dtype": logits_dtype,
        "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": model["max_position_embeddings"],
        "rotary_embedding_dim": model["head_dim"],
        "qk_layernorm": False,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "runtime_defaults": None,
        "mapping": {
            "world_size": tp_size,
            "gpus_per_node": 8,
            "tp_size": tp_size,
            "pp_size": 1,
            "cp_size": 1,
        },
        "quantization": quant.model_dump(mode="json"),
        "rotary_base": model["rope_theta"],
        "rotary_scaling": model["rope_scaling"],
        "mlp_bias": False,
        "attn_bias": False,
    }


def get_engine_version(engine_dir: str) -> str | None:
    """The version in an engine directory's config.json."""
    config = json.loads((Path(engine_dir) / "config.json").read_text())
    version: str | None = config.get("version")
    return version
