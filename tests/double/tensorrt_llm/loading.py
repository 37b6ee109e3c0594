"""Starts a running engine from the constructor's arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .arguments import TrtLlmArgs
from .builder import BuildConfig, QuantConfig, build_engine, get_engine_version
from .configs import QuantAlgo
from .executor.executor import Executor
from .executor.kv_cache import KvCache
from .script import Script, read_script
from .tokenizer import Tokenizer


def engine_directory(args: TrtLlmArgs, workspace: Path) -> Path:
    """The model itself if it is an engine, else an engine that is built from it.

    Raises:
        OSError: there is no config.json.

    """
    directory = Path(args.model)
    config = json.loads((directory / "config.json").read_text())
    if {"pretrained_config", "build_config"} <= config.keys():
        return directory
    if {"architecture", "dtype"} <= config.keys():
        raise NotImplementedError("the double builds Hugging Face checkpoints only")
    quant, own = args.quant_config, _own_quantization(directory, config)
    if quant is not None and quant.kv_cache_quant_algo is QuantAlgo.INT8:
        # modelopt 0.37 ignores it, as in quantize.py.
        quant = quant.model_copy(update={"kv_cache_quant_algo": None})
    build_engine(
        workspace / "engine",
        config,
        args.build_config or BuildConfig(),
        quant or own,
        tp_size=args.tensor_parallel_size,
        logits_dtype="float16" if quant is not None and quant.quant_algo else "float32",
    )
    return workspace / "engine"


def _own_quantization(directory: Path, config: dict[str, Any]) -> QuantConfig:
    """The quantization of a checkpoint by ModelOpt, which is in a file of its own.

    Raises:
        NotImplementedError: config.json has a quantization.

    """
    if "quantization_config" in config and not (directory / "hf_quant_config.json").is_file():
        raise NotImplementedError(f"Unsupported quantization_config: {config['quantization_config']}.")
    file = directory / "hf_quant_config.json"
    own = json.loads(file.read_text())["quantization"] if file.is_file() else {}
    return QuantConfig(**own)


def load_executor(args: TrtLlmArgs, directory: Path, tokenizer: Tokenizer) -> Executor:
    """Load an engine.

    Raises:
        RuntimeError: it is of another version, or the arguments ask for more than it was built for.
        OSError: a rank is missing.

    """
    config = json.loads((directory / "config.json").read_text())
    script = _read_ranks(args, directory, config["pretrained_config"]["mapping"]["world_size"])
    build = config["build_config"]
    if directory == Path(args.model):
        _check_limits(args, build)
    plugins = build["plugin_config"]
    reuse = args.kv_cache_config.enable_block_reuse
    if not plugins["use_paged_context_fmha"] and (reuse or args.enable_chunked_prefill):
        raise RuntimeError("KV reuse and chunked context need paged context FMHA")
    return Executor(
        script,
        tokenizer,
        KvCache(script.kv_blocks, plugins["tokens_per_block"], reuse=reuse),
        max_batch_size=min(args.max_batch_size, build["max_batch_size"]),
        max_num_tokens=2**31 if args.enable_chunked_prefill else build["max_num_tokens"],
        max_seq_len=build["max_seq_len"],
    )


def _read_ranks(args: TrtLlmArgs, directory: Path, world_size: int) -> Script:
    from . import __version__

    version = get_engine_version(str(directory))
    if version != __version__:
        raise RuntimeError(f"the engine was built by {version}, this is {__version__}")
    if args.tensor_parallel_size not in (1, world_size):
        raise ValueError(f"tensor_parallel_size {args.tensor_parallel_size} is not {world_size}")
    scripts = [read_script(directory / f"rank{rank}.engine") for rank in range(world_size)]
    if scripts[0].refuse_to_load:
        raise RuntimeError(scripts[0].refuse_to_load)
    return scripts[0]


def _check_limits(args: TrtLlmArgs, build: dict[str, Any]) -> None:
    """Two arguments may be below the engine's limits, and three must equal them."""
    for name in ("max_batch_size", "max_num_tokens"):
        if getattr(args, name) > build[name]:
            raise RuntimeError(f"{name} {getattr(args, name)} must not exceed {build[name]}")
    for name in ("max_seq_len", "max_input_len", "max_beam_width"):
        if getattr(args, name) != build[name]:
            raise RuntimeError(f"{name} {getattr(args, name)} is not the engine's {build[name]}")
