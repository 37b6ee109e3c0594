"""The served model: its names, its limits, and how it encodes prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from inference_service.backends.types import BackendDescription, Sampling
from inference_service.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, Violation
from inference_service.prompt.chat_template import ChatTemplate, PromptError
from inference_service.prompt.conversation import ToolMode
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.request.generate import ParsedRequest
from inference_service.request.options import TokenLimits
from inference_service.request.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    PromptMessage,
    TextPrompt,
    TokenPrompt,
    least_tokens,
    prompt_fields,
)
from inference_service.request.violations import check_token_ids
from inference_service.scheduling.admission import Tenant
from inference_service.scheduling.workers import FairPool

_INLINE_BYTES = 2000
"""Larger requests are read in a worker thread: 500 tokens take about a millisecond to encode."""

T = TypeVar("T")


class Effort(Enum):
    """The amount of work that a request is to read, which decides where it is read."""

    BY_SIZE = "by size"
    LONG = "long"
    """Too much for the event loop, even for a small request."""
    COMPILING = "compiling"
    """A grammar is compiled, which may take seconds."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model behind a started engine."""

    id: str
    aliases: Mapping[str, str]
    """Other name → served id."""
    tokenizer: Tokenizer
    template: ChatTemplate | None
    engine: BackendDescription
    workers: FairPool
    """Read large requests."""
    compilers: FairPool
    """Compile grammars, apart from `workers`: a long prompt does not wait for them."""
    limits: TokenLimits = field(default_factory=TokenLimits)
    """The limits on the tokens of a choice."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since the Unix epoch."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use: the id, then the aliases in order."""
        return (self.id, *sorted(self.aliases.keys() - {self.id}))

    def check_name(self, name: str) -> None:
        """Refuse a name that is neither the id nor an alias.

        Raises:
            ModelNotFound: the name is neither; the error lists the served names.

        """
        if name not in self.names:
            raise ModelNotFound(self.names)

    def check_length(self, message: PromptMessage, max_tokens: int = 1) -> None:
        """Refuse, before any of it is parsed, a request that cannot fit the context.

        Raises:
            ContextLengthExceeded: a prompt has more bytes than a context full of the longest token.

        """
        context, longest = self.engine.context_length, self.tokenizer.longest_token
        if message.ByteSize() <= context:
            return
        for name, tokens in least_tokens(message, longest):
            if tokens > context:
                raise ContextLengthExceeded(tokens, max(1, max_tokens), context, name, is_least=True)

    def check(self, request: ParsedRequest) -> None:
        """Refuse a model that is not served, and parameters that the loaded engine does not support.

        Raises:
            ModelNotFound: the model is not served.
            InvalidRequest: with a violation for each parameter that is unsupported or out of range.

        """
        self.check_name(request.model)
        violations = [
            Violation(field, "is not supported by the loaded engine.", "unsupported_parameter")
            for field in _in_use(request)
            if _capability(field) in self.engine.refused
        ]
        violations += self._over_ceilings(request.sampling)
        if violations:
            raise InvalidRequest(violations)
        size = self.engine.vocabulary_size
        check_token_ids(request.stopping.stop_token_ids, size, "stopping.stop_token_ids")
        bad = next((i for i in request.logit_bias if i >= size), None)
        if bad is not None:
            raise InvalidRequest.of("sampling.logit_bias", f"names {bad}; ids must be in [0, {size}).")

    def _over_ceilings(self, sampling: Sampling) -> list[Violation]:
        values = ((name, getattr(sampling, name), most) for name, most in self.engine.ceilings.items())
        return [
            Violation(f"sampling.{name}", f"is {value}; the loaded engine takes at most {most:g}.")
            for name, value, most in values
            if value > most
        ]

    async def work(
        self,
        tenant: Tenant,
        size: int,
        function: Callable[..., T],
        *arguments: object,
        effort: Effort = Effort.BY_SIZE,
    ) -> T:
        """Call a function that reads a request of `size` bytes, in a worker thread where it takes long.

        Raises:
            QueueFull: this tenant's share of the workers' queue is full.

        """
        if effort is Effort.BY_SIZE and size <= _INLINE_BYTES:
            return function(*arguments)
        pool = self.compilers if effort is Effort.COMPILING else self.workers
        return await pool.run(tenant, size, function, *arguments)

    def encode(self, prompt: Prompt, field: str) -> Sequence[int]:
        """Encode a prompt to token ids, at least one. `field` of the request holds it, for errors.

        Raises:
            InvalidRequest: the model's template refuses the conversation, an id is out of range, or the
                text gives no tokens in the model's vocabulary.

        """
        if isinstance(prompt, TokenPrompt):
            check_token_ids(prompt.ids, self.tokenizer.vocabulary_size, f"{field}.ids")
            return prompt.ids
        if isinstance(prompt, TextPrompt):
            ids = self.tokenizer.encode_prompt(prompt.text, parse_special=prompt.parse_special)
        else:
            ids = self._encode_chat(prompt)
        if not ids:
            raise InvalidRequest.of(field, "holds no text that the model's vocabulary knows.")
        return ids

    def plain_control_tokens(self, prompt: Prompt | BatchPrompt) -> Iterator[str]:
        """Name the raw texts that contain the text of a control token and encode it as plain text."""
        for name, one in prompt_fields(prompt).items():
            if not isinstance(one, TextPrompt) or one.parse_special:
                continue
            if self.tokenizer.control_texts.are_in(one.text):
                yield f"{name}.control_tokens"

    def max_tokens(self, requested: int | None, prompt_tokens: int, field: str) -> int:
        """How many tokens to generate: what the request sets, or as much of the default as fits.

        Args:
            requested: `max_tokens` of the request; None: it sets none.
            prompt_tokens: of its prompt.
            field: of the request that holds the prompt, for the error.

        Raises:
            ContextLengthExceeded: prompt and output do not fit the context.

        """
        context = self.engine.context_length
        free = context - prompt_tokens
        most = requested if requested is not None else min(self.limits.default, free)
        if not 1 <= most <= free:
            raise ContextLengthExceeded(prompt_tokens, max(most, 1), context, field)
        return most

    def _encode_chat(self, prompt: ChatPrompt) -> list[int]:
        if self.template is None:
            raise InvalidRequest.of(
                "chat.messages",
                "cannot be rendered: the model has no chat template; send a prompt instead.",
                "unsupported_parameter",
            )
        count, most = len(prompt.turns), self.engine.context_length
        if count > most:
            # Each turn takes at least one token: so many cannot fit, and rendering them would take long.
            raise InvalidRequest.of("chat.messages", f"holds {count} messages; it may hold {most}.")
        try:
            tools = () if prompt.tool_choice.mode is ToolMode.NONE else prompt.tools
            return self.template.render(prompt.turns, tools, prompt.ending)
        except PromptError as error:
            raise InvalidRequest.of("chat.messages", f"cannot be rendered: {error}") from None


def _in_use(request: ParsedRequest) -> Iterator[str]:
    """The parameters of a request that not every engine supports, by path."""
    yield from (f"sampling.{name}" for name in sorted(request.sampling.in_use))
    if request.logit_bias:
        yield "sampling.logit_bias"
    if request.output.logprobs is not None:
        yield "output.logprobs"
    if request.output.logprobs:
        yield "output.top_logprobs"
    if request.constraint is not None:
        yield request.constraint.field
    if isinstance(request.prompt, ChatPrompt) and request.prompt.enforces_calls:
        yield "chat.tool_choice"


def _capability(field: str) -> str:
    """The name in `BackendDescription.refused` for a field of the protocol."""
    group, _, name = field.rpartition(".")
    return "grammar" if group in ("constraint", "chat") else name
