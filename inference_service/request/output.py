"""What an answer holds, and the constraint that its text has to follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.request.prompt import BatchPrompt, ChatPrompt, Prompt
from inference_service.request.violations import Violations
from lodestream_common.parameters import PARAMETERS

CHOICES = PARAMETERS["n"]
TOP_LOGPROBS = PARAMETERS["top_logprobs"]
MAX_CHOICES = 32
"""Of all prompts of a request together."""

MAX_SCORES = 250_000
"""Log probabilities of an answer: of its tokens and of all their alternatives together."""


@dataclass(frozen=True, slots=True)
class Output:
    """What an answer holds."""

    n: int
    """Choices for each prompt."""
    logprobs: int | None
    """None: no log probabilities; else how many alternatives beside the token's own."""
    echo: bool


def read_output(options: pb.OutputOptions, prompt: Prompt | BatchPrompt, wrong: Violations) -> Output:
    """What is asked for, checked against the kind of prompt."""
    n = int(wrong.number(options, CHOICES))
    prompts = len(prompt.prompts) if isinstance(prompt, BatchPrompt) else 1
    if prompts * n > MAX_CHOICES:
        wrong.add(CHOICES.field, f"is {n} for {prompts} prompts; a request may have {MAX_CHOICES} choices.")
    output = Output(n, _logprobs(options, wrong), options.echo)
    if output.echo and isinstance(prompt, ChatPrompt):
        wrong.add("output.echo", "is only for prompts that are no conversation.")
    if output.echo and output.logprobs is not None:
        wrong.add(
            "output.echo",
            "with `output.logprobs` is not supported: prompts have none.",
            "unsupported_parameter",
        )
    return output


def check_scores(output: Output, prompts: int, max_tokens: int, wrong: Violations) -> None:
    """Note an answer that would be too large to send at once."""
    if output.logprobs is None:
        return
    scores = prompts * output.n * max_tokens * (output.logprobs + 1)
    if scores > MAX_SCORES:
        wrong.add(
            TOP_LOGPROBS.field,
            f"is {output.logprobs}, with {prompts * output.n} choices of {max_tokens} tokens: "
            f"up to {scores} log probabilities; an answer may have {MAX_SCORES}.",
        )


def _logprobs(options: pb.OutputOptions, wrong: Violations) -> int | None:
    top = int(wrong.number(options, TOP_LOGPROBS))
    if options.logprobs:
        return top
    if top:
        wrong.add(TOP_LOGPROBS.field, "is only for requests with `output.logprobs`.")
    return None


ConstraintKind = Literal["json_object", "json_schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint as the caller wrote it, not yet compiled."""

    kind: ConstraintKind
    source: str
    """Empty for `json_object`."""

    @property
    def field(self) -> str:
        """Its path in the protocol."""
        return constraint_field(self.kind)


def constraint_field(kind: ConstraintKind) -> str:
    """The path of a kind of constraint in the protocol."""
    return f"constraint.{kind}"


def read_constraint(message: pb.Constraint, wrong: Violations) -> Constraint | None:
    """The constraint of a request, if it has one."""
    kind = message.WhichOneof("kind")
    if kind is None:
        wrong.missing("constraint.kind")
        return None
    if kind == "json_object":
        if not message.json_object:
            wrong.add("constraint.json_object", "must be true where it is set.")
        return Constraint(kind, "")
    source = getattr(message, kind)
    if not source:
        wrong.add(constraint_field(kind), "must not be empty.")
    return Constraint(kind, source)
