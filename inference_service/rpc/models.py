"""ModelService: what is served, and how long a prompt is."""

from __future__ import annotations

import grpc
from lodestream.inference.v1 import model_service_pb2 as pb

from inference_service.request import generate
from inference_service.rpc.call import RpcCall, RunningCalls
from inference_service.scheduling.loaded_engine import EngineSlot
from inference_service.scheduling.served_model import Effort, ServedModel
from lodestream_common.keys import Level

OWNER = "lodestream"


class ModelServicer:
    """Questions about the served model."""

    def __init__(self, door: EngineSlot) -> None:
        self._door = door

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        read = Level.READ_ONLY
        return grpc.method_handlers_generic_handler(
            pb.DESCRIPTOR.services_by_name["ModelService"].full_name,
            {
                "ListModels": calls.unary("ListModels", pb.ListModelsRequest, read, self._list_models),
                "GetModel": calls.unary("GetModel", pb.GetModelRequest, read, self._get_model),
                "CountTokens": calls.unary("CountTokens", pb.CountTokensRequest, read, self._count_tokens),
            },
        )

    async def _list_models(self, _: RpcCall, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        names = self._door.enter().model.names
        return pb.ListModelsResponse(models=map(self._describe, names))

    async def _get_model(self, _: RpcCall, request: pb.GetModelRequest) -> pb.GetModelResponse:
        name = generate.parse_model_name(request)
        self._door.enter().model.check_name(name)
        return pb.GetModelResponse(model=self._describe(name))

    async def _count_tokens(self, call: RpcCall, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        model = self._door.enter().model
        model.check_length(request)
        effort = Effort.LONG if request.chat.tools else Effort.BY_SIZE
        return await model.work(call.tenant, call.size, _count, request, model, effort=effort)

    def _describe(self, name: str) -> pb.Model:
        model = self._door.enter().model
        return pb.Model(
            id=name,
            root=model.id,
            aliases=[other for other in model.names if other != name],
            created=model.created,
            owned_by=OWNER,
            context_length=model.engine.context_length,
            vocabulary_size=model.engine.vocabulary_size,
            backend=model.engine.name,
            max_concurrency=model.engine.max_concurrency,
            default_max_tokens=model.limits.default,
            max_tokens_limit=model.limits.most,
        )


def _count(request: pb.CountTokensRequest, model: ServedModel) -> pb.CountTokensResponse:
    name, prompt, ignored = generate.parse_count(request)
    model.check_name(name)
    (field,) = generate.prompt_fields(prompt)
    ids = model.encode(prompt, field)
    return pb.CountTokensResponse(
        token_ids=ids, token_count=len(ids), ignored_parameters=(*ignored, *model.unread(prompt))
    )
