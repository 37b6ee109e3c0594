"""The methods of the gateway's `TrtllmService`: our generation, health and model under its names."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import grpc
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import trtllm_service_pb2 as pb

from inference_service.errors import Aborted, NotReady, ServiceError, UnknownMethod
from inference_service.rpc.call import Context, RpcCall, RunningCalls
from inference_service.rpc.health import HealthMonitor, State
from inference_service.rpc.services import GenerateServicer
from inference_service.rpc.smg import SERVICE
from inference_service.rpc.smg.answer import Answer
from inference_service.rpc.smg.request import in_their_words, our_request
from inference_service.rpc.status import status_of
from inference_service.scheduling.loaded_engine import EngineSlot
from lodestream_common.keys import Level
from lodestream_common.logs import choose_request_id

HEALTHY = "OK"
"""The status of a worker that takes requests; any other text says why it takes none."""
GENERATE = "SmgGenerate"
"""The name of the RPC that generates, in logs, metrics and receipts."""

_CHUNK_BYTES = 1 << 20
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Of the files in an archive, so that the same files give the same archive."""


class SmgServicer:
    """Answers the gateway.

    Args:
        generate: runs generations; reads requests with `parse_whole_tokens`.
        slot: the engine.
        health: the state of the service.
        tokenizer_files: reads the files of the model's tokenizer, content by name; blocks.

    """

    def __init__(
        self,
        generate: GenerateServicer,
        slot: EngineSlot,
        health: HealthMonitor,
        tokenizer_files: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self._generate = generate
        self._slot = slot
        self._health = health
        self._tokenizer_files = tokenizer_files
        self._running: dict[RpcCall, str] = {}
        """The running generations, with the gateway's request ids."""

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        read, write = Level.READ_ONLY, Level.READ_WRITE
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Generate": calls.handler(GENERATE, pb.GenerateRequest, write, self._generated),
                "Abort": calls.handler("SmgAbort", pb.AbortRequest, write, self._abort),
                "HealthCheck": grpc.unary_unary_rpc_method_handler(
                    self._health_check,
                    pb.HealthCheckRequest.FromString,
                    pb.HealthCheckResponse.SerializeToString,
                ),
                "GetModelInfo": calls.handler(
                    "SmgGetModelInfo", pb.GetModelInfoRequest, read, self._get_model_info
                ),
                "GetServerInfo": calls.handler(
                    "SmgGetServerInfo", pb.GetServerInfoRequest, read, self._get_server_info
                ),
                "GetTokenizer": calls.handler(
                    "SmgGetTokenizer", common.GetTokenizerRequest, read, self._get_tokenizer
                ),
                "SubscribeKvEvents": grpc.unary_stream_rpc_method_handler(_no_kv_events),
            },
        )

    async def _generated(self, call: RpcCall, message: pb.GenerateRequest) -> pb.GenerateResponse:
        call.request_id = choose_request_id(message.request_id, "req-")
        loaded = self._slot.loaded
        texts = loaded.model.tokenizer if loaded.policy is not None else None
        answer = Answer(message, call.write, texts)
        try:
            request = our_request(message, loaded.model.id)
            with self._abortable(call, message.request_id):
                await self._generate.run(call, request, answer.take)
        except ServiceError as error:
            raise in_their_words(error) from None
        return answer.last

    @contextmanager
    def _abortable(self, call: RpcCall, request_id: str) -> Iterator[None]:
        self._running[call] = request_id
        try:
            yield
        finally:
            del self._running[call]

    async def _abort(self, call: RpcCall, message: pb.AbortRequest) -> pb.AbortResponse:
        """End the running requests of this id, of the caller's own key."""
        found = [
            running
            for running, request_id in self._running.items()
            if request_id == message.request_id and running.tenant == call.tenant
        ]
        for running in found:
            running.end_with(Aborted())
        reason = "" if found else "No request with this id runs."
        return pb.AbortResponse(success=bool(found), message=reason)

    async def _health_check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        """Report the state. It needs no key and writes no log line, like that of grpc.health.v1."""
        state = self._health.state
        if state is State.STARTING:
            # With an answer the gateway asks for the model, and takes a refusal for a model without a name.
            await context.abort_with_status(status_of(NotReady("it is starting")))
        return pb.HealthCheckResponse(
            status=HEALTHY if state is State.READY else f"The service is {state.value}."
        )

    async def _get_model_info(
        self, call: RpcCall, message: pb.GetModelInfoRequest
    ) -> pb.GetModelInfoResponse:
        model = self._slot.loaded.model
        engine = model.engine
        return pb.GetModelInfoResponse(
            model_id=model.id,
            # One token at least is generated.
            max_input_len=engine.context_length - 1,
            max_seq_len=engine.context_length,
            max_batch_size=engine.max_concurrency,
            vocab_size=engine.vocabulary_size,
            supported_features=[] if "grammar" in engine.refused else ["guided_decoding"],
        )

    async def _get_server_info(
        self, call: RpcCall, message: pb.GetServerInfoRequest
    ) -> pb.GetServerInfoResponse:
        engine = self._slot.loaded.model.engine
        return pb.GetServerInfoResponse(version=version("lodestream"), backend=engine.name)

    async def _get_tokenizer(
        self, call: RpcCall, message: common.GetTokenizerRequest
    ) -> common.GetTokenizerChunk:
        model = self._slot.loaded.model
        archive = await model.workers.run(call.tenant, call.size, self._archive)
        *parts, last = (
            archive[start : start + _CHUNK_BYTES] for start in range(0, len(archive), _CHUNK_BYTES)
        )
        for part in parts:
            await call.write(common.GetTokenizerChunk(data=part))
        return common.GetTokenizerChunk(data=last, sha256=hashlib.sha256(archive).hexdigest())

    def _archive(self) -> bytes:
        """The tokenizer's files in a zip archive."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in self._tokenizer_files().items():
                file.writestr(zipfile.ZipInfo(name, _FIXED_TIME), content, zipfile.ZIP_DEFLATED)
        return archive.getvalue()


async def _no_kv_events(_: bytes, context: Context) -> None:
    """Say that there are none: no engine reports what its cache holds.

    At once, without metadata before it: after those a gateway takes it for a broken stream, and tries again.
    """
    await context.abort_with_status(status_of(UnknownMethod()))
