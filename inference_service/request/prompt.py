"""Reads the prompts of a request: conversations with their tools, texts, token ids, batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.prompt.conversation import ChatTurn, Ending, Tool, ToolCall, ToolChoice, ToolMode
from inference_service.request.violations import Violations
from lodestream_common.parameters import PARAMETERS

PromptMessage = generate_pb.GenerateRequest | model_pb.CountTokensRequest


def least_tokens(message: PromptMessage, longest_token: int) -> Iterator[tuple[str, int]]:
    """Each prompt of a request, by the path of its field, with a lower bound of its number of tokens.

    Args:
        message: as it arrived; it need not be valid.
        longest_token: bytes of the longest token of the vocabulary, 1 or more.

    """
    form = message.WhichOneof("input")
    if form == "chat":
        yield "chat.messages", _least(_chat_texts(message.chat), longest_token)
    elif form == "prompt":
        yield "prompt", _least((message.prompt,), longest_token)
    elif form == "token_ids":
        yield "token_ids", len(message.token_ids.ids)
    elif isinstance(message, generate_pb.GenerateRequest):
        for number, prompt in enumerate(message.batch.prompts):
            ids = len(prompt.token_ids.ids)
            kind = "token_ids" if ids else "text"
            yield f"batch.prompts[{number}].{kind}", ids or _least((prompt.text,), longest_token)


def _least(texts: Iterable[str], longest_token: int) -> int:
    return -(-sum(len(text.encode()) for text in texts) // longest_token)


def _chat_texts(chat: pb.ChatInput) -> Iterator[str]:
    """The texts of a conversation that every chat template renders."""
    for turn in chat.messages:
        yield turn.content
        for call in turn.tool_calls:
            yield call.arguments
    if chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE:
        for tool in chat.tools:
            yield tool.description


BATCH = PARAMETERS["prompt"]
TOOLS = PARAMETERS["tools"]
_NO_TOOLS = ToolChoice(ToolMode.NONE)

_ROLES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_ROLE_NAMES = ", ".join(f"`{pb.Role.Name(role)}`" for role in _ROLES)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES = {
    pb.TOOL_CHOICE_MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_NONE: ToolMode.NONE,
    pb.TOOL_CHOICE_MODE_REQUIRED: ToolMode.REQUIRED,
    pb.TOOL_CHOICE_MODE_NAMED: ToolMode.NAMED,
}


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, at least one turn."""

    turns: Sequence[ChatTurn]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = _NO_TOOLS
    parallel_tool_calls: bool = True
    ending: Ending = Ending.ANSWER

    @property
    def enforces_calls(self) -> bool:
        """Whether the answer must be calls."""
        return self.tool_choice.mode.is_enforced


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, at least one character."""

    text: str
    parse_special: bool = False
    """Whether the text of a control token is encoded as that token."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, at least one, not yet checked against a vocabulary."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class BatchPrompt:
    """Several prompts, at least one."""

    prompts: Sequence[TextPrompt | TokenPrompt]


Prompt = ChatPrompt | TextPrompt | TokenPrompt
_FIELDS = {ChatPrompt: "chat.messages", TextPrompt: "prompt", TokenPrompt: "token_ids"}


def single_prompts(prompt: Prompt | BatchPrompt) -> Sequence[Prompt]:
    """Each prompt of a request."""
    return prompt.prompts if isinstance(prompt, BatchPrompt) else (prompt,)


def prompt_fields(prompt: Prompt | BatchPrompt) -> Mapping[str, Prompt]:
    """Each prompt of a request, by the path of its field."""
    if isinstance(prompt, BatchPrompt):
        return {_batch_field(number, one): one for number, one in enumerate(prompt.prompts)}
    return {_FIELDS[type(prompt)]: prompt}


def _batch_field(number: int, prompt: Prompt) -> str:
    return f"batch.prompts[{number}].{'text' if isinstance(prompt, TextPrompt) else 'token_ids'}"


def read_prompts(message: generate_pb.GenerateRequest, violations: Violations) -> Prompt | BatchPrompt:
    """Read the input of a GenerateRequest."""
    if message.WhichOneof("input") != "batch":
        return read_prompt(message, violations)
    prompts = message.batch.prompts
    if not prompts:
        violations.add("batch.prompts", "must hold at least one prompt.")
    violations.check_count(BATCH.field, len(prompts), BATCH.max_items, "prompts")
    return BatchPrompt(
        tuple(
            _batched(prompt, f"batch.prompts[{number}]", message.parse_special, violations)
            for number, prompt in enumerate(prompts[: BATCH.max_items])
        )
    )


def read_prompt(message: PromptMessage, violations: Violations) -> Prompt:
    """Read the input of a request that takes only one prompt."""
    form = message.WhichOneof("input")
    if form == "chat":
        return _chat(message.chat, violations)
    if form == "token_ids":
        return _token_ids(message.token_ids, "token_ids", violations)
    if form is None:
        violations.add_missing("input")
        return TextPrompt("")
    return _text(message.prompt, "prompt", message.parse_special, violations)


def _batched(
    prompt: pb.BatchPrompt, field: str, parse_special: bool, violations: Violations
) -> TextPrompt | TokenPrompt:
    if prompt.WhichOneof("form") == "token_ids":
        return _token_ids(prompt.token_ids, f"{field}.token_ids", violations)
    return _text(prompt.text, f"{field}.text", parse_special, violations)


def _token_ids(ids: pb.TokenIds, field: str, violations: Violations) -> TokenPrompt:
    if not ids.ids:
        violations.add(f"{field}.ids", "must hold at least one token id.")
    return TokenPrompt(tuple(ids.ids))


def _text(text: str, field: str, parse_special: bool, violations: Violations) -> TextPrompt:
    if not text:
        violations.add(field, "must hold at least one character.")
    return TextPrompt(text, parse_special)


def _chat(chat: pb.ChatInput, violations: Violations) -> ChatPrompt:
    if not chat.messages:
        violations.add("chat.messages", "must hold at least one message.")
    turns = []
    for number, message in enumerate(chat.messages):
        turns.append(_turn(message, f"chat.messages[{number}]", violations))
        if violations.is_full:
            break
    tools = _tools(chat.tools, violations)
    return ChatPrompt(
        tuple(turns),
        tools,
        _tool_choice(chat, tools, violations),
        chat.parallel_tool_calls if chat.HasField("parallel_tool_calls") else True,
        _ending(chat, violations),
    )


def _ending(chat: pb.ChatInput, violations: Violations) -> Ending:
    if not chat.continue_final_message:
        adds_prompt = chat.add_generation_prompt or not chat.HasField("add_generation_prompt")
        return Ending.ANSWER if adds_prompt else Ending.NOTHING
    name = "chat.continue_final_message"
    if chat.add_generation_prompt:
        violations.add(name, "and `chat.add_generation_prompt` cannot both be true.")
    if chat.messages and chat.messages[-1].tool_calls:
        violations.add(name, "is only for a final message without tool calls.")
    return Ending.CONTINUE


def _turn(message: pb.ChatMessage, field: str, violations: Violations) -> ChatTurn:
    role = _ROLES.get(message.role)
    if role is None:
        violations.add(f"{field}.role", f"must be one of {_ROLE_NAMES}.")
    if role == "tool" and not message.tool_call_id:
        violations.add_missing(f"{field}.tool_call_id")
    if role != "tool" and message.tool_call_id:
        violations.add(f"{field}.tool_call_id", "is only for `ROLE_TOOL`.")
    if role != "assistant" and message.tool_calls:
        violations.add(f"{field}.tool_calls", "is only for `ROLE_ASSISTANT`.")
    calls = _tool_calls(message.tool_calls, field, violations)
    return ChatTurn(role or "", message.content, calls, message.tool_call_id or None)


def _tools(messages: Sequence[pb.Tool], violations: Violations) -> Sequence[Tool]:
    """Read the functions that the model may call."""
    violations.check_count(TOOLS.field, len(messages), TOOLS.max_items, "tools")
    found: list[Tool] = []
    for number, message in enumerate(messages[: TOOLS.max_items]):
        if violations.is_full:
            break
        field = f"chat.tools[{number}]"
        _check_name(message.name, f"{field}.name", violations)
        if any(tool.name == message.name for tool in found):
            violations.add(f"{field}.name", "is the name of an earlier tool.")
        parameters = _parameters(message.parameters, f"{field}.parameters", violations)
        found.append(Tool(message.name, message.description, parameters, message.strict))
    return tuple(found)


def _tool_choice(chat: pb.ChatInput, tools: Iterable[Tool], violations: Violations) -> ToolChoice:
    """Read whether the model calls tools. Without tools it calls none."""
    mode = _MODES.get(chat.tool_choice.mode)
    if mode is None:
        known = ", ".join(f"`{pb.ToolChoiceMode.Name(mode)}`" for mode in _MODES if mode)
        violations.add("chat.tool_choice.mode", f"must be one of {known}.")
        return ToolChoice(ToolMode.NONE)
    if not chat.tools:
        if mode.is_enforced:
            violations.add("chat.tool_choice", "is only for requests with `chat.tools`.")
        return ToolChoice(ToolMode.NONE)
    if mode is ToolMode.NAMED and all(tool.name != chat.tool_choice.name for tool in tools):
        violations.add("chat.tool_choice", "names a tool that is not among `chat.tools`.")
    return ToolChoice(mode, chat.tool_choice.name if mode is ToolMode.NAMED else None)


def _tool_calls(calls: Iterable[pb.ToolCall], field: str, violations: Violations) -> Sequence[ToolCall]:
    """Read the calls of an earlier turn. Arguments may be any text: a model may write invalid JSON."""
    found = []
    for number, call in enumerate(calls):
        if violations.is_full:
            break
        name = f"{field}.tool_calls[{number}]"
        if not call.id:
            violations.add_missing(f"{name}.id")
        _check_name(call.name, f"{name}.name", violations)
        found.append(ToolCall(call.id, call.name, call.arguments))
    return tuple(found)


def _check_name(name: str, field: str, violations: Violations) -> None:
    """Add a violation for an invalid name of a function."""
    if not _NAME.fullmatch(name):
        violations.add(field, "must be 1 to 64 characters of [A-Za-z0-9_-].")


def _parameters(text: str, field: str, violations: Violations) -> Mapping[str, Any] | None:
    if not text:
        return None
    value = _json_object(text)
    if value is None:
        violations.add(field, "must be a JSON object, a JSON Schema.")
    return value


def _json_object(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None for everything else.

    Half of an escaped surrogate pair and a number beyond the range of floats are refused as well: JSON's
    syntax allows them, but they have no value.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
