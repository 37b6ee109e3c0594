"""The llama.cpp backend: runs llama.cpp in this process through xllamacpp, with in-flight batching.

It uses xllamacpp's server loop without its HTTP port.

backend.py   the interface of the backend: start, generate, stats, close
loading.py   the engine's settings, and errors while it loads
request.py   one request inside the engine: its thread, waking the event loop, and the order of prefills
steps.py     merges what the engine reports into steps, and finds the ids and log probabilities that it omits
sampling.py  a request in llama.cpp's parameters
grammar.py   checks grammars with llguidance
"""

from inference_service.backends.llama_cpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
