"""The TensorRT-LLM backend: serves a compiled engine through the library's own API.

Nothing of the library is imported before `start`.

backend.py   the interface of the backend: start, generate, stats, close
library.py   the installed library: its version, its parts, and what a request may ask for
sampling.py  a request in TensorRT-LLM's parameters: sampling, logit bias, guided decoding
engine.py    checks and loads an engine directory; the loaded engine, which takes requests and converts errors
request.py   one request inside the engine, and what is new in its cumulative output
"""

from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend

__all__ = ["TensorRtLlmBackend"]
