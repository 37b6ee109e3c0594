"""The TensorRT-LLM backend: serves a compiled engine through the library's own API.

Nothing of the library is imported before `start`.

backend.py   the interface of the backend: start, generate, stats, close
library.py   the installed library: its version, its parts, and what a request may ask for
loading.py   loads an engine directory, after checks that need no import of the library
sampling.py  a request in TensorRT-LLM's parameters: sampling, logit bias, guided decoding
engine.py    the loaded engine: takes requests, converts library errors to the service's
request.py   one request inside the engine, and what is new in its cumulative output
off_loop.py  runs blocking work in a thread
"""

from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend

__all__ = ["TensorRtLlmBackend"]
