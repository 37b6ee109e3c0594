"""A double of TensorRT-LLM 1.2.1's compiled-engine API, for tests: its names and semantics, and no GPU.

Put `tests/double` on the import path and it is `import tensorrt_llm`, with as much of `torch` and `xgrammar`
beside it as serving takes. What its engine answers is made up
(see `answers.py`); how it answers is what the library is known to do:

- a result is an iterator over itself, changed in place; its token ids are cumulative and can shrink
- an abort is a message: the request goes on until a final response, `cancelled`, arrives
- a request that failed raises from `__anext__` and, iterated again, never comes back
- a prompt that is too long fails through the iterator where prompts are chunked, and at once where not
- what prompts have in common is reused, and `cached_tokens` is 0 all the same
- statistics come by a blocking call; the async one blocks its event loop
- a dead engine says nothing to those that wait, and "LLM is shutting down" to those that call
- results wake one event loop only, and their queues have no bound
- log probabilities are cumulative too, and keep that of a stop word that was taken out of the ids
- a grammar that cannot be read, and a bias of another size, fail all requests that are active
- unset sampling fields are greedy, seed 0, 32 tokens

Anything outside the documented surface raises, so that nothing is passed on a guess.

llm.py               the class behind `tensorrt_llm._tensorrt_engine.LLM`
loading.py           from its arguments to a running engine
arguments.py         what its constructor accepts
sampling_params.py   what a request accepts
builder.py           BuildConfig, engine directories and their config.json
executor/            the running engine: a worker thread, queues, results
answers.py           what the engine says
script.py            speeds and faults, out of the engine's own file and out of prompts
"""

from .flashinfer import find_workspace
from .sampling_params import SamplingParams

find_workspace()

__version__ = "1.2.1"

__all__ = ["SamplingParams", "__version__"]
