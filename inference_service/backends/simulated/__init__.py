"""The simulated backend: needs no model, and has deterministic text, a settable speed and scripted faults.

It ships with the package so that callers can test their retries, cancellation and parsing against
the real servers. The answer to a prompt is `[digest] ` followed by the prompt's own text, so every
stream proves which prompt it belongs to; `ignore_eos` repeats the text for as long as asked. Without
greedy decoding the digest depends on the seed as well.

An answer can be scripted by a directive anywhere in the prompt's text: `@say<<{"city": "Paris"}>>` answers
with exactly what stands between the brackets, which therefore cannot hold `>>`. Of several the last one
counts, so each turn of a conversation can script its own.

Options of a request:

- a bias of -100 leaves the token out; with one of 100 the answer is that token again and again, or all
  such tokens in turn; others change nothing
- log probabilities are made up: each token has probability 1/2, and the ids after it 1/4, 1/8, ...
- under a grammar the answer is the shortest text that the grammar generates, or the scripted one if the
  grammar generates that; a bias changes nothing

Faults come from the settings, for every request, or from a directive anywhere in the prompt's text,
for that request: `@sim(fail_at=5)`. Known ones, N counted in tokens from 0:

- `fail_at=N`    the request fails in the engine before token N
- `stall_at=N`   no token from N on, and no error
- `die_at=N`     the whole engine dies before token N
- `ignore_cancel` an aborted request keeps its slot for another second
- `crash_at_start` the engine cannot be loaded (settings only)

backend.py   the interface of the backend, and the faults
answer.py    the answer to a request, also under a grammar, and made-up log probabilities
"""

from inference_service.backends.simulated.answer import digest
from inference_service.backends.simulated.backend import SimulatedBackend

__all__ = ["SimulatedBackend", "digest"]
