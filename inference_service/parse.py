"""Protobuf to a request that cannot be wrong: the one default table and every range check.

Both doors end here. Field names in violations are the public parameter names.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.backends.types import Sampling
from inference_service.errors import InvalidRequest, RequestTooLarge, Violation
from inference_service.generation.prompt import ChatTurn

MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_STOP_TOKEN_IDS = 64
MAX_USER_LENGTH = 256
MAX_VIOLATIONS = 16
"""So many are told at once."""
DEFAULT_MAX_TOKENS = 150


@dataclass(frozen=True, slots=True)
class Knob:
    """A numeric parameter: its default and its accepted range."""

    name: str
    default: float
    low: float
    high: float
    excludes_low: bool = False

    def accepts(self, value: float) -> bool:
        above = value > self.low if self.excludes_low else value >= self.low
        return above and value <= self.high

    @property
    def range(self) -> str:
        return f"{'(' if self.excludes_low else '['}{_number(self.low)}, {_number(self.high)}]"


TEMPERATURE = Knob("temperature", 0.7, 0.0, 2.0)
TOP_P = Knob("top_p", 0.9, 0.0, 1.0)
TOP_K = Knob("top_k", 0, -1, 2**31 - 1)
MIN_P = Knob("min_p", 0.0, 0.0, 1.0)
FREQUENCY_PENALTY = Knob("frequency_penalty", 0.0, -2.0, 2.0)
PRESENCE_PENALTY = Knob("presence_penalty", 0.0, -2.0, 2.0)
REPETITION_PENALTY = Knob("repetition_penalty", 1.0, 0.0, 2.0, excludes_low=True)
MAX_TOKENS = Knob("max_tokens", DEFAULT_MAX_TOKENS, 1, 4096)

_ROLES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
}


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, one turn or more."""

    turns: Sequence[ChatTurn]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, one character or more."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, one or more, not yet checked against a vocabulary."""

    ids: Sequence[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt
PromptMessage = generate_pb.GenerateRequest | model_pb.CountTokensRequest


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A generation request with every default filled in and every range checked."""

    model: str
    """As the caller named it."""
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None
    """None: the caller set none; the default or what fits."""
    stops: Sequence[str]
    stop_token_ids: Sequence[int]
    """As the caller listed them, not yet checked against a vocabulary."""
    ignore_eos: bool
    user: str | None


class Violations:
    """Collects what is wrong, so that a caller learns all of it at once."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str, code: str = "invalid_value") -> None:
        self._found.append(Violation(field, description, code))

    def missing(self, field: str) -> None:
        self.add(field, f"{field} is required.", "missing_required_parameter")

    def number(self, message: Message, field: str, knob: Knob) -> float:
        """The value of an optional numeric field, or its default."""
        if not message.HasField(field):
            return knob.default
        value: float = getattr(message, field)
        if not knob.accepts(value):
            self.add(knob.name, f"{knob.name} is {_number(value)}; it must be in {knob.range}.")
        return value

    @property
    def is_full(self) -> bool:
        """Whether there is nothing to gain from looking further."""
        return len(self._found) >= MAX_VIOLATIONS

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidRequest(self._found[:MAX_VIOLATIONS])


def check_size(message: Message, limit: int) -> int:
    """The size of a message, in bytes, at most `limit`.

    Raises:
        RequestTooLarge: it is.

    """
    size = message.ByteSize()
    if size > limit:
        raise RequestTooLarge(size, limit)
    return size


def parse_generate(message: generate_pb.GenerateRequest) -> ParsedRequest:
    """Read a GenerateRequest.

    Raises:
        InvalidRequest: with one violation per wrong field.

    """
    wrong = Violations()
    prompt = _prompt(message, wrong)
    request = ParsedRequest(
        model=_model(message.model, wrong),
        prompt=prompt,
        sampling=_sampling(message.sampling, wrong),
        max_tokens=_max_tokens(message.stopping, wrong),
        stops=_stops(message.stopping, wrong),
        stop_token_ids=_stop_token_ids(message.stopping, wrong),
        ignore_eos=message.stopping.ignore_eos,
        user=_user(message, wrong),
    )
    wrong.raise_if_any()
    return request


def parse_count(message: model_pb.CountTokensRequest) -> tuple[str, Prompt]:
    """Read a CountTokensRequest: the model as named, and the prompt.

    Raises:
        InvalidRequest: with one violation per wrong field.

    """
    wrong = Violations()
    model, prompt = _model(message.model, wrong), _prompt(message, wrong)
    wrong.raise_if_any()
    return model, prompt


def parse_model_name(message: model_pb.GetModelRequest) -> str:
    """Read a GetModelRequest.

    Raises:
        InvalidRequest: no model is named.

    """
    wrong = Violations()
    model = _model(message.model, wrong)
    wrong.raise_if_any()
    return model


def _model(name: str, wrong: Violations) -> str:
    if not name:
        wrong.missing("model")
    return name


def _prompt(message: PromptMessage, wrong: Violations) -> Prompt:
    form = message.WhichOneof("input")
    if form == "chat":
        return _chat(message.chat, wrong)
    if form == "token_ids":
        if not message.token_ids.ids:
            wrong.add("prompt", "prompt must hold at least one token id.")
        return TokenPrompt(tuple(message.token_ids.ids))
    if form is None:
        wrong.add(
            "messages", "One of messages, prompt or token ids is required.", "missing_required_parameter"
        )
    elif not message.prompt:
        wrong.add("prompt", "prompt must hold at least one character.")
    return TextPrompt(message.prompt)


def _chat(chat: pb.ChatInput, wrong: Violations) -> ChatPrompt:
    if not chat.messages:
        wrong.add("messages", "messages must hold at least one message.")
    turns = []
    for number, message in enumerate(chat.messages):
        role = _ROLES.get(message.role)
        if role is None:
            wrong.add(
                f"messages[{number}].role",
                f"messages[{number}].role must be one of {', '.join(_ROLES.values())}.",
            )
        if wrong.is_full:
            break
        turns.append(ChatTurn(role or "", message.content))
    return ChatPrompt(tuple(turns))


def _sampling(options: pb.SamplingOptions, wrong: Violations) -> Sampling:
    temperature = wrong.number(options, "temperature", TEMPERATURE)
    has_seed = options.HasField("seed")
    return Sampling(
        temperature=temperature,
        top_p=wrong.number(options, "top_p", TOP_P),
        top_k=max(0, int(wrong.number(options, "top_k", TOP_K))),
        min_p=wrong.number(options, "min_p", MIN_P),
        frequency_penalty=wrong.number(options, "frequency_penalty", FREQUENCY_PENALTY),
        presence_penalty=wrong.number(options, "presence_penalty", PRESENCE_PENALTY),
        repetition_penalty=wrong.number(options, "repetition_penalty", REPETITION_PENALTY),
        seed=options.seed % 2**64 if has_seed else secrets.randbits(64),
        reproducible=has_seed or temperature == 0.0,
    )


def _max_tokens(options: pb.StoppingOptions, wrong: Violations) -> int | None:
    if not options.HasField("max_tokens"):
        return None
    return int(wrong.number(options, "max_tokens", MAX_TOKENS))


def _stops(options: pb.StoppingOptions, wrong: Violations) -> Sequence[str]:
    if len(options.stop) > MAX_STOPS:
        wrong.add("stop", f"stop holds {len(options.stop)} sequences; it may hold {MAX_STOPS}.")
    for number, stop in enumerate(options.stop[: MAX_STOPS + 1]):
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            name = f"stop[{number}]"
            wrong.add(name, f"{name} is {len(stop)} characters long; it must be in [1, {MAX_STOP_LENGTH}].")
    return tuple(options.stop)


def _stop_token_ids(options: pb.StoppingOptions, wrong: Violations) -> Sequence[int]:
    if len(options.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        wrong.add(
            "stop_token_ids",
            f"stop_token_ids holds {len(options.stop_token_ids)} ids; it may hold {MAX_STOP_TOKEN_IDS}.",
        )
    return tuple(options.stop_token_ids)


def _user(message: generate_pb.GenerateRequest, wrong: Violations) -> str | None:
    if not message.HasField("user"):
        return None
    if len(message.user) > MAX_USER_LENGTH:
        wrong.add(
            "user", f"user is {len(message.user)} characters long; at most {MAX_USER_LENGTH} are accepted."
        )
    return message.user


def check_token_ids(ids: Sequence[int], vocabulary_size: int, field: str) -> None:
    """Refuse ids outside the vocabulary.

    Raises:
        InvalidRequest: naming the first one.

    """
    bad = next((n for n, token_id in enumerate(ids) if token_id >= vocabulary_size), None)
    if bad is not None:
        name = f"{field}[{bad}]"
        raise InvalidRequest.of(name, f"{name} is {ids[bad]}; it must be in [0, {vocabulary_size}).")


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")
