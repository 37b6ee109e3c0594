"""Exact sizes of weights and KV cache, the pool, and the requests that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.facts.formats import FORMATS
from engines.facts.gpus import GIB, GPUS, KIB, MIB, find_gpu
from engines.facts.models import LLAMA_3_1_8B, CheckpointQuantization
from engines.planning import memory
from engines.planning.memory import Limits, Memory

LIMITS = Limits(max_batch_size=256, max_seq_len=8192, max_num_tokens=8192)


def test_llama_has_8_030_261_248_parameters() -> None:
    """Two matrices of 525,336,576, and 32 layers of 218,103,808, and norms."""
    assert LLAMA_3_1_8B.parameters == 8_030_261_248
    assert LLAMA_3_1_8B.embedding_parameters == 525_336_576
    assert sum(LLAMA_3_1_8B.linears.values()) == 218_103_808
    assert LLAMA_3_1_8B.linear_parameters == 6_979_321_856
    assert LLAMA_3_1_8B.small_parameters == 65 * 4096


@pytest.mark.parametrize(
    ("form", "gigabytes", "gibibytes", "exactly"),
    [
        ("bf16", "16.06", "14.96", 16_060_522_496),
        ("fp8", "9.08", "8.46", 9_081_200_640),
        ("int4-awq", "5.70", "5.31", 5_700_591_616),
        ("nvfp4", "6.03", "5.61", 6_027_747_328),
    ],
)
def test_weights_to_the_digit(form: str, gigabytes: str, gibibytes: str, exactly: int) -> None:
    """Quantised matrices with their scales; embedding, output and norms in 16 bits."""
    size = memory.weight_bytes(LLAMA_3_1_8B, FORMATS[form])

    assert size == exactly
    assert (f"{size / 1e9:.2f}", f"{size / GIB:.2f}") == (gigabytes, gibibytes)


@pytest.mark.parametrize(
    ("kv_cache", "kibibytes", "per_gibibyte", "block_mebibytes"),
    [("bf16", 128, 8192, 4), ("fp8", 64, 16_384, 2), ("int8", 64, 16_384, 2)],
)
def test_kv_cache_to_the_digit(
    kv_cache: str, kibibytes: int, per_gibibyte: int, block_mebibytes: int
) -> None:
    """65,536 elements a token, in two bytes or one; 32 tokens a block."""
    size = memory.kv_bytes_per_token(LLAMA_3_1_8B, kv_cache)

    assert size == kibibytes * KIB
    assert GIB // size == per_gibibyte
    assert 32 * size == block_mebibytes * MIB


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_gpus_share_matrices_and_kv_heads(tp: int) -> None:
    """Matrices are split evenly; embedding and norms are complete on each GPU."""
    whole = 2 * (525_336_576 + 65 * 4096)

    assert memory.weight_bytes(LLAMA_3_1_8B, FORMATS["bf16"], tp) == (16_060_522_496 - whole) // tp + whole
    assert memory.kv_bytes_per_token(LLAMA_3_1_8B, "fp8", tp) == 64 * KIB // tp


def test_modules_that_stay_in_16_bits_count_with_16_bits() -> None:
    """A checkpoint that leaves a layer and all down projections in 16 bits is larger by exactly these."""
    own = CheckpointQuantization("modelopt FP8", "fp8", "fp8", ("lm_head", "model.layers.0", "*.down_proj"))
    partly = replace(LLAMA_3_1_8B, quantization=own)
    down = 4096 * 14_336

    assert partly.excluded_parameters == 218_103_808 + 31 * down
    assert memory.weight_bytes(partly, FORMATS["fp8"]) == 9_081_200_640 + partly.excluded_parameters


def test_layer_1_is_not_layer_10() -> None:
    """A name matches the module and its children, not every name with this prefix."""
    own = CheckpointQuantization("modelopt FP8", "fp8", "fp8", ("model.layers.1",))

    assert replace(LLAMA_3_1_8B, quantization=own).excluded_parameters == 218_103_808


@pytest.mark.parametrize("gpu", ["a100-40", "l40s", "h200", "b300"])
@pytest.mark.parametrize("fraction", [0.5, 0.9, 1.0])
def test_the_parts_add_up_to_the_memory(gpu: str, fraction: float) -> None:
    """Weights, workspace, pool and rest are the GPU's memory; the pool is its fraction of the free memory."""
    made = memory.divide(
        LLAMA_3_1_8B, FORMATS["bf16"], "bf16", find_gpu(gpu), limits=LIMITS, tp=1, fraction=fraction
    )

    assert (
        made.weights + made.workspace + made.kv_pool + made.left == made.total == find_gpu(gpu).usable_bytes
    )
    assert made.kv_pool == int((made.total - made.weights - made.workspace) * fraction)
    assert made.blocks == made.kv_pool // (4 * MIB)


def test_the_workspace_grows_with_the_limits() -> None:
    """It is a few GiB for common limits, and each limit adds to it."""
    size = memory.workspace_bytes(LLAMA_3_1_8B, LIMITS)

    assert 2 * GIB < size < 5 * GIB
    for more in ({"max_batch_size": 512}, {"max_seq_len": 16_384}, {"max_num_tokens": 16_384}):
        assert memory.workspace_bytes(LLAMA_3_1_8B, replace(LIMITS, **more)) > size


@pytest.mark.parametrize(
    ("tokens", "requests"),
    [(1, 100), (32, 100), (33, 50), (64, 50), (320, 10), (3168, 1), (3200, 1), (3201, 0)],
)
def test_requests_take_whole_blocks_of_their_full_length(tokens: int, requests: int) -> None:
    """Nothing is admitted that could run out of blocks later."""
    pool = Memory(total=0, weights=0, workspace=0, kv_pool=100 * 32 * 64 + 7, left=0, kv_bytes_per_token=64)

    assert (pool.blocks, pool.tokens) == (100, 3200)
    assert pool.requests(tokens) == requests


def test_without_free_memory_the_pool_is_empty() -> None:
    """If the weights alone are too large, the number of blocks is 0, not negative."""
    made = memory.divide(
        LLAMA_3_1_8B,
        FORMATS["bf16"],
        "bf16",
        replace(GPUS[0], usable_bytes=GIB),
        limits=LIMITS,
        tp=1,
        fraction=0.9,
    )

    assert made.kv_pool < 0
    assert (made.blocks, made.tokens, made.requests(1)) == (0, 0, 0)
