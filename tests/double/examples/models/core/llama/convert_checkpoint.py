"""Stands in for TensorRT-LLM's script of that name."""

from __future__ import annotations

import sys
from importlib import import_module

from engines import tools


def main() -> None:
    double = import_module("build_tools")
    double.begin("convert")
    flags = double.parse(tools.CONVERT, sys.argv[1:])
    algo = next((name for flag, name in _ALGOS.items() if flag in flags), None)
    if "--use_weight_only" in flags:
        algo = {"int8": "W8A16", "int4": "W4A16"}[flags["--weight_only_precision"]]
    cache = next((name for flag, name in _CACHES.items() if flag in flags), None)
    double.write_checkpoint(flags, algo, cache)
    double.end("convert")


_ALGOS = {"--use_fp8_rowwise": "FP8_PER_CHANNEL_PER_TOKEN", "--use_nvfp4": "NVFP4", "--use_fp8": "FP8"}
_CACHES = {"--fp8_kv_cache": "FP8", "--int8_kv_cache": "INT8"}

if __name__ == "__main__":
    main()
