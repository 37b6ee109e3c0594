"""What a request holds that has no effect together with the rest of it."""

from __future__ import annotations

from collections.abc import Iterator

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.parse.constraint import ConstraintKind, constraint_field
from inference_service.parse.length import PromptMessage

_ENFORCED = (pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED)
_JSON = ("json_object", "json_schema")


def ineffective_fields(message: generate_pb.GenerateRequest) -> Iterator[str]:
    """Known parameters of a valid request that change nothing, by their paths."""
    if message.WhichOneof("input") == "chat":
        yield from _of_chat(message.chat, message.constraint.WhichOneof("kind"))
    yield from ineffective_in_prompt(message)
    if _enforces_calls(message):
        # Calls that are enforced end where their grammar does.
        yield from (
            f"stopping.{name}" for name in ("stop", "stop_token_ids") if getattr(message.stopping, name)
        )
    if message.stopping.include_stop and (not message.stopping.stop or _enforces_calls(message)):
        yield "stopping.include_stop"


def ineffective_in_prompt(message: PromptMessage) -> Iterator[str]:
    """Those of them that are about how a prompt is read."""
    if message.parse_special and not _has_text(message):
        yield "parse_special"


def _has_text(message: PromptMessage) -> bool:
    """Whether a prompt is raw text."""
    if isinstance(message, generate_pb.GenerateRequest) and message.WhichOneof("input") == "batch":
        return any(prompt.WhichOneof("form") == "text" for prompt in message.batch.prompts)
    return message.WhichOneof("input") == "prompt"


def _enforces_calls(message: generate_pb.GenerateRequest) -> bool:
    chat = message.chat
    return bool(chat.tools) and chat.tool_choice.mode in _ENFORCED


def _of_chat(chat: pb.ChatInput, constraint: ConstraintKind | None) -> Iterator[str]:
    if not chat.tools:
        yield from (f"chat.{name}" for name in ("tool_choice", "parallel_tool_calls") if chat.HasField(name))
        return
    mode = chat.tool_choice.mode
    if chat.tool_choice.name and mode != pb.TOOL_CHOICE_MODE_NAMED:
        yield "chat.tool_choice.name"
    if mode in _ENFORCED:
        if constraint is not None:
            # The answer is calls, and nothing else.
            yield constraint_field(constraint)
    elif mode == pb.TOOL_CHOICE_MODE_NONE or constraint not in _JSON:
        # Only calls that are enforced have to follow their schemas.
        strict = (number for number, tool in enumerate(chat.tools) if tool.strict)
        yield from (f"chat.tools[{number}].strict" for number in strict)
