"""Finds the log probabilities that the engine does not report.

The engine reports those of the token that completes a character, but not those of the tokens before it. For
each of these tokens a request of one token computes them again, with the shared beginning from the KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from inference_service.backends.base import Steps
from inference_service.backends.llama_cpp.steps import TextEncoder
from inference_service.backends.types import EngineRequest, EngineStep, Sampling, TokenLogprob

FEW = 64
"""Likeliest tokens that are asked for first: a sampled one is nearly always among them."""

_EXCLUSIVELY = 10_000.0
_GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    seed=0,
    reproducible=False,
)

Generate = Callable[[EngineRequest], Steps]


class Lookup:
    """Fills in what the steps of one request lack.

    Args:
        generate: runs the requests that look; they wait for a free slot like any other.
        alternatives: how many likeliest tokens go with each.

    """

    def __init__(
        self, generate: Generate, encoder: TextEncoder, request: EngineRequest, alternatives: int
    ) -> None:
        self._generate = generate
        self._request_id = request.request_id
        self._before = list(request.prompt_ids)
        """All tokens before the one that is looked at."""
        self._alternatives = alternatives
        # Any token that is text by itself: the engine holds another one back, with its log probabilities.
        self._shown_id = encoder.encode_text("a")[-1]
        self._vocabulary_size = encoder.vocabulary_size

    async def complete(self, step: EngineStep) -> EngineStep:
        """The step with every log probability.

        Raises:
            BackendError: the engine failed.

        """
        logprobs = list(step.logprobs)
        for index, told in enumerate(logprobs):
            if math.isnan(told.logprob):
                logprobs[index] = await self._look(told.token_id)
            self._before.append(told.token_id)
        return replace(step, logprobs=logprobs)

    async def _look(self, token_id: int) -> TokenLogprob:
        top = await self._likeliest(max(FEW, self._alternatives))
        found = dict(top).get(token_id)
        if found is None:
            found = dict(await self._likeliest(self._vocabulary_size))[token_id]
        return TokenLogprob(token_id, found, top[: self._alternatives])

    async def _likeliest(self, count: int) -> Sequence[tuple[int, float]]:
        wanted = EngineRequest(
            self._request_id,
            tuple(self._before),
            _GREEDY,
            max_tokens=1,
            ignore_eos=True,
            logit_bias={self._shown_id: _EXCLUSIVELY},
            logprobs=count,
        )
        async with aclosing(self._generate(wanted)) as steps:
            told = [found async for step in steps for found in step.logprobs]
        return told[0].top
