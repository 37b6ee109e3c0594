"""llama.cpp in this process, through xllamacpp: its server loop with continuous batching, without its door.

backend.py   the seam: start, generate, stats, close
loading.py   the engine's settings, its closed door, what can go wrong while it loads
gate.py      who may enter the engine, and when
call.py      one request inside the engine: a worker thread, a buffer, the steps
chunks.py    what the engine reports, parsed
steps.py     what it reported, merged into steps
spelling.py  the ids of characters that span tokens
lookup.py    log probabilities that the engine kept to itself
sampling.py  a request in the words of llama.cpp
grammar.py   grammars that would end the process or hold it up
ambiguity.py ways to read the same text by a grammar
"""

from inference_service.backends.llama_cpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
