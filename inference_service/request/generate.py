"""Reads requests: protobuf to a validated request, with the names of what has no effect in it.

A violation names the field by its path in the protocol, and all violations of a request come in one error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.backends.types import Sampling
from inference_service.request.options import (
    WHITESPACE,
    Constraint,
    ConstraintKind,
    Output,
    Stopping,
    TokenLimits,
    check_logprobs,
    constraint_field,
    read_constraint,
    read_logit_bias,
    read_output,
    read_sampling,
    read_stopping,
)
from inference_service.request.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    PromptMessage,
    read_prompt,
    read_prompts,
    single_prompts,
)
from inference_service.request.violations import Violations
from lodestream_common.parameters import PARAMETERS

USER = PARAMETERS["user"]
_DEFAULT_LIMITS = TokenLimits()


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A generation request with every default filled in and every range checked."""

    model: str
    """The name that the caller used."""
    prompt: Prompt | BatchPrompt
    sampling: Sampling
    logit_bias: Mapping[int, float]
    """Not yet checked against a vocabulary."""
    stopping: Stopping
    output: Output
    constraint: Constraint | None
    user: str | None
    validate_only: bool
    ignored: tuple[str, ...]
    """The parts that have no effect: unknown fields, and known ones by their paths."""

    @property
    def is_constrained(self) -> bool:
        """Whether its answer follows a grammar: that of a constraint, or of enforced calls."""
        chat = self.prompt
        return self.constraint is not None or (isinstance(chat, ChatPrompt) and chat.enforces_calls)


def parse_generate(
    message: generate_pb.GenerateRequest, limits: TokenLimits = _DEFAULT_LIMITS
) -> ParsedRequest:
    """Read a GenerateRequest, within the operator's limits of tokens.

    Raises:
        InvalidRequest: with one violation for each invalid field.

    """
    violations = Violations()
    prompt = read_prompts(message, violations)
    request = ParsedRequest(
        model=_model(message.model, violations),
        prompt=prompt,
        sampling=read_sampling(message.sampling, violations),
        logit_bias=read_logit_bias(message.sampling, violations),
        stopping=read_stopping(message.stopping, limits, violations),
        output=read_output(message.output, prompt, violations),
        constraint=read_constraint(message.constraint, violations)
        if message.HasField("constraint")
        else None,
        user=_user(message, violations),
        validate_only=message.validate_only,
        ignored=(*unknown_fields(message), *ineffective_fields(message)),
    )
    most = request.stopping.max_tokens or limits.default
    check_logprobs(request.output, len(single_prompts(prompt)), most, violations)
    if request.stopping.ignore_eos and request.is_constrained:
        violations.add("stopping.ignore_eos", "cannot be combined with a constraint, which has an end.")
    violations.raise_if_any()
    return request


def parse_count(message: model_pb.CountTokensRequest) -> tuple[str, Prompt, tuple[str, ...]]:
    """Read a CountTokensRequest: the model as named, the prompt, and the names of what has no effect.

    Raises:
        InvalidRequest: with one violation for each invalid field.

    """
    violations = Violations()
    model, prompt = _model(message.model, violations), read_prompt(message, violations)
    violations.raise_if_any()
    return model, prompt, (*unknown_fields(message), *ineffective_in_prompt(message))


def parse_model_name(message: model_pb.GetModelRequest) -> str:
    """Read a GetModelRequest.

    Raises:
        InvalidRequest: no model is named.

    """
    violations = Violations()
    model = _model(message.model, violations)
    violations.raise_if_any()
    return model


def _model(name: str, violations: Violations) -> str:
    if not name:
        violations.add_missing("model")
    return name


def _user(message: generate_pb.GenerateRequest, violations: Violations) -> str | None:
    if not message.HasField("user"):
        return None
    violations.check_length(USER.field, message.user, 0, USER.max_length)
    return message.user


MAX_UNKNOWN_FIELDS = 32
"""Most unknown fields that are named."""


def unknown_fields(message: Message) -> tuple[str, ...]:
    """Name the fields that the protocol does not define, by path and number: `sampling.field 99`."""
    return tuple(name for _, name in zip(range(MAX_UNKNOWN_FIELDS), _unknown(message, ""), strict=False))


def _unknown(message: Message, path: str) -> Iterator[str]:
    found = UnknownFieldSet(message)
    for number in sorted({found[index].field_number for index in range(len(found))}):
        yield f"{path}field {number}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for index, element in enumerate(value):
                yield from _unknown(element, f"{path}{field.name}[{index}].")
        else:
            yield from _unknown(value, f"{path}{field.name}.")


_ENFORCED = (pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED)
_JSON = ("json_object", "json_schema")


def ineffective_fields(message: generate_pb.GenerateRequest) -> Iterator[str]:
    """Name the known parameters that change nothing in this request, by their paths."""
    if message.WhichOneof("input") == "chat":
        yield from _of_chat(message.chat, message.constraint.WhichOneof("kind"))
    if message.constraint.HasField("whitespace") and (
        _enforces_calls(message) or message.constraint.WhichOneof("kind") not in _JSON
    ):
        yield WHITESPACE.field
    yield from ineffective_in_prompt(message)
    if _enforces_calls(message):
        # Enforced calls end where their grammar does.
        yield from (
            f"stopping.{name}" for name in ("stop", "stop_token_ids") if getattr(message.stopping, name)
        )
    if message.stopping.include_stop and (not message.stopping.stop or _enforces_calls(message)):
        yield "stopping.include_stop"


def ineffective_in_prompt(message: PromptMessage) -> Iterator[str]:
    """Name those of them that say how a prompt is encoded."""
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
            # The answer holds only calls, which follow the schemas of their tools.
            yield constraint_field(constraint)
    elif mode == pb.TOOL_CHOICE_MODE_NONE or constraint not in _JSON:
        # The schemas of tools are enforced only where calls are.
        strict = (number for number, tool in enumerate(chat.tools) if tool.strict)
        yield from (f"chat.tools[{number}].strict" for number in strict)
