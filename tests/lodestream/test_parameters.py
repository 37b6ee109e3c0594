"""The page of parameters is complete and current. tests/transports checks its content."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_asyncio
from google.protobuf.descriptor import Descriptor
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_service.models.loader import ModelFile
from tests.support.parameters.declared import declared_in
from tests.support.parameters.derive import CHAT, COMPLETIONS, Endpoint
from tests.support.parameters.engines import Engines, load_engines
from tests.support.parameters.page import PAGE, render, rows, samples_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(model_file: ModelFile) -> Engines:
    return await load_engines()


async def test_the_page_is_fresh(engines: Engines) -> None:
    """`make parameters` renews it."""
    assert PAGE.read_text(encoding="utf-8") == render(engines)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS], ids=lambda endpoint: endpoint.path)
async def test_every_parameter_is_on_the_page(endpoint: Endpoint) -> None:
    """The page has exactly the parameters that the bridge declares."""
    assert {sample.path for sample in samples_of(endpoint)} == set(declared_in(endpoint.schema))


async def test_every_field_of_the_protocol_is_on_the_page(engines: Engines) -> None:
    """The page has every field of the protocol."""
    named = {
        field
        for endpoint in (CHAT, COMPLETIONS)
        for row in rows(engines, endpoint)
        for field in (*row.grpc, row.sample.by_grpc.strip("`"))
    }

    assert {field for field in _leaves(GenerateRequest.DESCRIPTOR) if field not in named} == set()


def _leaves(descriptor: Descriptor, path: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            yield path + field.name
        else:
            yield from _leaves(field.message_type, f"{path}{field.name}.")
