"""ModelService: what is served, and how long a prompt is."""

from __future__ import annotations

from collections.abc import Sequence

from lodestream.inference.v1 import model_service_pb2 as pb
from lodestream.inference.v1 import model_service_pb2_grpc as pb_grpc

from inference_service import parse
from inference_service.call import Calls, Context
from inference_service.engine_room import EngineDoor
from inference_service.served import Effort, ServedModel
from lodestream_common.keys import Level

OWNER = "lodestream"


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Questions about the served model."""

    def __init__(self, *, door: EngineDoor, calls: Calls, max_message_bytes: int) -> None:
        self._door = door
        self._calls = calls
        self._max_message_bytes = max_message_bytes

    async def ListModels(self, _: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        response = pb.ListModelsResponse()
        async with self._calls.run(context, "ListModels", Level.READ_ONLY):
            response.models.append(self._describe())
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: N802
        response = pb.GetModelResponse()
        async with self._calls.run(context, "GetModel", Level.READ_ONLY):
            self._door.enter().model.check_name(parse.parse_model_name(request))
            response.model.CopyFrom(self._describe())
        return response

    async def CountTokens(  # noqa: N802
        self, request: pb.CountTokensRequest, context: Context
    ) -> pb.CountTokensResponse:
        response = pb.CountTokensResponse()
        async with self._calls.run(context, "CountTokens", Level.READ_ONLY):
            size = parse.check_size(request, self._max_message_bytes)
            model = self._door.enter().model
            effort = Effort.LONG if request.chat.tools else Effort.BY_SIZE
            response.token_ids.extend(await model.work(size, _count, request, model, effort=effort))
            response.token_count = len(response.token_ids)
        return response

    def _describe(self) -> pb.Model:
        model = self._door.enter().model
        return pb.Model(
            id=model.id,
            aliases=sorted(model.aliases),
            created=model.created,
            owned_by=OWNER,
            context_length=model.engine.context_length,
            vocabulary_size=model.engine.vocabulary_size,
            backend=model.engine.name,
            max_concurrency=model.engine.max_concurrency,
            default_max_tokens=model.limits.default,
            max_tokens_limit=model.limits.most,
        )


def _count(request: pb.CountTokensRequest, model: ServedModel) -> Sequence[int]:
    name, prompt = parse.parse_count(request)
    model.check_name(name)
    (field,) = parse.prompt_fields(prompt)
    return model.encode(prompt, field)
