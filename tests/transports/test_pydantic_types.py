"""Pydantic types as `response_format` of OpenAI's SDK: accepted, answered, parsed and validated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import ValidationError

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from tests.inference_service.constraints.derivation import Sampler
from tests.rest_bridge.running import running_bridge
from tests.support.service import MODEL_ID, running_service
from tests.transports.pydantic_types import MODELS, NOT_ALWAYS_VALID, REFUSED

_TEXTS = 12
"""The number of random answers for each type."""
USABLE = [name for name in MODELS if name not in {*REFUSED, *NOT_ALWAYS_VALID}]


@asynccontextmanager
async def _serving(backend: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        running_service(backend=backend) as service,
        running_bridge(service.address) as bridge,
        openai.AsyncOpenAI(
            base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0, timeout=60
        ) as client,
    ):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated() -> AsyncIterator[openai.AsyncOpenAI]:
    async with _serving("simulated") as client:
        yield client


async def _parsed(client: openai.AsyncOpenAI, model: type[Any], text: str, **more: Any) -> Any:
    reply = await client.chat.completions.parse(
        model=MODEL_ID,
        messages=[{"role": "user", "content": text}],
        response_format=model,
        **{"seed": 7, "max_tokens": 1024, **more},
    )
    return reply.choices[0].message.parsed


def _random_texts(model: type[Any]) -> Iterator[str]:
    """Random answers that the grammar of the SDK's schema allows, for the script of the simulated engine."""
    response_format: Any = type_to_response_format_param(model)
    grammar = compile_constraint(
        ConstraintKind.JSON_SCHEMA, json.dumps(response_format["json_schema"]["schema"])
    )
    texts = (Sampler(grammar, seed).sentence() for seed in range(_TEXTS))
    yield from (text for text in texts if ">>" not in text)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", USABLE)
async def test_a_type_is_parsed(simulated: openai.AsyncOpenAI, name: str) -> None:
    """Parse the shortest answer and random ones."""
    model = MODELS[name]

    assert isinstance(await _parsed(simulated, model, "Go!"), model)
    for text in _random_texts(model):
        assert isinstance(await _parsed(simulated, model, f"@say<<{text}>>"), model), text


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", REFUSED)
async def test_types_that_no_grammar_describes_are_refused(simulated: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be enforced") as caught:
        await _parsed(simulated, MODELS[name], "Go!")

    assert (caught.value.param or "").startswith("response_format.json_schema.schema")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", NOT_ALWAYS_VALID)
async def test_a_type_may_be_stricter_than_its_schema(simulated: openai.AsyncOpenAI, name: str) -> None:
    """The answer follows the schema, but pydantic refuses some of its values."""
    model = MODELS[name]
    for prompt in chain(["Go!"], (f"@say<<{text}>>" for text in _random_texts(model))):
        try:
            await _parsed(simulated, model, prompt)
        except ValidationError:
            return
    pytest.fail("every answer is valid: the type is usable")


def test_the_matrix_of_types_has_its_size() -> None:
    assert len(MODELS) >= 75
    assert {*REFUSED, *NOT_ALWAYS_VALID} <= MODELS.keys()
