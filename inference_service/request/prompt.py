"""What a request gives the model to read: conversations with their tools, texts, token ids, batches."""

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
    """Each prompt of a request by the path of its field, and the fewest tokens that it can have.

    Args:
        message: as it arrived; nothing of it needs to be valid.
        longest_token: bytes of the longest token of the vocabulary, 1 or more.

    """
    form = message.WhichOneof("input")
    if form == "chat":
        yield "chat.messages", _fewest(_chat_texts(message.chat), longest_token)
    elif form == "prompt":
        yield "prompt", _fewest((message.prompt,), longest_token)
    elif form == "token_ids":
        yield "token_ids", len(message.token_ids.ids)
    elif isinstance(message, generate_pb.GenerateRequest):
        for number, prompt in enumerate(message.batch.prompts):
            ids = len(prompt.token_ids.ids)
            kind = "token_ids" if ids else "text"
            yield f"batch.prompts[{number}].{kind}", ids or _fewest((prompt.text,), longest_token)


def _fewest(texts: Iterable[str], longest_token: int) -> int:
    return -(-sum(len(text.encode()) for text in texts) // longest_token)


def _chat_texts(chat: pb.ChatInput) -> Iterator[str]:
    """What a chat template writes of a conversation, whatever else it writes."""
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
    """A conversation, one turn or more."""

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
    """Raw text, one character or more."""

    text: str
    parse_special: bool = False
    """Whether the texts of control tokens in it are those tokens."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, one or more, not yet checked against a vocabulary."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class BatchPrompt:
    """Several prompts, one or more."""

    prompts: Sequence[TextPrompt | TokenPrompt]


Prompt = ChatPrompt | TextPrompt | TokenPrompt
_FIELDS = {ChatPrompt: "chat.messages", TextPrompt: "prompt", TokenPrompt: "token_ids"}


def single_prompts(prompt: Prompt | BatchPrompt) -> Sequence[Prompt]:
    """Each prompt of a request."""
    return prompt.prompts if isinstance(prompt, BatchPrompt) else (prompt,)


def prompt_fields(prompt: Prompt | BatchPrompt) -> Mapping[str, Prompt]:
    """Each prompt of a request, by the path of the field that it stands in."""
    if isinstance(prompt, BatchPrompt):
        return {_batch_field(number, one): one for number, one in enumerate(prompt.prompts)}
    return {_FIELDS[type(prompt)]: prompt}


def _batch_field(number: int, prompt: Prompt) -> str:
    return f"batch.prompts[{number}].{'text' if isinstance(prompt, TextPrompt) else 'token_ids'}"


def read_prompts(message: generate_pb.GenerateRequest, wrong: Violations) -> Prompt | BatchPrompt:
    """The input of a GenerateRequest."""
    if message.WhichOneof("input") != "batch":
        return read_prompt(message, wrong)
    prompts = message.batch.prompts
    if not prompts:
        wrong.add("batch.prompts", "must hold at least one prompt.")
    wrong.check_count(BATCH.field, len(prompts), BATCH.max_items, "prompts")
    return BatchPrompt(
        tuple(
            _batched(prompt, f"batch.prompts[{number}]", message.parse_special, wrong)
            for number, prompt in enumerate(prompts[: BATCH.max_items])
        )
    )


def read_prompt(message: PromptMessage, wrong: Violations) -> Prompt:
    """The input of a request that takes only one."""
    form = message.WhichOneof("input")
    if form == "chat":
        return _chat(message.chat, wrong)
    if form == "token_ids":
        return _token_ids(message.token_ids, "token_ids", wrong)
    if form is None:
        wrong.missing("input")
        return TextPrompt("")
    return _text(message.prompt, "prompt", message.parse_special, wrong)


def _batched(
    prompt: pb.BatchPrompt, field: str, parse_special: bool, wrong: Violations
) -> TextPrompt | TokenPrompt:
    if prompt.WhichOneof("form") == "token_ids":
        return _token_ids(prompt.token_ids, f"{field}.token_ids", wrong)
    return _text(prompt.text, f"{field}.text", parse_special, wrong)


def _token_ids(ids: pb.TokenIds, field: str, wrong: Violations) -> TokenPrompt:
    if not ids.ids:
        wrong.add(f"{field}.ids", "must hold at least one token id.")
    return TokenPrompt(tuple(ids.ids))


def _text(text: str, field: str, parse_special: bool, wrong: Violations) -> TextPrompt:
    if not text:
        wrong.add(field, "must hold at least one character.")
    return TextPrompt(text, parse_special)


def _chat(chat: pb.ChatInput, wrong: Violations) -> ChatPrompt:
    if not chat.messages:
        wrong.add("chat.messages", "must hold at least one message.")
    turns = []
    for number, message in enumerate(chat.messages):
        turns.append(_turn(message, f"chat.messages[{number}]", wrong))
        if wrong.is_full:
            break
    offered = _tools(chat.tools, wrong)
    return ChatPrompt(
        tuple(turns),
        offered,
        _tool_choice(chat, offered, wrong),
        chat.parallel_tool_calls if chat.HasField("parallel_tool_calls") else True,
        _ending(chat, wrong),
    )


def _ending(chat: pb.ChatInput, wrong: Violations) -> Ending:
    if not chat.continue_final_message:
        asks = chat.add_generation_prompt or not chat.HasField("add_generation_prompt")
        return Ending.ANSWER if asks else Ending.NOTHING
    name = "chat.continue_final_message"
    if chat.add_generation_prompt:
        wrong.add(name, "and `chat.add_generation_prompt` cannot both be true.")
    if chat.messages and chat.messages[-1].tool_calls:
        wrong.add(name, "is only for a final message without tool calls.")
    return Ending.CONTINUE


def _turn(message: pb.ChatMessage, field: str, wrong: Violations) -> ChatTurn:
    role = _ROLES.get(message.role)
    if role is None:
        wrong.add(f"{field}.role", f"must be one of {_ROLE_NAMES}.")
    if role == "tool" and not message.tool_call_id:
        wrong.missing(f"{field}.tool_call_id")
    if role != "tool" and message.tool_call_id:
        wrong.add(f"{field}.tool_call_id", "is only for `ROLE_TOOL`.")
    if role != "assistant" and message.tool_calls:
        wrong.add(f"{field}.tool_calls", "is only for `ROLE_ASSISTANT`.")
    calls = _tool_calls(message.tool_calls, field, wrong)
    return ChatTurn(role or "", message.content, calls, message.tool_call_id or None)


def _tools(messages: Sequence[pb.Tool], wrong: Violations) -> Sequence[Tool]:
    """The functions that a model may call."""
    wrong.check_count(TOOLS.field, len(messages), TOOLS.max_items, "tools")
    found: list[Tool] = []
    for number, message in enumerate(messages[: TOOLS.max_items]):
        if wrong.is_full:
            break
        field = f"chat.tools[{number}]"
        _check_name(message.name, f"{field}.name", wrong)
        if any(tool.name == message.name for tool in found):
            wrong.add(f"{field}.name", "is the name of an earlier tool.")
        parameters = _parameters(message.parameters, f"{field}.parameters", wrong)
        found.append(Tool(message.name, message.description, parameters, message.strict))
    return tuple(found)


def _tool_choice(chat: pb.ChatInput, tools: Iterable[Tool], wrong: Violations) -> ToolChoice:
    """Whether the model calls tools; without tools it calls none."""
    mode = _MODES.get(chat.tool_choice.mode)
    if mode is None:
        known = ", ".join(f"`{pb.ToolChoiceMode.Name(mode)}`" for mode in _MODES if mode)
        wrong.add("chat.tool_choice.mode", f"must be one of {known}.")
        return ToolChoice(ToolMode.NONE)
    if not chat.tools:
        if mode.is_enforced:
            wrong.add("chat.tool_choice", "is only for requests with `chat.tools`.")
        return ToolChoice(ToolMode.NONE)
    if mode is ToolMode.NAMED and all(tool.name != chat.tool_choice.name for tool in tools):
        wrong.add("chat.tool_choice", "names a tool that is not among `chat.tools`.")
    return ToolChoice(mode, chat.tool_choice.name if mode is ToolMode.NAMED else None)


def _tool_calls(calls: Iterable[pb.ToolCall], field: str, wrong: Violations) -> Sequence[ToolCall]:
    """The calls of an earlier turn. Their arguments may be any text: what a model wrote may be no JSON."""
    found = []
    for number, call in enumerate(calls):
        if wrong.is_full:
            break
        name = f"{field}.tool_calls[{number}]"
        if not call.id:
            wrong.missing(f"{name}.id")
        _check_name(call.name, f"{name}.name", wrong)
        found.append(ToolCall(call.id, call.name, call.arguments))
    return tuple(found)


def _check_name(name: str, field: str, wrong: Violations) -> None:
    """Note what is no name of a function."""
    if not _NAME.fullmatch(name):
        wrong.add(field, "must be 1 to 64 characters of [A-Za-z0-9_-].")


def _parameters(text: str, field: str, wrong: Violations) -> Mapping[str, Any] | None:
    if not text:
        return None
    value = _json_object(text)
    if value is None:
        wrong.add(field, "must be a JSON object, a JSON Schema.")
    return value


def _json_object(text: str) -> dict[str, Any] | None:
    """The object; None for everything else, also where JSON's own syntax allows what is no text or number.

    That is half a surrogate pair, escaped, and a number beyond all floats.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
