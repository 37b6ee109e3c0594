"""Each cell of the page of parameters, asked of the real servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from inference_client import InvalidRequestError
from inference_service.backends.tensorrt_llm import library
from inference_service.backends.tensorrt_llm.library import Options
from rest_bridge.errors import rest_name
from rest_bridge.openai.convert import own_names
from tests.support.parameters.derive import (
    CHAT,
    COMPLETIONS,
    HONOURED,
    NO_EFFECT,
    REFUSED,
    Endpoint,
    plain_path,
)
from tests.support.parameters.engines import LLAMA_CPP, NAMES, SIMULATED, TENSORRT_LLM, Engines, load_engines
from tests.support.parameters.page import rows
from tests.support.parameters.sample import ALIAS, Body, Sample
from tests.support.service import MODEL_ID
from tests.support.transports import Transports, running_transports
from tests.transports.conftest import ServeEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _path(endpoint: Endpoint) -> str:
    return endpoint.path


_ALIASES = {"alias": {ALIAS: MODEL_ID}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines() -> Engines:
    return await load_engines()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def transports(request: pytest.FixtureRequest, serve_engine: ServeEngine) -> AsyncIterator[Transports]:
    settings: dict[str, dict[str, Any]] = {
        LLAMA_CPP: {"backend": LLAMA_CPP, "threads": 1},
        SIMULATED: {"backend": SIMULATED},
        TENSORRT_LLM: serve_engine(),
    }
    async with running_transports(**settings[request.param], **_ALIASES) as transports:
        yield transports


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare(serve_engine: ServeEngine) -> AsyncIterator[Transports]:
    """Transports to a library in which nothing is found but what serving needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "OPTIONAL_FIELDS", frozenset())
        patch.setattr(library, "find_options", lambda *_: Options())
        async with running_transports(**serve_engine(), **_ALIASES) as transports:
            yield transports


async def test_engines_declare_what_the_page_was_made_from(transports: Transports, engines: Engines) -> None:
    """What is written down for TensorRT-LLM without starting it is what it says once started."""
    served = transports.service.loaded.model.engine
    declared = engines.at_best[served.name].engine

    assert (served.refused, served.ceilings) == (declared.refused, declared.ceilings)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_cells_are_true(endpoint: Endpoint, transports: Transports, engines: Engines) -> None:
    """Refused by name, or accepted and named, or accepted and not named."""
    name = transports.service.loaded.model.engine.name
    cells = [(row.sample, row.outcomes[name].kind) for row in rows(engines, endpoint)]

    assert await _wrong(transports, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_the_footnote_is_true(endpoint: Endpoint, bare: Transports, engines: Engines) -> None:
    """Where the library has nothing more than it must have, what depends on more is refused, and no more."""
    outcomes = [(row.sample, row.outcomes[TENSORRT_LLM]) for row in rows(engines, endpoint)]
    cells = [(sample, REFUSED if outcome.depends else outcome.kind) for sample, outcome in outcomes]

    assert any(outcome.depends for _, outcome in outcomes)
    assert await _wrong(bare, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_grpc_refuses_the_same(endpoint: Endpoint, bare: Transports, engines: Engines) -> None:
    """What the service refuses from the bridge, it refuses from anybody else."""
    refused = [row for row in rows(engines, endpoint) if row.outcomes[TENSORRT_LLM].depends]
    for row in refused:
        for body in row.sample.requests:
            with pytest.raises(InvalidRequestError) as caught:
                await bare.client.generate_request(endpoint.convert(endpoint.parse(body)))
            assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_streams_name_the_same(endpoint: Endpoint, transports: Transports, engines: Engines) -> None:
    """In their headers, which leave with the first output."""
    cells = [
        (_streamed(row.sample), NO_EFFECT)
        for row in rows(engines, endpoint)
        if row.outcomes[SIMULATED].kind == NO_EFFECT and not row.sample.path.startswith("stream")
    ]

    assert cells
    assert await _wrong(transports, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_grpc_names_the_same(endpoint: Endpoint, transports: Transports, engines: Engines) -> None:
    """In its report, as far as it has a field for it."""
    for row in rows(engines, endpoint):
        if row.grpc and row.outcomes[SIMULATED].kind == NO_EFFECT:
            for body in row.sample.requests:
                message = endpoint.convert(endpoint.parse(body))
                report = (await transports.client.generate_request(message)).report
                own = own_names(endpoint.parse(body))
                named = (rest_name(path, own) for path in report.ignored_parameters)
                assert row.sample.path in map(plain_path, named)


def _streamed(sample: Sample) -> Sample:
    return replace(sample, beside={**sample.beside, "stream": True})


async def _wrong(
    transports: Transports, endpoint: Endpoint, cells: Iterable[tuple[Sample, str]]
) -> list[str]:
    """What the cells say otherwise than the servers."""
    asked = [(sample, kind, body) for sample, kind in cells for body in sample.requests]
    found = await asyncio.gather(
        *(_kind(transports, endpoint, body, sample.path) for sample, _, body in asked)
    )
    return [
        f"{sample.path} {sample.when}: {kind}, but {actual}"
        for (sample, kind, _), actual in zip(asked, found, strict=True)
        if kind != actual
    ]


async def _kind(transports: Transports, endpoint: Endpoint, body: Body, path: str) -> str:
    """What became of the parameter."""
    reply = await transports.http.post(endpoint.path, json=endpoint.least(body))
    if reply.status_code != 200:
        error = reply.json()["error"]
        refused = (reply.status_code, error["code"]) == (400, "unsupported_parameter")
        return REFUSED if refused and _is_of(error["param"], body) else str(error)
    named = reply.headers.get("x-ignored-parameters", "").split(",")
    return NO_EFFECT if path in map(plain_path, named) else HONOURED


def _is_of(param: str, body: Body) -> bool:
    """Whether an error names what was added to the least request."""
    return re.split(r"[.[]", param)[0] in body
