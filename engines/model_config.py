"""What a plan has to know about a model: the sizes of a Llama-architecture transformer.

`load` gives the built-in Llama-3.1-8B, or reads a checkpoint directory (`engines.checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

Source = Literal["built-in", "huggingface", "tensorrt-llm"]


@dataclass(frozen=True, slots=True)
class CheckpointQuantization:
    """How the weights of a checkpoint are quantised already."""

    method: str
    """As the checkpoint calls it: `modelopt FP8`, `awq`."""
    format: str
    """Our name of it: `fp8`, `int4-awq`."""
    kv_cache: str | None
    """`fp8` or `int8` where the checkpoint has scales for the KV cache; None where it has none."""
    excluded: tuple[str, ...] = ()
    """Patterns of module names (`lm_head`, `model.layers.0*`) that are left in 16 bits."""
    file: str = "config.json"
    """The checkpoint's file that says so: `config.json` or `hf_quant_config.json`."""

    @property
    def is_loaded_by_llm_api(self) -> bool:
        """Whether the LLM API of the compiled path loads it: it knows modelopt's own file only."""
        return self.file == "hf_quant_config.json"

    @property
    def is_read_by_convert(self) -> bool:
        """Whether convert_checkpoint reads it."""
        return self.method in ("fbgemm_fp8", "awq", "gptq") or self.format == "nvfp4"

    @property
    def built_algo(self) -> str | None:
        """QuantAlgo in the engine's config.json where it is another than the format's: AWQ becomes GPTQ."""
        return "W4A16_GPTQ" if self.method == "awq" else None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of a Llama-architecture model. Counts are of whole models, before any splitting."""

    name: str
    source: Source
    path: str | None
    """The checkpoint's directory; None for the built-in model."""
    architecture: str
    dtype: Literal["bfloat16", "float16"]
    """What stays unquantised is kept in this."""
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    max_position_embeddings: int
    tied_embeddings: bool = False
    """Whether the checkpoint has one matrix for embedding and output; an engine has two in any case."""
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization: CheckpointQuantization | None = None
    tp_size: int | None = None
    """Over how many GPUs a TensorRT-LLM checkpoint is split; None where nothing is split yet."""

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding; the output matrix has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def linears(self) -> dict[str, int]:
        """The matrices of one layer that quantisation concerns: module name → parameters."""
        query = self.heads * self.head_size
        key = self.kv_heads * self.head_size
        mlp = self.hidden_size * self.intermediate_size
        return {
            "self_attn.q_proj": self.hidden_size * query,
            "self_attn.k_proj": self.hidden_size * key,
            "self_attn.v_proj": self.hidden_size * key,
            "self_attn.o_proj": query * self.hidden_size,
            "mlp.gate_proj": mlp,
            "mlp.up_proj": mlp,
            "mlp.down_proj": mlp,
        }

    @property
    def linear_parameters(self) -> int:
        """Of all matrices of all layers."""
        return self.layers * sum(self.linears.values())

    @property
    def excluded_parameters(self) -> int:
        """Of those matrices that a quantised checkpoint leaves in 16 bits."""
        patterns = self.quantization.excluded if self.quantization else ()
        if not patterns:
            return 0
        return sum(
            parameters
            for layer in range(self.layers)
            for module, parameters in self.linears.items()
            if _is_excluded(f"model.layers.{layer}.{module}", patterns)
        )

    @property
    def small_parameters(self) -> int:
        """Of norms and biases."""
        norms = (2 * self.layers + 1) * self.hidden_size
        attention = (self.heads + 2 * self.kv_heads) * self.head_size + self.hidden_size
        mlp = 2 * self.intermediate_size + self.hidden_size
        return norms + self.layers * (self.attention_bias * attention + self.mlp_bias * mlp)

    @property
    def parameters(self) -> int:
        """Of the whole model, as people count them: a tied matrix once."""
        matrices = 1 if self.tied_embeddings else 2
        return matrices * self.embedding_parameters + self.linear_parameters + self.small_parameters


def _is_excluded(module: str, patterns: tuple[str, ...]) -> bool:
    # Checkpoints name a module, a parent of it, or a pattern of the shell's kind.
    return any(fnmatchcase(module, p) or f".{module}.".find(f".{p}.") >= 0 for p in patterns)


LLAMA_3_1_8B = ModelConfig(
    name="llama-3.1-8b",
    source="built-in",
    path=None,
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    vocab_size=128_256,
    hidden_size=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_size=128,
    intermediate_size=14_336,
    max_position_embeddings=131_072,
)


def load(model: str | Path | ModelConfig) -> ModelConfig:
    """Find a model.

    Args:
        model: `llama-3.1-8b`, or a checkpoint's directory: Hugging Face's format, quantised or not, or
            TensorRT-LLM's. A configuration is given back as it is.

    Raises:
        PlanRefused: there is no such checkpoint, or it is not one that these plans cover.

    """
    if isinstance(model, ModelConfig):
        return model
    if str(model).lower() == LLAMA_3_1_8B.name:
        return LLAMA_3_1_8B
    from engines.checkpoint import read_checkpoint

    return read_checkpoint(Path(model))
