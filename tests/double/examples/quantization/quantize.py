"""A double of TensorRT-LLM's script of this name."""

from __future__ import annotations

import sys
from importlib import import_module

from engines.facts import toolchain as tools

_ALGOS = {
    "full_prec": None,
    "fp8": "FP8",
    "nvfp4": "NVFP4",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
}


def main() -> None:
    double = import_module("build_tools")
    double.begin("quantize")
    flags = double.parse(tools.QUANTIZE, sys.argv[1:])
    # TensorRT-LLM requests an INT8 cache by a quantizer that modelopt 0.37 ignores: the cache stays in 16
    # bits.
    cache = {"fp8": "FP8"}.get(flags.get("--kv_cache_dtype", ""))
    double.write_checkpoint(flags, _ALGOS[flags["--qformat"]], cache, logits_dtype="float16")
    double.end("quantize")


if __name__ == "__main__":
    main()
