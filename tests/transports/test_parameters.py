"""Checks each cell of the page of parameters on the real servers."""

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
    """Transports with a library that has only what serving needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "OPTIONAL_FIELDS", frozenset())
        patch.setattr(library, "find_options", lambda *_: Options())
        async with running_transports(**serve_engine(), **_ALIASES) as transports:
            yield transports


async def test_engines_declare_what_the_page_was_made_from(transports: Transports, engines: Engines) -> None:
    """The description of TensorRT-LLM without a start equals that of the started engine."""
    served = transports.service.loaded.model.engine
    declared = engines.at_best[served.name].engine

    assert (served.refused, served.ceilings) == (declared.refused, declared.ceilings)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_cells_agree_with_the_servers(
    endpoint: Endpoint, transports: Transports, engines: Engines
) -> None:
    """A parameter is refused by name, ignored and named, or in effect."""
    name = transports.service.loaded.model.engine.name
    cells = [(row.sample, row.outcomes[name].kind) for row in rows(engines, endpoint)]

    assert await _wrong(transports, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_the_footnote_agrees_with_the_servers(
    endpoint: Endpoint, bare: Transports, engines: Engines
) -> None:
    """A library with only the required features refuses exactly the parameters of the footnote."""
    outcomes = [(row.sample, row.outcomes[TENSORRT_LLM]) for row in rows(engines, endpoint)]
    cells = [(sample, REFUSED if outcome.depends else outcome.kind) for sample, outcome in outcomes]

    assert any(outcome.depends for _, outcome in outcomes)
    assert await _wrong(bare, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_grpc_refuses_the_same_parameters(
    endpoint: Endpoint, bare: Transports, engines: Engines
) -> None:
    """The service refuses the same parameters from the bridge and from other callers."""
    refused = [row for row in rows(engines, endpoint) if row.outcomes[TENSORRT_LLM].depends]
    for row in refused:
        for body in row.sample.requests:
            with pytest.raises(InvalidRequestError) as caught:
                await bare.client.generate_request(endpoint.convert(endpoint.parse(body)))
            assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_streams_name_the_same_parameters(
    endpoint: Endpoint, transports: Transports, engines: Engines
) -> None:
    """Their headers are sent with the first output."""
    cells = [
        (_streamed(row.sample), NO_EFFECT)
        for row in rows(engines, endpoint)
        if row.outcomes[SIMULATED].kind == NO_EFFECT and not row.sample.path.startswith("stream")
    ]

    assert cells
    assert await _wrong(transports, endpoint, cells) == []


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=_path)
async def test_grpc_names_the_same_parameters(
    endpoint: Endpoint, transports: Transports, engines: Engines
) -> None:
    """The report names them, if the protocol has the parameter."""
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
    """The cells that differ from the servers."""
    requests = [(sample, kind, body) for sample, kind in cells for body in sample.requests]
    found = await asyncio.gather(
        *(_kind(transports, endpoint, body, sample.path) for sample, _, body in requests)
    )
    return [
        f"{sample.path} {sample.when}: {kind}, but {actual}"
        for (sample, kind, _), actual in zip(requests, found, strict=True)
        if kind != actual
    ]


async def _kind(transports: Transports, endpoint: Endpoint, body: Body, path: str) -> str:
    """The outcome of the parameter."""
    reply = await transports.http.post(endpoint.path, json=endpoint.least(body))
    if reply.status_code != 200:
        error = reply.json()["error"]
        refused = (reply.status_code, error["code"]) == (400, "unsupported_parameter")
        return REFUSED if refused and _is_of(error["param"], body) else str(error)
    named = reply.headers.get("x-ignored-parameters", "").split(",")
    return NO_EFFECT if path in map(plain_path, named) else HONOURED


def _is_of(param: str, body: Body) -> bool:
    """Whether an error names a member that was added to the minimal request."""
    return re.split(r"[.[]", param)[0] in body
