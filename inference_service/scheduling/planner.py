"""Turns a validated request into the engine's work: filtered prompts as tokens, a plan for each choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inference_service.backends.types import EngineRequest
from inference_service.constraints.grammar import Grammar
from inference_service.output.content_filter.output import ContentPolicy
from inference_service.output.events import Report
from inference_service.output.pipeline import ChoicePipeline
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


def effort_of(parsed: ParsedRequest) -> Effort:
    """The amount of work that a request is to plan."""
    if parsed.is_constrained:
        return Effort.COMPILING
    prompt = parsed.prompt
    has_tools = isinstance(prompt, ChatPrompt) and bool(prompt.tools)
    return Effort.LONG if has_tools or isinstance(prompt, BatchPrompt) else Effort.BY_SIZE


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans one request for the served model."""

    model: ServedModel
    policy: ContentPolicy | None
    """The content filter; None: there is none."""
    check_grammar: GrammarCheck
    """Finds out whether the engine can follow a grammar."""
    parsed: ParsedRequest
    request_id: str
    key_name: str
    """The name of the caller's key, for the content filter."""
    deadline: Deadline | None

    def plan(self) -> GenerationRequest:
        """Check the request against what is served, and turn it into work. Blocks for as long as that takes.

        Raises:
            ServiceError: the model or the engine cannot do it, or it does not fit.

        """
        parsed = self.parsed
        self.model.check(parsed)
        prompt, blocked_by = filtered_prompt(self.policy, parsed.prompt, self.model.tokenizer, self.key_name)
        prompts = prompt_fields(prompt)
        requests = [self._engine_request(one, field) for field, one in prompts.items()]
        grammar = grammar_of(parsed, self.model, self.check_grammar)
        choices = self._choices([*prompts.values()], requests, grammar)
        return GenerationRequest(
            request_id=self.request_id,
            model=self.model.id,
            prompt_tokens=sum(len(request.prompt_ids) for request in requests),
            choices=() if parsed.validate_only else tuple(choices),
            deadline=self.deadline,
            report=self._report(requests, grammar),
            blocked_by=None if parsed.validate_only else blocked_by,
        )

    def _engine_request(self, prompt: Prompt, field: str) -> EngineRequest:
        """The request that all choices of one prompt share, without its grammar."""
        parsed = self.parsed
        ids = self.model.encode(prompt, field)
        return EngineRequest(
            request_id=self.request_id,
            prompt_ids=ids,
            sampling=parsed.sampling,
            max_tokens=self.model.max_tokens(parsed.stopping.max_tokens, len(ids), field),
            ignore_eos=parsed.stopping.ignore_eos,
            logit_bias=parsed.logit_bias,
            logprobs=parsed.output.logprobs,
        )

    def _choices(
        self, prompts: Sequence[Prompt], requests: Sequence[EngineRequest], grammar: Grammar | None
    ) -> Iterator[ChoicePlan]:
        n = self.parsed.output.n
        for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            opening = self._echo(prompt, request.prompt_ids)
            for k in range(n):
                index = number * n + k
                engine = self._with_seed(replace(request, grammar=grammar), index, k)
                pipeline = self._pipeline(prompt, engine, index)
                yield ChoicePlan(index, engine, pipeline, opening, repeats_prompt=k > 0)

    def _with_seed(self, request: EngineRequest, index: int, k: int) -> EngineRequest:
        """The request of a prompt's `k`-th choice; `index` is its place among all choices."""
        if not index:
            return request
        sampling = replace(request.sampling, seed=choice_seed(request.sampling.seed, k))
        return replace(request, request_id=f"{self.request_id}-{index}", sampling=sampling)

    def _pipeline(self, prompt: Prompt, request: EngineRequest, index: int) -> ChoicePipeline:
        stopping = self.parsed.stopping
        # An enforced call ends where its grammar does.
        stops = not (isinstance(prompt, ChatPrompt) and prompt.enforces_calls)
        return ChoicePipeline(
            self.model.tokenizer,
            index,
            stops=stopping.stops if stops else (),
            stop_token_ids=stopping.stop_token_ids if stops else (),
            include_stop=stopping.include_stop,
            whole_tokens=stopping.whole_tokens,
            content_filter=self.policy.output_filter(self.key_name) if self.policy else None,
            tools=_tools(prompt, request, index),
        )

    def _echo(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """The prompt's text where the answer begins with it."""
        if not self.parsed.output.echo:
            return ""
        return prompt.text if isinstance(prompt, TextPrompt) else self.model.tokenizer.decode(ids)

    def _report(self, requests: Sequence[EngineRequest], grammar: Grammar | None) -> Report:
        parsed = self.parsed
        most = max(request.max_tokens for request in requests)
        ignored = (
            *parsed.ignored,
            *self.model.plain_control_tokens(parsed.prompt),
            *unenforced(grammar, parsed),
        )
        return Report(parsed.sampling, parsed.logit_bias, most, ignored)


def _tools(prompt: Prompt, request: EngineRequest, index: int) -> ToolCallParser | None:
    if not isinstance(prompt, ChatPrompt) or prompt.tool_choice.mode is ToolMode.NONE:
        return None
    named = prompt.tool_choice.name
    names = {tool.name for tool in prompt.tools if named is None or tool.name == named}
    most = most_calls(prompt.tool_choice, parallel=prompt.parallel_tool_calls)
    ids = call_ids(request.sampling.seed, request.prompt_ids, index)
    continues = prompt.ending is Ending.CONTINUE and not prompt.enforces_calls
    before = prompt.turns[-1].content if continues else ""
    return ToolCallParser(names, ids, most, enforced=prompt.enforces_calls, before=before)


_MASK = 2**64 - 1


def choice_seed(seed: int, choice: int) -> int:
    """The seed of a further choice, unsigned, 64 bits: step `choice` of SplitMix64 from the request's seed.

    Constants of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014. Choice 0
    keeps the request's own seed, so that one choice alone has the text that it has among several.
    """
    if not choice:
        return seed
    z = (seed + choice * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def filtered_prompt(
    policy: ContentPolicy | None, prompt: Prompt | BatchPrompt, tokenizer: Tokenizer, key_name: str
) -> tuple[Prompt | BatchPrompt, str | None]:
    """Apply the content filter to every text of a prompt.

    The filter decides about token ids by their text; about tools, and the calls of earlier turns, by the
    texts in them. Neither can be redacted, so a rule that would redact them blocks the prompt.

    Returns:
        The prompt with what must not be read redacted, and the rule that blocks it; None: no rule does.

    """
    if policy is None:
        return prompt, None
    prompts = single_prompts(prompt)
    fixed = policy.check_prompt([text for one in prompts for text in _fixed_texts(one, tokenizer)], key_name)
    texts = policy.check_prompt([text for one in prompts for text in _texts(one)], key_name)
    blocked = texts.blocked or fixed.blocked
    if blocked is not None:
        return prompt, blocked.rule
    if fixed.redacted:
        return prompt, min(fixed.redacted)
    return _redacted(prompt, iter(texts.texts)) if texts.redacted else prompt, None


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
