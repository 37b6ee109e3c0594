"""The names of TensorRT-LLM that our code relies on, derived from that code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engines.facts import toolchain as tools
from engines.facts.engine_directory import BuildLimits, EngineConfig, Plugins, Quantization, Shape, Split
from engines.facts.formats import FORMATS
from inference_service.backends.tensorrt_llm import engine, library
from inference_service.backends.tensorrt_llm import library as options
from inference_service.backends.tensorrt_llm.engine import Completion, Output
from inference_service.backends.tensorrt_llm.sampling import GuidedDecoding, sampling_fields
from inference_service.backends.types import EngineRequest, Sampling
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import Literal

Assumed = dict[str, dict[str, str]]
"""Part of the library → name in it → the module that relies on it."""

_METHODS = ("generate_async", "get_stats", "save", "shutdown")


def relied_on() -> Assumed:
    """The names that our code uses: without one of them something does not work."""
    loads, cache = _loading()
    return {
        "LLM": dict.fromkeys(_METHODS, "engine.py, recipe.py"),
        "LLM.generate_async": dict.fromkeys(library.NEEDED_ARGUMENTS, "library.py"),
        "LLM.get_stats": {"timeout": "engine.py"},
        "TrtLlmArgs": dict.fromkeys(loads, "engine.py"),
        "KvCacheConfig": dict.fromkeys(cache, "engine.py"),
        "SamplingParams": {
            **dict.fromkeys(library.OPTIONAL_FIELDS, "library.py: refused by name where it is missing"),
            **dict.fromkeys({*options.FIELDS, options.LOGPROBS_SWITCH}, "options.py: likewise"),
            **dict.fromkeys(library.NEEDED_FIELDS, "library.py"),
            **dict.fromkeys(set(_sampling()) - library.OPTIONAL_FIELDS, "sampling.py"),
        },
        "GuidedDecodingParams": dict.fromkeys(_guide(), "guided.py: likewise"),
        "RequestOutput": dict.fromkeys(_protocol(Output), "engine.py"),
        "CompletionOutput": dict.fromkeys(_protocol(Completion), "engine.py"),
        "QuantAlgo": dict.fromkeys(sorted(_algorithms()), "formats.py"),
    }


def listed() -> Assumed:
    """The names that build recipes may use. Each must exist, but most are used only for some plans."""
    tables = {
        "TrtLlmArgs": tools.LLM_ARGUMENTS,
        "BuildConfig": tools.BUILD_CONFIG,
        "PluginConfig": tools.PLUGIN_CONFIG,
        "QuantConfig": tools.QUANT_CONFIG,
        "CalibConfig": tools.CALIB_CONFIG,
        "KvCacheConfig": tools.KV_CACHE_CONFIG,
    }
    return {part: dict.fromkeys(names, "engines/facts/toolchain.py") for part, names in tables.items()}


def _loading() -> tuple[list[str], list[str]]:
    """The keywords of the constructor, and of KvCacheConfig."""
    cache: list[str] = []
    nothing: Any = None
    everything = options.Options(guided=GuidedDecoding(nothing, nothing))
    installed = library.Library("", nothing, nothing, _noting(cache), frozenset(), everything)
    return list(engine.arguments(Path("engine"), _CONFIG, installed)), cache


def _guide() -> list[str]:
    """The keywords of GuidedDecodingParams."""
    names: list[str] = []
    GuidedDecoding(_noting(names), lambda text: text).params(Grammar({"root": Literal("a")}))
    return names


def _noting(names: list[str]) -> Callable[..., None]:
    """Return a function that records the keywords of its calls."""

    def note(**given: object) -> None:
        names.extend(given)

    return note


def _sampling() -> list[str]:
    known = library.NEEDED_FIELDS | library.OPTIONAL_FIELDS
    return list(sampling_fields(_REQUEST, frozenset({2}), known))


def _protocol(kind: Any) -> list[str]:
    own = {name for name in vars(kind) if not name.startswith("_") or name == "__aiter__"}
    return sorted(own | set(kind.__annotations__))


def _algorithms() -> Iterable[str]:
    return {form.algo for form in FORMATS.values() if form.algo} | tools.MODELOPT_FLOW


_CONFIG = EngineConfig(
    version="1.2.1",
    shape=Shape(
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_size=8,
        intermediate_size=8,
        max_position_embeddings=8,
    ),
    split=Split(world_size=1, tp_size=1, pp_size=1, cp_size=1),
    quantization=Quantization(quant_algo=None, kv_cache_quant_algo=None),
    limits=BuildLimits(
        max_batch_size=1,
        max_num_tokens=8,
        max_seq_len=8,
        max_input_len=8,
        max_beam_width=1,
        kv_cache_type="PAGED",
        gather_context_logits=False,
        gather_generation_logits=False,
    ),
    plugins=Plugins(
        use_paged_context_fmha=True,
        tokens_per_block=32,
        use_fp8_context_fmha=False,
        context_fmha=True,
        remove_input_padding=True,
        streamingllm=False,
        manage_weights=False,
    ),
)
_SAMPLING = Sampling(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    seed=1,
    reproducible=False,
)
_REQUEST = EngineRequest("assumptions", [1], _SAMPLING, 1, ignore_eos=False)
