"""Whole requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.backends.types import Sampling
from inference_service.parse.constraint import Constraint, read_constraint
from inference_service.parse.ineffective import ineffective_fields, ineffective_in_prompt
from inference_service.parse.output import Output, check_scores, read_output
from inference_service.parse.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    read_prompt,
    read_prompts,
    single_prompts,
)
from inference_service.parse.sampling import read_logit_bias, read_sampling
from inference_service.parse.stopping import Stopping, TokenLimits, read_stopping
from inference_service.parse.unknown import unknown_fields
from inference_service.parse.violations import Violations
from lodestream_common.parameters import PARAMETERS

USER = PARAMETERS["user"]
_CONTRACT = TokenLimits()


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A generation request with every default filled in and every range checked."""

    model: str
    """As the caller named it."""
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
    """What it holds and has no effect."""

    @property
    def is_constrained(self) -> bool:
        """Whether its answer follows a grammar: that of a constraint, or of calls that are demanded."""
        chat = self.prompt
        return self.constraint is not None or (isinstance(chat, ChatPrompt) and chat.enforces_calls)


def parse_generate(message: generate_pb.GenerateRequest, limits: TokenLimits = _CONTRACT) -> ParsedRequest:
    """Read a GenerateRequest, with the operator's limits of tokens.

    Raises:
        InvalidRequest: with one violation per wrong field.

    """
    wrong = Violations()
    prompt = read_prompts(message, wrong)
    request = ParsedRequest(
        model=_model(message.model, wrong),
        prompt=prompt,
        sampling=read_sampling(message.sampling, wrong),
        logit_bias=read_logit_bias(message.sampling, wrong),
        stopping=read_stopping(message.stopping, limits, wrong),
        output=read_output(message.output, prompt, wrong),
        constraint=read_constraint(message.constraint, wrong) if message.HasField("constraint") else None,
        user=_user(message, wrong),
        validate_only=message.validate_only,
        ignored=(*unknown_fields(message), *ineffective_fields(message)),
    )
    most = request.stopping.max_tokens or limits.default
    check_scores(request.output, len(single_prompts(prompt)), most, wrong)
    if request.stopping.ignore_eos and request.is_constrained:
        wrong.add("stopping.ignore_eos", "cannot be combined with a constraint, which has an end.")
    wrong.raise_if_any()
    return request


def parse_count(message: model_pb.CountTokensRequest) -> tuple[str, Prompt, tuple[str, ...]]:
    """Read a CountTokensRequest: the model as named, the prompt, and what it holds and has no effect.

    Raises:
        InvalidRequest: with one violation per wrong field.

    """
    wrong = Violations()
    model, prompt = _model(message.model, wrong), read_prompt(message, wrong)
    wrong.raise_if_any()
    return model, prompt, (*unknown_fields(message), *ineffective_in_prompt(message))


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


def _user(message: generate_pb.GenerateRequest, wrong: Violations) -> str | None:
    if not message.HasField("user"):
        return None
    wrong.check_length(USER.field, message.user, 0, USER.max_length)
    return message.user
