"""llama.cpp's own tokenizer, as a reference."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import xllamacpp


class LlamaCpp:
    """A model in llama.cpp, called through the loopback port that the library opens."""

    def __init__(self, path: Path) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 256
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = 1
        parameters.warmup = False
        parameters.fit_params = False
        parameters.cache_ram_mib = 0
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        body = {"content": text, "parse_special": parse_special, "add_special": add_special}
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            tokens: list[int] = json.load(reply)["tokens"]
        return tokens
