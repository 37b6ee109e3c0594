"""A double of TensorRT-LLM's script of this name."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from engines.facts import toolchain as tools


def main() -> None:
    double = import_module("build_tools")
    double.begin("convert")
    flags = double.parse(tools.CONVERT, sys.argv[1:])
    algo = next((name for flag, name in _ALGOS.items() if flag in flags), None)
    if "--use_weight_only" in flags:
        algo = {"int8": "W8A16", "int4": "W4A16"}[flags["--weight_only_precision"]]
    method = _own_method(Path(flags["--model_dir"]))
    if method is not None:
        algo = _METHODS[method]
    cache = next((name for flag, name in _CACHES.items() if flag in flags), None)
    double.write_checkpoint(flags, algo, cache, logits_dtype="float32")
    double.end("convert")


def _own_method(model: Path) -> str | None:
    """The quantization method that a Hugging Face checkpoint names; modelopt checkpoints use other flags."""
    config = json.loads((model / "config.json").read_text())
    method = config.get("quantization_config", {}).get("quant_method")
    return method if method in _METHODS else None


# An AWQ checkpoint is converted to the format of GPTQ.
_METHODS = {"awq": "W4A16_GPTQ", "gptq": "W4A16_GPTQ", "fbgemm_fp8": "FP8_PER_CHANNEL_PER_TOKEN"}
_ALGOS = {"--use_fp8_rowwise": "FP8_PER_CHANNEL_PER_TOKEN", "--use_nvfp4": "NVFP4", "--use_fp8": "FP8"}
_CACHES = {"--fp8_kv_cache": "FP8", "--int8_kv_cache": "INT8"}

if __name__ == "__main__":
    main()
