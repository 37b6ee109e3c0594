"""A compiled TensorRT-LLM engine, through the library's own API. Nothing of it is imported before `start`.

backend.py    the seam: start, generate, stats, close
preflight.py  whether it can be served here, found out before anything is loaded
library.py    the installed library: its version, its parts, what it can do
options.py    what it can do beyond sampling, and what is refused
loading.py    the constructor's arguments, and what can go wrong in it
sampling.py   a request in the words of TensorRT-LLM
bias.py       logit bias as tensors
guided.py     grammars, read before they are sent
engine.py     the loaded engine: requests in, library errors turned into ours
call.py       one request inside the engine, followed to its very end
cursor.py     what is new in an output that is cumulative
readings.py   the engine's own statistics
off_loop.py   blocking work in a thread
"""

from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend

__all__ = ["TensorRtLlmBackend"]
