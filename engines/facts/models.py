"""Sizes of Llama-architecture models: the built-in Llama-3.1-8B, and checkpoint directories.

Checkpoints are Hugging Face's, plain or quantised, and TensorRT-LLM's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from engines.errors import PlanRefused

Source = Literal["built-in", "huggingface", "tensorrt-llm"]


@dataclass(frozen=True, slots=True)
class CheckpointQuantization:
    """How the weights of a checkpoint are quantised already."""

    method: str
    """Its name in the checkpoint: `modelopt FP8`, `awq`."""
    format: str
    """Our name of it: `fp8`, `int4-awq`."""
    kv_cache: str | None
    """`fp8` or `int8` where the checkpoint has scales for the KV cache; None where it has none."""
    excluded: tuple[str, ...] = ()
    """Patterns of module names (`lm_head`, `model.layers.0*`) that are left in 16 bits."""
    file: str = "config.json"
    """The file of the checkpoint that describes it: `config.json` or `hf_quant_config.json`."""

    @property
    def is_loaded_by_llm_api(self) -> bool:
        """Whether the LLM API of the compiled path loads it: it reads modelopt's own file only."""
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
    """The type of weights that are not quantised."""
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


def load_model(model: str | Path | ModelConfig) -> ModelConfig:
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
    return read_checkpoint(Path(model))


_ALGOS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8-rowwise",
    "NVFP4": "nvfp4",
    "W4A16_AWQ": "int4-awq",
    "W4A16_GPTQ": "int4-gptq",
    "W4A8_AWQ": "w4a8-awq",
    "W8A16": "int8-wo",
    "W4A16": "int4-wo",
}
"""QuantAlgo → our format; the SmoothQuant family is matched by its prefix."""

_METHODS = {"fbgemm_fp8": "fp8-rowwise", "awq": "int4-awq", "gptq": "int4-gptq"}
"""Hugging Face's quant_method → our format: those that TensorRT-LLM recognises."""

_PLANNED = 'only "LlamaForCausalLM" is planned here'
_16_BITS: dict[str, Literal["bfloat16", "float16"]] = {"float16": "float16", "half": "float16"}


def read_checkpoint(directory: Path) -> ModelConfig:
    """Read the configuration of a checkpoint; weights are not touched.

    The kinds are distinguished as in TensorRT-LLM: `pretrained_config` with `build_config` is an engine,
    `architecture` with `dtype` is TensorRT-LLM's checkpoint, everything else Hugging Face's.

    Raises:
        PlanRefused: it cannot be read, is an engine, or no Llama-architecture model; names file and key.

    """
    if not directory.is_dir():
        raise PlanRefused("model", directory, f"no such directory; {LLAMA_3_1_8B.name} needs none")
    config = _read(directory / "config.json")
    if "pretrained_config" in config and "build_config" in config:
        raise PlanRefused("model", directory, "is an engine already; give the checkpoint it is built from")
    try:
        if "architecture" in config and "dtype" in config:
            return _tensorrt_llm(directory, config)
        return _hugging_face(directory, config)
    except KeyError as error:
        raise PlanRefused(f"config.json: {error.args[0]}", "missing", f"needed in {directory}") from None


def _hugging_face(directory: Path, config: Mapping[str, Any]) -> ModelConfig:
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture != "LlamaForCausalLM":
        raise PlanRefused("config.json: architectures", architecture, _PLANNED)
    heads = _whole(config, "num_attention_heads")
    hidden = _whole(config, "hidden_size")
    return ModelConfig(
        name=directory.resolve().name,
        source="huggingface",
        path=str(directory),
        architecture=architecture,
        dtype=_16_BITS.get(str(config.get("torch_dtype") or config.get("dtype")), "bfloat16"),
        vocab_size=_whole(config, "vocab_size"),
        hidden_size=hidden,
        layers=_whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_size=_whole(config, "head_dim", hidden // heads),
        intermediate_size=_whole(config, "intermediate_size"),
        max_position_embeddings=_whole(config, "max_position_embeddings"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        quantization=_hugging_face_quantization(directory, config),
    )


def _tensorrt_llm(directory: Path, config: Mapping[str, Any]) -> ModelConfig:
    if config["architecture"] != "LlamaForCausalLM":
        raise PlanRefused("config.json: architecture", config["architecture"], _PLANNED)
    heads = _whole(config, "num_attention_heads")
    hidden = _whole(config, "hidden_size")
    return ModelConfig(
        name=directory.resolve().name,
        source="tensorrt-llm",
        path=str(directory),
        architecture=config["architecture"],
        dtype=_16_BITS.get(str(config["dtype"]), "bfloat16"),
        vocab_size=_whole(config, "vocab_size"),
        hidden_size=hidden,
        layers=_whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_size=_whole(config, "head_size", hidden // heads),
        intermediate_size=_whole(config, "intermediate_size"),
        max_position_embeddings=_whole(config, "max_position_embeddings"),
        attention_bias=bool(config.get("attn_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        quantization=_by_algo(config.get("quantization") or {}, "config.json: quantization", "TensorRT-LLM"),
        tp_size=_tp_size(config.get("mapping") or {}),
    )


def _tp_size(mapping: Mapping[str, Any]) -> int:
    tp, pp, cp = (int(mapping.get(f"{kind}_size", 1)) for kind in ("tp", "pp", "cp"))
    world = int(mapping.get("world_size", tp * pp * cp))
    if pp != 1 or cp != 1:
        raise PlanRefused(
            "config.json: mapping", f"pp_size {pp}, cp_size {cp}", "only tp_size is planned here"
        )
    if world != tp:
        raise PlanRefused(
            "config.json: mapping.world_size", world, f"is not tp_size x pp_size x cp_size = {tp}"
        )
    return tp


def _hugging_face_quantization(directory: Path, config: Mapping[str, Any]) -> CheckpointQuantization | None:
    if (directory / "hf_quant_config.json").is_file():
        modelopt = _read(directory / "hf_quant_config.json").get("quantization") or {}
        return _by_algo(modelopt, "hf_quant_config.json: quantization", "modelopt", "hf_quant_config.json")
    found = config.get("quantization_config")
    if not found:
        return None
    method = str(found.get("quant_method"))
    if method == "modelopt":
        return _by_algo(found, "config.json: quantization_config", "modelopt")
    if method not in _METHODS:
        reason = "TensorRT-LLM reads modelopt, " + ", ".join(_METHODS)
        raise PlanRefused("config.json: quantization_config.quant_method", method, reason)
    if found.get("desc_act"):
        raise PlanRefused(
            "config.json: quantization_config.desc_act", True, "TensorRT-LLM reads GPTQ without it"
        )
    if found.get("bits", 4) != 4:
        reason = "only 4-bit AWQ and GPTQ checkpoints are planned here"
        raise PlanRefused("config.json: quantization_config.bits", found["bits"], reason)
    return CheckpointQuantization(method, _METHODS[method], None, _excluded(found))


def _by_algo(
    found: Mapping[str, Any], where: str, by: str, file: str = "config.json"
) -> CheckpointQuantization | None:
    algo = found.get("quant_algo")
    kv_cache = found.get("kv_cache_quant_algo")
    if algo in (None, "NO_QUANT") and kv_cache is None:
        return None
    form = _format_of(algo)
    if form is None:
        raise PlanRefused(f"{where}.quant_algo", algo, "no format that is planned here")
    if kv_cache not in (None, "FP8", "INT8"):
        raise PlanRefused(f"{where}.kv_cache_quant_algo", kv_cache, "the compiled path takes FP8 and INT8")
    return CheckpointQuantization(
        f"{by} {algo}", form, kv_cache.lower() if kv_cache else None, _excluded(found), file
    )


def _format_of(algo: str | None) -> str | None:
    if algo in (None, "NO_QUANT"):
        return "bf16"
    return "int8-sq" if algo.startswith("W8A8_SQ_") else _ALGOS.get(algo)


def _excluded(found: Mapping[str, Any]) -> tuple[str, ...]:
    names = found.get("exclude_modules") or found.get("modules_to_not_convert") or found.get("ignore") or ()
    return tuple(map(str, names))


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number above 0."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise KeyError(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanRefused(f"config.json: {key}", repr(value), "is not a whole number above 0")
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanRefused("model", path.parent, f"no checkpoint: it has no {path.name}") from None
    except OSError as error:
        raise PlanRefused("model", path.parent, f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PlanRefused("model", path.parent, f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise PlanRefused("model", path.parent, f"{path.name} holds no JSON object")
    return document
