"""The tools of TensorRT-LLM 1.2.1: the arguments they accept, and the failures they are known for.

Recipes use no other arguments. Each table maps a name to the values it takes; an empty tuple: a number, a
path, another free text, or no value at all.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

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


_IMAGE = "NVIDIA's release image of TensorRT-LLM 1.2.1"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why, and what to try; without full stops, so that they fit into a sentence."""

    why: str
    advice: str


# The first that matches is taken: the cause stands before what follows from it.
_KNOWN_FAILURES = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        ("free space beside the output, checkpoint and engine take about twice the weights; or choose "
        "another --output"),
    ),
    (
        (r"libmpi\S*: cannot open shared object|cannot load MPI library|No module named 'mpi4py'"
        r"|mpirun: (command )?not found|ORTE was unable"),
        "MPI is missing, which TensorRT-LLM needs even for one GPU",
        f"`apt-get install libopenmpi-dev`, or build in {_IMAGE}",
    ),
    (
        r"libpython\S*: cannot open shared object",
        "this Python has no shared library, which TensorRT-LLM loads",
        f"a Python with libpython on the loader's path, or build in {_IMAGE}",
    ),
    (
        r"No module named 'tensorrt_llm'|tensorrt_llm: (command )?not found",
        "TensorRT-LLM is not installed for this Python",
        f"build in {_IMAGE}, or install tensorrt_llm==1.2.1",
    ),
    (
        (r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver initialization failed"
        r"|no CUDA-capable device|libcuda\.so\S*: cannot open shared object"),
        "there is no GPU that CUDA can use",
        "a machine with the planned GPU; in a container `--gpus all`; see that nvidia-smi works",
    ),
    (
        r"CUDA driver version is insufficient|forward compatibility was attempted",
        "the driver is too old for this CUDA",
        "a newer driver, or the cuda-compat package of CUDA 13.1",
    ),
    (
        (r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|cudaErrorMemoryAllocation"
        r"|Cuda Runtime \(out of memory\)|CUDA Runtime API.*out of memory"),
        "the GPU ran out of memory",
        ("end what else runs on the GPU; a smaller --max-batch-size, --max-num-tokens or --max-seq-len; a "
        "checkpoint that is quantised already; or more GPUs with --tp"),
    ),
    (
        r"KeyError: 'type'|`rope_scaling` must be a dictionary with two fields",
        "the rope_scaling of Llama 3.1 is not understood: transformers is too old",
        f"transformers==4.57.3, as TensorRT-LLM 1.2.1 wants it, or build in {_IMAGE}",
    ),
    (
        (r"cannot import name .* from 'transformers|No module named 'transformers|module 'transformers"
        r"|AttributeError: .*transformers"),
        "the wrong version of transformers is installed",
        f"transformers==4.57.3, as TensorRT-LLM 1.2.1 wants it, or build in {_IMAGE}",
    ),
    (
        r"can't open file .*(convert_checkpoint|quantize)\.py",
        "the scripts of TensorRT-LLM's examples are not there",
        "--examples DIR, the directory `examples` of the source tree of TensorRT-LLM 1.2.1",
    ),
    (
        (r"Couldn't reach|LocalEntryNotFoundError|ConnectionError|Max retries exceeded|DatasetNotFoundError"
        r"|OfflineModeIsEnabled"),
        "the data set for calibration cannot be fetched",
        ("--calib-dataset DIR, a local directory with a split `train` and a column `text`; or a checkpoint "
        "that is quantised already"),
    ),
    (
        r"KeyError: '(article|text)'|Column '?(article|text)'? (not in|doesn't exist)",
        "the calibration data has another column than is read",
        ("--calib-dataset DIR with a split `train` and a column `text`; a path with cnn_dailymail in it is "
        "read as that set, with its column `article`"),
    ),
    (
        r"not supported on SM|NotImplementedError.*SM ?\d+|unsupported architecture",
        "the builder does not support this format on this GPU",
        "another --quantization; `lodestream engine plan` recommends one",
    ),
)  # fmt: skip


def diagnose(log: str, status: int) -> Diagnosis:
    """Find out why a program failed.

    Args:
        log: what it printed, or the end of that.
        status: its exit status; negative: the signal that ended it.

    """
    for pattern, why, advice in _KNOWN_FAILURES:
        if re.search(pattern, log):
            return Diagnosis(why, advice)
    if status == -signal.SIGKILL:
        return Diagnosis(
            "it was killed, most likely as the machine ran out of memory",
            "more memory; for a container a higher limit; --tp splits the work over processes",
        )
    if status < 0:
        return Diagnosis(f"it was ended by signal {-status}", "the last lines of its log tell more")
    return Diagnosis(
        _last_error_line(log) or f"exit status {status}", "the log has more; run again to resume"
    )


def _last_error_line(log: str) -> str:
    """The last line that names an error, as tracebacks do near their end; else the last that is not empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:200].rstrip(".")
