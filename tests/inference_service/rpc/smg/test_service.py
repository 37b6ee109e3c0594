"""The other methods of a worker, and what it shares with our own protocol: keys, quotas, receipts, aborts."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import trtllm_service_pb2 as pb
from tokenizers import Tokenizer as LibraryTokenizer

from inference_service.rpc.health import State
from inference_service.server import Server
from lodestream_common.errors import SettingError
from lodestream_common.keys import KeyFile, KeyLimits, Level
from tests.support.calls import eventually, first, is_free, refusal
from tests.support.service import MODEL_ID, running_service, service_config
from tests.support.smg import ask_worker, request_for, running_worker, stub_of
from tests.support.statuses import status_of_call

ENDLESS: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_without_the_setting_the_methods_are_unknown() -> None:
    async with running_service() as service:
        code = await code_of(stub_of(service).HealthCheck(pb.HealthCheckRequest()))

    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    code = "import sys, inference_service.server; sys.exit('smg_grpc_proto' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


async def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smg_grpc_proto.generated", None)
    for name in ("request", "service", "answer"):
        monkeypatch.delitem(sys.modules, f"inference_service.rpc.smg.{name}", raising=False)

    with pytest.raises(SettingError, match=r"smg_worker: needs the extra smg; run: .*\[smg\]"):
        Server(service_config(smg_worker=True))


async def test_model_and_server() -> None:
    async with running_worker(context_length=512, max_concurrency=3) as service:
        model = await stub_of(service).GetModelInfo(pb.GetModelInfoRequest())
        server = await stub_of(service).GetServerInfo(pb.GetServerInfoRequest())

    assert (model.model_id, model.max_seq_len, model.max_batch_size) == (MODEL_ID, 512, 3)
    assert model.vocab_size == service.loaded.model.tokenizer.vocabulary_size
    assert list(model.supported_features) == ["guided_decoding"]
    assert server.backend == "simulated"


async def test_the_tokenizer_is_the_service_s_own() -> None:
    async with running_worker() as service:
        chunks = [c async for c in stub_of(service).GetTokenizer(common.GetTokenizerRequest())]
        ours = service.loaded.model.tokenizer

    data = b"".join(chunk.data for chunk in chunks)
    assert [chunk.sha256 for chunk in chunks] == [*[""] * (len(chunks) - 1), hashlib.sha256(data).hexdigest()]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert "tokenizer_config.json" in archive.namelist()
        theirs = LibraryTokenizer.from_buffer(archive.read("tokenizer.json"))
    text = "<|im_start|>user\nGröße 123<|im_end|>"
    assert theirs.encode(text).ids == ours.encode_prompt(text, parse_special=True)


async def test_health_is_true() -> None:
    async with running_worker(stall_timeout=0.3, simulated_decode_tps=50) as service:
        stub = stub_of(service)
        assert (await stub.HealthCheck(pb.HealthCheckRequest())).status == "OK"

        stalled = stub.Generate(request_for(service, "@sim(stall_at=1)"))
        await stalled.read()
        await eventually(lambda: service.server.health.state is State.STALLED)

        assert (await stub.HealthCheck(pb.HealthCheckRequest())).status == "The service is stalled."
        stalled.cancel()


async def test_there_are_no_events_of_the_cache() -> None:
    """Refused without metadata before it, which the gateway would take for a stream that broke."""
    async with running_worker() as service:
        call = stub_of(service).SubscribeKvEvents(common.SubscribeKvEventsRequest())

        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not await call.initial_metadata()


async def test_an_abort_ends_the_request_and_frees_the_engine() -> None:
    async with running_worker(simulated_decode_tps=50) as service:
        stub = stub_of(service)
        call = stub.Generate(request_for(service, request_id="endless", **ENDLESS))
        await first(call)

        assert (await stub.Abort(pb.AbortRequest(request_id="endless"))).success

        status = await refusal(call)
        assert (status.code, status.reason) == (grpc.StatusCode.CANCELLED, "ABORTED")
        await eventually(lambda: is_free(service))
        assert not (await stub.Abort(pb.AbortRequest(request_id="endless"))).success


async def test_a_caller_that_leaves_frees_the_engine() -> None:
    async with running_worker(simulated_decode_tps=50) as service:
        call = stub_of(service).Generate(request_for(service, **ENDLESS))
        await call.read()

        call.cancel()

        await eventually(lambda: is_free(service))


async def test_the_deadline_cuts_the_answer() -> None:
    async with running_worker(simulated_decode_tps=50) as service:
        call = stub_of(service).Generate(request_for(service, **ENDLESS), timeout=1.0)
        *_, last = [response async for response in call]

    assert last.complete.finish_reason == "length"
    assert 0 < len(last.complete.output_token_ids) < 60


async def test_a_full_queue_refuses() -> None:
    async with running_worker(max_concurrency=1, queue_limit=0, simulated_decode_tps=50) as service:
        holder = stub_of(service).Generate(request_for(service, **ENDLESS))
        await holder.read()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask_worker(service, request_for(service))
        holder.cancel()

    assert status_of_call(caught.value).reason == "QUEUE_FULL"


async def test_keys_quotas_and_receipts_count(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key, token = keys.create("gateway", limits=KeyLimits(requests_per_minute=1))
    _, reader = keys.create("reader", Level.READ_ONLY)
    settings = {"keys_file": keys.path, "receipts_url": str(tmp_path / "receipts.db")}
    async with running_worker(**settings) as service:
        stub, request = stub_of(service), request_for(service, request_id="rcpt-1")
        assert await code_of(ask_worker(service, request)) is grpc.StatusCode.UNAUTHENTICATED
        as_reader = ask_worker(service, request, {"authorization": f"Bearer {reader}"})
        assert await code_of(as_reader) is grpc.StatusCode.PERMISSION_DENIED
        # A health check needs no key.
        assert (await stub.HealthCheck(pb.HealthCheckRequest())).status == "OK"

        headers = {"authorization": f"Bearer {token}"}
        complete = (await ask_worker(service, request, headers)).complete
        assert await code_of(ask_worker(service, request, headers)) is grpc.StatusCode.RESOURCE_EXHAUSTED

        receipt = await service.server.accounting.find_receipt("rcpt-1", key.id)

    assert receipt is not None
    assert (receipt.method, receipt.completion_tokens) == ("SmgGenerate", complete.completion_tokens)
    assert receipt.outcome == "ok"


async def test_a_key_aborts_only_its_own_requests(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    mine, others = ((("authorization", f"Bearer {keys.create(name)[1]}"),) for name in ("mine", "others"))
    async with running_worker(keys_file=keys.path, simulated_decode_tps=50) as service:
        stub, abort = stub_of(service), pb.AbortRequest(request_id="test-1")
        call = stub.Generate(request_for(service, **ENDLESS), metadata=mine)
        await first(call)

        assert not (await stub.Abort(abort, metadata=others)).success
        assert (await stub.Abort(abort, metadata=mine)).success
        assert (await refusal(call)).reason == "ABORTED"
