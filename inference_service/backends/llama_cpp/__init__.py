"""llama.cpp in this process, through xllamacpp: its server loop with continuous batching, without its door.

backend.py   the seam: start, generate, stats, close
loading.py   the engine's settings, its closed door, what can go wrong while it loads
gate.py      who may enter the engine, and when
call.py      one request inside the engine: a worker thread, a buffer, the steps
steps.py     what the engine reports, merged into steps
sampling.py  a request in the words of llama.cpp
"""

from inference_service.backends.llama_cpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
