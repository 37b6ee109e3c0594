"""Turns a validated request into the engine's work: filtered prompts as tokens, a plan for each choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inference_service.backends.types import EngineRequest, Sampling
from inference_service.constraints.grammar import Grammar
from inference_service.output.content_filter.output import ContentPolicy
from inference_service.output.events import Report
from inference_service.output.pipeline import ChoicePipeline, Stages
from inference_service.output.tool_calls import ToolCallParser, call_ids
from inference_service.prompt.conversation import (
    Ending,
    ToolMode,
    read_arguments,
    strings_in,
    strings_in_value,
)
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.request.generate import ParsedRequest
from inference_service.request.prompt import (
    BatchPrompt,
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    prompt_fields,
    single_prompts,
)
from inference_service.scheduling.admission import Deadline
from inference_service.scheduling.constraint import GrammarCheck, grammar_of, most_calls, unenforced
from inference_service.scheduling.runner import ChoicePlan, GenerationRequest
from inference_service.scheduling.served_model import Effort, ServedModel


@dataclass(frozen=True, slots=True)
class RequestOwner:
    """On whose behalf a request is made."""

    request_id: str
    key_name: str
    deadline: Deadline | None


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as tokens."""

    prompt: Prompt
    ids: Sequence[int]
    max_tokens: int
    """Room that each of its choices has."""
    opening: str
    """Text before each of its choices' own."""


class Planner:
    """Plans requests for a served model.

    Args:
        model: what is served.
        policy: the content filter; None: there is none.
        check_grammar: finds out what the engine makes of a grammar.

    """

    def __init__(self, model: ServedModel, policy: ContentPolicy | None, check_grammar: GrammarCheck) -> None:
        self._model = model
        self._policy = policy
        self._check_grammar = check_grammar

    def plan(self, parsed: ParsedRequest, caller: RequestOwner) -> GenerationRequest:
        """Check a request against what is served, and turn it into work. Blocks for as long as that takes.

        Raises:
            ServiceError: the model or the engine cannot do it, or it does not fit.

        """
        self._model.check(parsed)
        screening = screened(self._policy, parsed.prompt, self._model.tokenizer, caller.key_name)
        prompts = [self._encode(*item, parsed) for item in prompt_fields(screening.prompt).items()]
        grammar = grammar_of(parsed, self._model, self._check_grammar)
        work = _Work(self._model, self._policy, parsed, caller, grammar)
        return GenerationRequest(
            request_id=caller.request_id,
            model=self._model.id,
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
            choices=() if parsed.validate_only else tuple(work.choices(prompts)),
            deadline=caller.deadline,
            report=self._report(parsed, prompts, grammar),
            blocked_by=None if parsed.validate_only else screening.blocked_by,
        )

    def _encode(self, field: str, prompt: Prompt, parsed: ParsedRequest) -> EncodedPrompt:
        ids = self._model.encode(prompt, field)
        room = self._model.room(parsed.stopping.max_tokens, len(ids), field)
        return EncodedPrompt(prompt, ids, room, self._opening(prompt, ids) if parsed.output.echo else "")

    def _report(
        self, parsed: ParsedRequest, prompts: Sequence[EncodedPrompt], grammar: Grammar | None
    ) -> Report:
        most = max(prompt.max_tokens for prompt in prompts)
        ignored = (*parsed.ignored, *self._model.unread(parsed.prompt), *unenforced(grammar, parsed))
        return Report(parsed.sampling, parsed.logit_bias, most, ignored)

    def _opening(self, prompt: Prompt, ids: Sequence[int]) -> str:
        return prompt.text if isinstance(prompt, TextPrompt) else self._model.tokenizer.decode(ids)


@dataclass(frozen=True, slots=True)
class _Work:
    """What all choices of a request share."""

    model: ServedModel
    policy: ContentPolicy | None
    parsed: ParsedRequest
    caller: RequestOwner
    grammar: Grammar | None

    def choices(self, prompts: Sequence[EncodedPrompt]) -> Iterator[ChoicePlan]:
        n = self.parsed.output.n
        for number, prompt in enumerate(prompts):
            for k in range(n):
                yield self._choice(prompt, number * n + k, k)

    def _choice(self, prompt: EncodedPrompt, index: int, k: int) -> ChoicePlan:
        """The `k`-th choice of a prompt, with its index among all."""
        sampling = self._sampling(k)
        request_id = self.caller.request_id
        engine = EngineRequest(
            request_id=f"{request_id}-{index}" if index else request_id,
            prompt_ids=prompt.ids,
            sampling=sampling,
            max_tokens=prompt.max_tokens,
            ignore_eos=self.parsed.stopping.ignore_eos,
            logit_bias=self.parsed.logit_bias,
            logprobs=self.parsed.output.logprobs,
            grammar=self.grammar,
        )
        stream = ChoicePipeline(self.model.tokenizer, self._stages(prompt, sampling, index), index)
        return ChoicePlan(index, engine, stream, prompt.opening, repeats_prompt=k > 0)

    def _sampling(self, k: int) -> Sampling:
        sampling = self.parsed.sampling
        return replace(sampling, seed=choice_seed(sampling.seed, k)) if k else sampling

    def _stages(self, prompt: EncodedPrompt, sampling: Sampling, index: int) -> Stages:
        stopping = self.parsed.stopping
        # A call that is enforced ends where its grammar does.
        stops = not (isinstance(prompt.prompt, ChatPrompt) and prompt.prompt.enforces_calls)
        return Stages(
            stops=stopping.stops if stops else (),
            stop_token_ids=frozenset(stopping.stop_token_ids if stops else ()),
            include_stop=stopping.include_stop,
            filter=self.policy.output_filter(self.caller.key_name) if self.policy else None,
            tools=_tools(prompt, sampling, index),
        )


def _tools(prompt: EncodedPrompt, sampling: Sampling, index: int) -> ToolCallParser | None:
    chat = prompt.prompt
    if not isinstance(chat, ChatPrompt) or chat.tool_choice.mode is ToolMode.NONE:
        return None
    named = chat.tool_choice.name
    names = {tool.name for tool in chat.tools if named is None or tool.name == named}
    most = most_calls(chat.tool_choice, parallel=chat.parallel_tool_calls)
    ids = call_ids(sampling.seed, prompt.ids, index)
    before = chat.turns[-1].content if chat.ending is Ending.CONTINUE and not chat.enforces_calls else ""
    return ToolCallParser(names, ids, most, enforced=chat.enforces_calls, before=before)


def effort_of(parsed: ParsedRequest) -> Effort:
    """How long planning a request takes: grammars are compiled, tools rendered."""
    if parsed.is_constrained:
        return Effort.COMPILING
    prompt = parsed.prompt
    has_tools = isinstance(prompt, ChatPrompt) and bool(prompt.tools)
    return Effort.LONG if has_tools or isinstance(prompt, BatchPrompt) else Effort.BY_SIZE


_MASK = 2**64 - 1


def choice_seed(seed: int, choice: int) -> int:
    """The seed of a further choice, unsigned, 64 bits: step `choice` of SplitMix64 from the request's seed.

    Constants of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014. Choice 0
    keeps the request's own, so one choice alone is what it would be among several.
    """
    if not choice:
        return seed
    z = (seed + choice * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


@dataclass(frozen=True, slots=True)
class Screening:
    """What becomes of a prompt."""

    prompt: Prompt | BatchPrompt
    """With what must not be read redacted."""
    blocked_by: str | None = None
    """The rule that forbids it."""


def screened(
    policy: ContentPolicy | None, prompt: Prompt | BatchPrompt, tokenizer: Tokenizer, key_name: str
) -> Screening:
    """Ask the filter about every text of a prompt.

    Token ids are judged by their text; tools, and the calls of earlier turns, by the texts in them. Neither
    can be redacted, so a rule that would is one that blocks.
    """
    if policy is None:
        return Screening(prompt)
    prompts = single_prompts(prompt)
    fixed = policy.check_prompt([text for one in prompts for text in _fixed_texts(one, tokenizer)], key_name)
    texts = policy.check_prompt([text for one in prompts for text in _texts(one)], key_name)
    blocked = texts.blocked or fixed.blocked
    if blocked is not None:
        return Screening(prompt, blocked.rule)
    if fixed.redacted:
        return Screening(prompt, min(fixed.redacted))
    return Screening(_redacted(prompt, iter(texts.texts)) if texts.redacted else prompt)


def _texts(prompt: Prompt) -> Sequence[str]:
    if isinstance(prompt, ChatPrompt):
        return [turn.content for turn in prompt.turns]
    return [prompt.text] if isinstance(prompt, TextPrompt) else []


def _fixed_texts(prompt: Prompt, tokenizer: Tokenizer) -> Iterator[str]:
    """Texts that cannot be changed."""
    if isinstance(prompt, TokenPrompt):
        yield tokenizer.decode(token_id for token_id in prompt.ids if token_id < tokenizer.vocabulary_size)
    elif isinstance(prompt, ChatPrompt):
        for tool in prompt.tools:
            yield "\n".join((tool.name, tool.description, *strings_in_value(tool.parameters)))
        for call in (call for turn in prompt.turns for call in turn.tool_calls):
            yield "\n".join((call.name, *strings_in(read_arguments(call.arguments))))


def _redacted(prompt: Prompt | BatchPrompt, texts: Iterator[str]) -> Prompt | BatchPrompt:
    """The prompt with these texts in the place of its own, in their order."""
    if isinstance(prompt, BatchPrompt):
        return BatchPrompt(tuple(_one_redacted(one, texts) for one in prompt.prompts))
    if isinstance(prompt, ChatPrompt):
        return replace(prompt, turns=tuple(replace(turn, content=next(texts)) for turn in prompt.turns))
    return _one_redacted(prompt, texts)


def _one_redacted(prompt: TextPrompt | TokenPrompt, texts: Iterator[str]) -> TextPrompt | TokenPrompt:
    return replace(prompt, text=next(texts)) if isinstance(prompt, TextPrompt) else prompt
