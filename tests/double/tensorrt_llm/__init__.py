"""A double of TensorRT-LLM 1.2.1's compiled-engine API, for tests: its names and semantics, and no GPU.

Put `tests/double` on the import path and it is `import tensorrt_llm`, with as much of `torch` and `xgrammar`
beside it as serving takes. The content of its answers is invented (see `answers.py`). Its behaviour is the
known behaviour of the library:

- a result is an iterator over itself, changed in place; its token ids are cumulative and can shrink
- an abort is a message: the request goes on until a final response, `cancelled`, arrives
- a request that failed raises from `__anext__`; iterating it again waits for ever
- a prompt that is too long fails through the iterator where prompts are chunked, and at once where not
- common prefixes of prompts are reused, but `cached_tokens` is always 0
- the call for statistics blocks; the async call blocks its event loop
- a dead engine never answers waiting requests, and refuses new ones with "LLM is shutting down"
- results wake one event loop only, and their queues have no bound
- log probabilities are cumulative too, and keep the one of a stop word that was removed from the ids
- a grammar that cannot be parsed, or a bias of the wrong size, fails all active requests
- unset sampling fields are greedy, seed 0, 32 tokens

Anything outside the documented API raises, so that no test passes on a guess.

llm.py               the class behind `tensorrt_llm._tensorrt_engine.LLM`
loading.py           from its arguments to a running engine
arguments.py         what its constructor accepts
sampling_params.py   what a request accepts
builder.py           BuildConfig, engine directories and their config.json
executor/            the running engine: a worker thread, queues, results
answers.py           the answers of the engine
script.py            speeds and faults, out of the engine's own file and out of prompts
"""

from .flashinfer import find_workspace
from .sampling_params import SamplingParams

find_workspace()

__version__ = "1.2.1"

__all__ = ["SamplingParams", "__version__"]
