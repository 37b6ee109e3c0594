"""Computes where the memory of a GPU goes: weights, workspace, KV cache; and how many requests fit.

All figures are bytes of one GPU. Weights and KV cache are exact arithmetic; the workspace is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.facts.formats import KV_BYTES, WeightFormat
from engines.facts.gpus import GIB, Gpu
from engines.facts.models import ModelConfig

BLOCK_TOKENS = 32
"""Tokens of a KV block: `tokens_per_block` of the build."""
_16_BITS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that an engine is built for."""

    max_batch_size: int
    """Requests that run at once."""
    max_seq_len: int
    """Tokens of one request, prompt and answer together."""
    max_num_tokens: int
    """Tokens that one step works on, over all requests."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One GPU's memory, in bytes. `weights`, `workspace`, `kv_pool` and `left` add up to `total`."""

    total: int
    weights: int
    workspace: int
    kv_pool: int
    left: int
    """Free memory that the runtime does not use."""
    kv_bytes_per_token: int

    @property
    def block_bytes(self) -> int:
        return BLOCK_TOKENS * self.kv_bytes_per_token

    @property
    def blocks(self) -> int:
        """KV blocks in the pool."""
        return max(self.kv_pool // self.block_bytes, 0)

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values the pool holds."""
        return self.blocks * BLOCK_TOKENS

    def requests(self, tokens: int) -> int:
        """How many requests of `tokens`, prompt and longest answer, are admitted together.

        GUARANTEED_NO_EVICT, the default policy, admits a request only if its full length fits.
        """
        return self.blocks // -(-tokens // BLOCK_TOKENS)


def divide(
    model: ModelConfig,
    form: WeightFormat,
    kv_cache: str,
    gpu: Gpu,
    *,
    limits: Limits,
    tp: int,
    fraction: float,
) -> Memory:
    """Divide the memory of one of `tp` GPUs; `fraction` of what is free after loading becomes the KV pool.

    Returns:
        A division whose `kv_pool` is 0 or negative where weights and workspace alone do not fit.

    """
    weights = weight_bytes(model, form, tp)
    workspace = workspace_bytes(model, limits, tp)
    free = gpu.usable_bytes - weights - workspace
    pool = int(free * fraction)
    per_token = kv_bytes_per_token(model, kv_cache, tp)
    return Memory(gpu.usable_bytes, weights, workspace, pool, free - pool, per_token)


def weight_bytes(model: ModelConfig, form: WeightFormat, tp: int = 1) -> int:
    """Weights on one of `tp` GPUs.

    Quantisation concerns the layers' matrices; embedding, output matrix and norms stay in 16 bits. Matrices
    are split over the GPUs; embedding and norms are counted whole on each, as an engine has them unless it
    is built with parallel embedding.
    """
    plain = model.excluded_parameters if form.is_quantized else 0
    matrices = form.bytes_of(model.linear_parameters - plain) + plain * _16_BITS
    output = model.embedding_parameters * _16_BITS
    whole = (model.embedding_parameters + model.small_parameters) * _16_BITS
    return (matrices + output) // tp + whole


def kv_bytes_per_token(model: ModelConfig, kv_cache: str, tp: int = 1) -> int:
    """Keys and values of one token, over all layers, on one of `tp` GPUs: each keeps some of the heads."""
    return 2 * model.layers * (model.kv_heads // tp) * model.head_size * KV_BYTES[kv_cache]


def workspace_bytes(model: ModelConfig, limits: Limits, tp: int = 1) -> int:
    """What an engine takes beside weights and KV cache. **An estimate**, on the careful side.

    Three parts: 1 GiB for the CUDA context, kernels and bookkeeping; activations, which grow with
    max_num_tokens (TensorRT shares one layer's memory among all layers); logits and the buffers that
    sampling works in, which grow with max_batch_size x vocabulary. The factors are chosen so that the sums
    lie near what public logs of the C++ runtime show as "execution context memory", "runtime buffers" and
    "decoder"; the first start of a real engine prints the truth.
    """
    activations = (
        _16_BITS * limits.max_num_tokens * (8 * model.hidden_size + 4 * model.intermediate_size // tp)
    )
    sampling = 6 * 4 * limits.max_batch_size * model.vocab_size
    sequences = 3 * 4 * limits.max_batch_size * limits.max_seq_len
    return GIB + activations + sampling + sequences
