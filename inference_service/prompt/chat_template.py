"""Renders a conversation to a prompt with the model's chat template, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference_service.prompt import tool_formats
from inference_service.prompt.conversation import (
    ChatTurn,
    Ending,
    RawArguments,
    Tool,
    message_document,
    read_arguments,
    tool_document,
    written_texts,
)
from inference_service.prompt.tokenizer import ControlTokenEscaper, Tokenizer, new_mark
from inference_service.prompt.tool_formats import PLAIN, ToolFormat, fold_tools, one_call_a_turn, write_calls


class TemplateRefusal(TemplateRuntimeError):
    """Expected: the template called `raise_exception`."""


class _GenerationBlocks(Extension):
    """`{% generation %}` marks the model's own turns for training; here it only wraps them."""

    tags = {"generation"}  # noqa: RUF012 - the base class's attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> Template:
    """Compile a chat template.

    The template sees neither files nor modules, cannot change what it is given, and loops over at most
    100,000 numbers (`jinja2.sandbox.MAX_RANGE`). Nothing limits nested loops and huge
    products: the operator who chooses a model also chooses its template.

    Raises:
        jinja2.TemplateSyntaxError: it is no template.

    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationBlocks],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    if isinstance(value, RawArguments):
        return str(value)
    # Jinja's own filter escapes for HTML, which a model never saw.
    return json.dumps(value, indent=indent, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusal(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


_MAX_REASON = 200


class PromptError(Exception):
    """Expected: the model's template cannot take the conversation. The message is safe to send."""


class ChatTemplate:
    """A model's chat template, with the tokenizer that encodes the rendered prompt.

    Only the template's own text can become control tokens; a message, tool or call that spells one is
    encoded as the characters it is made of, and its text reaches the model unchanged. Safe to use from
    several threads.

    The constructor renders a conversation with tools. The result shows whether the template describes tools
    to the model, and in which format it writes calls. If it describes none, or its calls are not JSON, tools
    become ordinary messages in a plain format.

    Args:
        source: the Jinja source.
        tokenizer: the model's tokenizer.
        bos_token: text of the token that begins a text; empty for none.
        eos_token: text of the token that ends one; empty for none.

    Raises:
        jinja2.TemplateSyntaxError: the source is no template.

    """

    def __init__(self, source: str, tokenizer: Tokenizer, *, bos_token: str, eos_token: str) -> None:
        self._template = compile_template(source)
        self._tokenizer = tokenizer
        self._control = tokenizer.control_texts
        self._texts = {"bos_token": bos_token, "eos_token": eos_token}
        own_format = tool_formats.find_format(self._try(tool_formats.CONVERSATION, tool_formats.TOOLS))
        self._knows_tools = own_format is not None
        self._takes_several_calls = bool(self._try(tool_formats.SEVERAL_CALLS, tool_formats.TOOLS))
        self._takes_raw_arguments = tool_formats.takes_raw_arguments(
            self._try(tool_formats.CUT_CALL, tool_formats.TOOLS)
        )
        self._takes_system = tool_formats.INSTRUCTION in self._try(tool_formats.INSTRUCTED)
        self.tool_format: ToolFormat = own_format or PLAIN
        """The format in which the model writes calls."""

    def render(
        self, messages: Sequence[ChatTurn], tools: Sequence[Tool] = (), ending: Ending = Ending.ANSWER
    ) -> list[int]:
        """The prompt that asks the model for the next turn, as token ids.

        Args:
            messages: the conversation.
            tools: what the model may call; none where the caller's tool choice is `none`.
            ending: how the prompt ends; CONTINUE needs a message, whose last has no calls.

        Raises:
            PromptError: the template refuses the conversation, or fails on it, or leaves out the message to
                be continued.

        """
        try:
            return self._tokenizer.begin(self._ids(*self._adapted(messages, tools), ending))
        except RecursionError as error:
            raise PromptError("The tools are nested too deeply.") from error

    def _adapted(
        self, turns: Sequence[ChatTurn], tools: Sequence[Tool]
    ) -> tuple[Sequence[ChatTurn], Sequence[Tool]]:
        """The conversation in a form that the template takes, and the tools that it writes itself."""
        if not self._knows_tools:
            return fold_tools(turns, tools, takes_system=self._takes_system), ()
        if not self._takes_raw_arguments:
            turns = [write_calls(turn, self.tool_format) if _has_raw(turn) else turn for turn in turns]
        return (turns if self._takes_several_calls else one_call_a_turn(turns)), tools

    def _ids(self, turns: Sequence[ChatTurn], tools: Sequence[Tool], ending: Ending) -> list[int]:
        texts = list(written_texts(turns, tools))
        escaper = ControlTokenEscaper(self._control, texts)
        messages = [message_document(turn, escaper) for turn in turns]
        mark = new_mark(texts) if ending is Ending.CONTINUE else ""
        if mark:
            # The mark also keeps templates from stripping the white space before it.
            messages[-1]["content"] += mark
        prompt = self._fill(messages, [tool_document(tool, escaper) for tool in tools], ending)
        if mark:
            prompt, found, _ = prompt.rpartition(mark)
            if not found:
                raise PromptError("The model's chat template leaves out the final message, or changes it.")
        ids: list[int] = []
        for part in self._control.split(prompt):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._tokenizer.encode_text(escaper.remove_marks(part))
        return ids

    def _try(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The rendered messages; empty if the template refuses them or fails."""
        try:
            return self._fill(messages, tools, Ending.ANSWER)
        except PromptError:
            return ""

    def _fill(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], ending: Ending
    ) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=ending is Ending.ANSWER,
                tools=tools or None,
                documents=None,
                **self._texts,
            )
        except TemplateRefusal as refusal:
            reason = " ".join(str(refusal).split())[:_MAX_REASON]
            raise PromptError(f"The model's chat template refuses the conversation: {reason}") from refusal
        except Exception as error:
            # The template is the model's code: whatever it raises is its failure.
            raise PromptError("The model's chat template fails on the conversation.") from error


def _has_raw(turn: ChatTurn) -> bool:
    return any(isinstance(read_arguments(call.arguments), RawArguments) for call in turn.tool_calls)
