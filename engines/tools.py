"""What the tools of TensorRT-LLM 1.2.1 accept, name by name; recipes use nothing else.

Each table maps a name to the values it takes; an empty tuple: a number, a path, another free text, or no
value at all.
"""

from __future__ import annotations

from collections.abc import Mapping

Names = Mapping[str, tuple[str, ...]]

_ANY: tuple[str, ...] = ()
_ON_OFF = ("enable", "disable")


def _free(names: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(names.split(), _ANY)


CONVERT_SCRIPT = "models/core/llama/convert_checkpoint.py"
"""Under the examples of the source tree."""
CONVERT: Names = {
    **_free(
        "--model_dir --meta_ckpt_dir --tp_size --pp_size --cp_size --use_weight_only "
        "--disable_weight_only_quant_plugin --smoothquant --per_channel --per_token --per_group --group_size "
        "--int8_kv_cache --fp8_kv_cache --use_fp8 --use_nvfp4 --use_fp8_rowwise "
        "--use_meta_fp8_rowwise_recipe --use_qserve --quant_ckpt_path --calib_dataset --calib_size "
        "--calib_max_seq_length --load_by_shard "
        "--load_model_on_cpu --use_parallel_embedding --embedding_sharding_dim --save_config_only --workers "
        "--output_dir"
    ),
    "--dtype": ("auto", "float16", "bfloat16", "float32"),
    "--weight_only_precision": ("int8", "int4", "int8_gptq", "int4_gptq", "int4_awq"),
}

QUANTIZE_SCRIPT = "quantization/quantize.py"
"""Under the examples of the source tree."""
QUANTIZE: Names = {
    **_free(
        "--model_dir --dtype --calib_dataset --calib_size --calib_max_seq_length --batch_size "
        "--awq_block_size --tp_size --pp_size --cp_size --quantize_lm_head --autoq_format "
        "--auto_quantize_bits --output_dir"
    ),
    "--qformat": ("full_prec", "fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo"),
    "--kv_cache_dtype": ("fp8", "int8"),
    "--device": ("cuda", "cpu"),
    "--device_map": ("auto", "sequential", "cpu", "gpu"),
    "--export_format": ("tensorrt_llm", "hf"),
}

BUILD_PROGRAM = "trtllm-build"
BUILD: Names = {
    **_free(
        "--checkpoint_dir --output_dir --max_batch_size --max_input_len --max_seq_len --max_num_tokens "
        "--opt_num_tokens --max_beam_width --workers --input_timing_cache --output_timing_cache "
        "--profiling_verbosity --strip_plan --weight_streaming --weight_sparsity --fast_build "
        "--gather_context_logits --gather_generation_logits --lora_dir --max_lora_rank --max_draft_len "
        "--build_config --dry_run --monitor_memory --log_level --tokens_per_block --fp8_rowwise_gemm_plugin "
        "--lora_plugin --nccl_plugin --gemm_allreduce_plugin --fuse_fp4_quant --pp_reduce_scatter"
    ),
    "--speculative_decoding_mode": (
        "draft_tokens_external",
        "lookahead_decoding",
        "medusa",
        "explicit_draft_tokens",
        "eagle",
    ),
    "--kv_cache_type": ("continuous", "paged", "disabled"),
    "--logits_dtype": ("float16", "float32"),
    "--gpt_attention_plugin": ("disable", "auto", "float16", "bfloat16"),
    "--gemm_plugin": ("disable", "auto", "float16", "bfloat16", "fp8", "nvfp4"),
    "--gemm_swiglu_plugin": ("disable", "fp8"),
    "--low_latency_gemm_plugin": ("disable", "fp8"),
    "--low_latency_gemm_swiglu_plugin": ("disable", "fp8"),
    "--context_fmha": _ON_OFF,
    "--remove_input_padding": _ON_OFF,
    "--use_paged_context_fmha": _ON_OFF,
    "--use_fp8_context_fmha": _ON_OFF,
    "--multiple_profiles": _ON_OFF,
    "--reduce_fusion": _ON_OFF,
    "--user_buffer": _ON_OFF,
    "--norm_quant_fusion": _ON_OFF,
    "--use_fused_mlp": _ON_OFF,
}

LLM_ARGUMENTS: Names = _free(
    "model tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code tensor_parallel_size dtype "
    "revision tokenizer_revision build_config quant_config calib_config kv_cache_config workspace "
    "enable_build_cache fast_build embedding_parallel_mode enable_tqdm load_format pipeline_parallel_size "
    "max_batch_size max_num_tokens max_seq_len max_beam_width max_input_len"
)
BUILD_CONFIG: Names = _free(
    "max_input_len max_seq_len opt_batch_size max_batch_size max_beam_width max_num_tokens opt_num_tokens "
    "max_prompt_embedding_table_size kv_cache_type input_timing_cache lora_config max_encoder_input_len "
    "gather_context_logits gather_generation_logits strongly_typed force_num_profiles profiling_verbosity "
    "max_draft_len speculative_decoding_mode use_refit use_strip_plan weight_sparsity weight_streaming "
    "output_timing_cache plugin_config dry_run visualize_network monitor_memory enable_debug_output use_mrope"
)
PLUGIN_CONFIG: Names = _free(
    "gemm_plugin gemm_swiglu_plugin low_latency_gemm_plugin low_latency_gemm_swiglu_plugin "
    "gemm_allreduce_plugin nccl_plugin use_paged_context_fmha use_fp8_context_fmha tokens_per_block "
    "multiple_profiles reduce_fusion user_buffer use_fused_mlp norm_quant_fusion lora_plugin dora_plugin "
    "context_fmha remove_input_padding paged_state streamingllm manage_weights"
)
QUANT_CONFIG: Names = _free(
    "quant_algo kv_cache_quant_algo group_size smoothquant_val clamp_val use_meta_recipe has_zero_point "
    "pre_quant_scale exclude_modules mamba_ssm_cache_dtype"
)
KV_CACHE_CONFIG: Names = _free(
    "enable_block_reuse max_tokens max_attention_window sink_token_length free_gpu_memory_fraction "
    "host_cache_size onboard_blocks cross_kv_cache_fraction secondary_offload_min_priority "
    "event_buffer_max_size attention_dp_events_gather_period_ms enable_partial_reuse copy_on_partial_reuse "
    "use_uvm tokens_per_block"
)
CALIB_CONFIG: Names = {
    **_free(
        "calib_dataset calib_batches calib_batch_size calib_max_seq_length random_seed "
        "tokenizer_max_seq_length"
    ),
    "device": ("cuda", "cpu"),
}

MODELOPT_FLOW = frozenset({"W4A16_AWQ", "FP8", "W8A8_SQ_PER_CHANNEL", "W4A8_AWQ", "NVFP4"})
"""What the Python LLM API quantises itself, through modelopt."""
