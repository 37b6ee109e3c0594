from __future__ import annotations

from dataclasses import dataclass

from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from rest_bridge.schemas.generation import GenerationRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer may hold beside text."""

    token_ids: bool = False
    logprobs: bool = False
    tool_calls: bool = False
    usage: bool = False
    """Of streams: one more chunk that says the token counts."""

    @property
    def only_text(self) -> bool:
        """Whether deltas hold nothing else."""
        return not (self.token_ids or self.logprobs or self.tool_calls)


def wanted_by(body: GenerationRequest, message: GenerateRequest) -> Wanted:
    """What a request asks for."""
    options = body.stream_options
    return Wanted(
        token_ids=bool(body.return_token_ids),
        logprobs=message.output.logprobs,
        tool_calls=bool(message.chat.tools),
        usage=options is not None and bool(options.include_usage),
    )
