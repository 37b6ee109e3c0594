"""Reads the gateway's requests: each becomes one of our own protocol, or an error that names its field.

A field that the service cannot honour is refused wherever it is set. Two that change no token are accepted:
`tokenized.original_text` and `arrival_time`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from google.protobuf.message import Message
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as generation
from smg_grpc_proto.generated import trtllm_service_pb2 as pb

from inference_service.errors import ContextLengthExceeded, InvalidRequest, ServiceError, Violation
from inference_service.request.generate import ParsedRequest, parse_generate, unknown_fields
from inference_service.request.options import TokenLimits
from inference_service.request.violations import Violations

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_FORBIDDEN = -100.0
"""A bias that no token outweighs."""

_HONOURED: Mapping[str, frozenset[str]] = {
    "": frozenset({
        "request_id", "tokenized", "sampling_config", "output_config", "max_tokens", "streaming",
        "guided_decoding", "arrival_time", "stop", "stop_token_ids", "ignore_eos", "bad_token_ids",
        "include_stop_token_in_output",
    }),
    "tokenized": frozenset({"original_text", "input_token_ids"}),
    "sampling_config": frozenset({
        "beam_width", "num_return_sequences", "top_k", "top_p", "seed", "temperature", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "min_p",
    }),
    "output_config": frozenset({"logprobs", "exclude_input_from_output"}),
}  # fmt: skip
_OFF_AT_ZERO = frozenset({"min_tokens", "prompt_ignore_length", "no_repeat_ngram_size"})
"""Fields that are not honoured, and change nothing where they are 0."""

_FIELDS = {
    "token_ids.ids": "tokenized.input_token_ids",
    "token_ids": "tokenized.input_token_ids",
    "stopping.": "",
    "sampling.logit_bias": "bad_token_ids",
    "sampling.": "sampling_config.",
    "output.n": "sampling_config.num_return_sequences",
    "output.top_logprobs": "output_config.logprobs",
    "output.logprobs": "output_config.logprobs",
    "constraint.json_schema": "guided_decoding.guide",
    "constraint.regex": "guided_decoding.guide",
    "constraint.grammar": "guided_decoding.guide",
}
"""Our fields and the gateway's, the longer of two with the same beginning first."""
_QUOTED = re.compile(r"`([a-z_.]+)`")


def our_request(message: pb.GenerateRequest, model: str) -> generate_pb.GenerateRequest:
    """Convert a request.

    Args:
        message: the gateway's.
        model: the id of the served model; the protocol has no names of models.

    Raises:
        InvalidRequest: with one violation for each field that is missing or not supported.

    """
    violations = Violations()
    for field in _refused(message):
        violations.add(field, "is not supported by this worker.", "unsupported_parameter")
    if not message.tokenized.input_token_ids:
        violations.add_missing("tokenized.input_token_ids")
    if not message.max_tokens:
        violations.add_missing("max_tokens")
    if not 0 <= message.sampling_config.beam_width <= 1:
        violations.add(
            "sampling_config.beam_width", f"is {message.sampling_config.beam_width}; it must be 1."
        )
    constraint = (
        _constraint(message.guided_decoding, violations) if message.HasField("guided_decoding") else None
    )
    violations.raise_if_any()
    return generate_pb.GenerateRequest(
        model=model,
        token_ids=generation.TokenIds(ids=message.tokenized.input_token_ids),
        sampling=_sampling(message),
        stopping=generation.StoppingOptions(
            max_tokens=min(message.max_tokens, _INT32),
            stop=message.stop,
            stop_token_ids=message.stop_token_ids,
            ignore_eos=message.ignore_eos,
            include_stop=message.include_stop_token_in_output and bool(message.stop),
        ),
        output=_output(message),
        constraint=constraint,
    )


def parse_whole_tokens(message: generate_pb.GenerateRequest, limits: TokenLimits) -> ParsedRequest:
    """Read a converted request, whose answer ends with a whole token.

    The gateway gets no text, only tokens: without the token in which a stop sequence begins, the text before
    the sequence would be lost.

    Raises:
        InvalidRequest: with one violation for each invalid field.

    """
    parsed = parse_generate(message, limits)
    return replace(parsed, stopping=replace(parsed.stopping, whole_tokens=True))


def in_their_words(error: ServiceError) -> ServiceError:
    """An error of our own request, with the gateway's names of the fields."""
    if isinstance(error, InvalidRequest):
        return InvalidRequest(
            [
                Violation(their_field(v.field), _QUOTED.sub(_their_quoted, v.description), v.code)
                for v in error.violations
            ]
        )
    if isinstance(error, ContextLengthExceeded):
        return ContextLengthExceeded(
            error.prompt_tokens, error.max_tokens, error.context_length, their_field(error.field)
        )
    return error


def their_field(field: str) -> str:
    """The gateway's name of one of our fields; the rest of a path behind it stays."""
    for ours, theirs in _FIELDS.items():
        if field.startswith(ours):
            return theirs + field[len(ours) :]
    return field


def _their_quoted(found: re.Match[str]) -> str:
    return f"`{their_field(found[1])}`"


def _refused(message: pb.GenerateRequest) -> Iterator[str]:
    yield from unknown_fields(message)
    for path, honoured in _HONOURED.items():
        part: Message = getattr(message, path) if path else message
        for field, value in part.ListFields():
            if field.name not in honoured and not (field.name in _OFF_AT_ZERO and value == 0):
                yield f"{path}.{field.name}" if path else field.name


def _sampling(message: pb.GenerateRequest) -> generation.SamplingOptions:
    config = message.sampling_config
    names = (
        "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty",
        "repetition_penalty",
    )  # fmt: skip
    given = {name: getattr(config, name) for name in names if config.HasField(name)}
    if config.HasField("seed"):
        given["seed"] = config.seed if config.seed <= _INT64 else config.seed - 2**64
    return generation.SamplingOptions(**given, logit_bias=dict.fromkeys(message.bad_token_ids, _FORBIDDEN))


def _output(message: pb.GenerateRequest) -> generation.OutputOptions:
    config = message.output_config
    output = generation.OutputOptions(n=min(message.sampling_config.num_return_sequences or 1, _INT32))
    if config.HasField("logprobs"):
        output.logprobs, output.top_logprobs = True, config.logprobs
    return output


def _constraint(guided: pb.GuidedDecodingParams, violations: Violations) -> generation.Constraint | None:
    kinds = pb.GuidedDecodingParams.GuideType
    match guided.guide_type:
        case kinds.GUIDE_TYPE_JSON:
            if guided.guide:
                violations.add("guided_decoding.guide", "must be empty for any JSON.")
            return generation.Constraint(json_schema="{}")
        case kinds.GUIDE_TYPE_JSON_SCHEMA:
            return generation.Constraint(json_schema=guided.guide)
        case kinds.GUIDE_TYPE_REGEX:
            return generation.Constraint(regex=guided.guide)
        case kinds.GUIDE_TYPE_EBNF_GRAMMAR:
            return generation.Constraint(grammar=guided.guide)
    violations.add(
        "guided_decoding.guide_type",
        "must be GUIDE_TYPE_JSON, GUIDE_TYPE_JSON_SCHEMA, GUIDE_TYPE_REGEX or GUIDE_TYPE_EBNF_GRAMMAR.",
        "unsupported_parameter",
    )
    return None
