"""What a worker refuses, by the gateway's own names of fields: nothing that is set is left without effect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from smg_grpc_proto.generated import trtllm_service_pb2 as pb

from inference_service.rpc.smg.request import _HONOURED
from tests.support.service import Running
from tests.support.smg import ask_worker, request_for, running_worker
from tests.support.statuses import ReceivedStatus, status_of_call

pytestmark = pytest.mark.asyncio(loop_scope="module")
GROUPS = ("", "tokenized", "sampling_config", "output_config")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    async with running_worker(context_length=256) as running:
        yield running


async def refused(service: Running, request: pb.GenerateRequest) -> ReceivedStatus:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask_worker(service, request)
    return status_of_call(caught.value)


def unsupported() -> list[str]:
    """The path of each field of a request that is not honoured."""
    paths = []
    for group in GROUPS:
        part: Message = getattr(pb.GenerateRequest(), group) if group else pb.GenerateRequest()
        names = [field.name for field in part.DESCRIPTOR.fields if field.name not in _HONOURED[group]]
        paths += [f"{group}.{name}" if group else name for name in names]
    return paths


def set_something(request: Message, path: str) -> None:
    *groups, name = path.split(".")
    for group in groups:
        request = getattr(request, group)
    field = request.DESCRIPTOR.fields_by_name[name]
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if field.message_type is not None:
        getattr(request, name).SetInParent()
    elif field.is_repeated:
        getattr(request, name).append("x" if is_text else 1)
    else:
        setattr(request, name, type(getattr(request, name))(1))


@pytest.mark.parametrize("path", unsupported())
async def test_each_field_that_is_not_honoured_is_refused_by_its_name(service: Running, path: str) -> None:
    request = request_for(service)
    set_something(request, path)

    status = await refused(service, request)

    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.fields == [path]
    assert "not supported" in status.message


async def test_what_is_off_at_zero_may_be_zero(service: Running) -> None:
    config = {"temperature": 0.0, "min_tokens": 0, "prompt_ignore_length": 0, "no_repeat_ngram_size": 0}

    assert (await ask_worker(service, request_for(service, sampling_config=config))).completes


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**32 - 1}, "max_tokens"),
        ({"max_tokens": 300}, "tokenized.input_token_ids"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids[0]"),
        ({"bad_token_ids": [10**6]}, "bad_token_ids"),
        ({"sampling_config": {"beam_width": 2}}, "sampling_config.beam_width"),
        ({"sampling_config": {"temperature": 3.0}}, "sampling_config.temperature"),
        ({"sampling_config": {"top_k": -2}}, "sampling_config.top_k"),
        ({"sampling_config": {"num_return_sequences": 9}}, "sampling_config.num_return_sequences"),
        ({"output_config": {"logprobs": 21}}, "output_config.logprobs"),
        ({"guided_decoding": {"guide_type": 0}}, "guided_decoding.guide_type"),
        ({"guided_decoding": {"guide_type": 5, "guide": "{}"}}, "guided_decoding.guide_type"),
        ({"guided_decoding": {"guide_type": 3, "guide": "("}}, "guided_decoding.guide"),
        ({"guided_decoding": {"guide_type": 2, "guide": ""}}, "guided_decoding.guide"),
        ({"guided_decoding": {"guide_type": 1}, "ignore_eos": True}, "ignore_eos"),
    ],
)
async def test_errors_have_the_names_of_the_gateway(
    service: Running, fields: dict[str, Any], named: str
) -> None:
    status = await refused(service, request_for(service, **fields))

    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.fields == [named]
    assert not any(ours in status.message for ours in ("stopping", "sampling.", "output.", "constraint."))


async def test_tokens_outside_the_vocabulary(service: Running) -> None:
    request = request_for(service)
    request.tokenized.input_token_ids.append(10**6)

    status = await refused(service, request)

    assert status.fields == [f"tokenized.input_token_ids[{len(request.tokenized.input_token_ids) - 1}]"]


async def test_a_field_that_the_protocol_does_not_have(service: Running) -> None:
    request = request_for(service)
    request.MergeFromString(b"\xf8\x06\x01")

    assert (await refused(service, request)).fields == ["field 111"]


async def test_no_prompt(service: Running) -> None:
    assert (await refused(service, request_for(service, ""))).fields == ["tokenized.input_token_ids"]
