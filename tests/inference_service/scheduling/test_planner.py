"""Planned requests: prompts as tokens, and choices with seeds, ids and stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.base import EngineGrammarError
from inference_service.backends.types import BackendDescription
from inference_service.constraints.grammar import Grammar
from inference_service.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from inference_service.models.loader import LoadedModel
from inference_service.request.generate import parse_generate
from inference_service.scheduling.planner import Planner, choice_seed, effort_of
from inference_service.scheduling.runner import GenerationRequest
from inference_service.scheduling.served_model import Effort, ServedModel
from inference_service.scheduling.workers import FairPool
from tests.support.parsing import chat, request, tool

CONTEXT = 400
REQUIRED = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
Plan = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def served(loaded_model: LoadedModel) -> ServedModel:
    engine = BackendDescription("some engine", CONTEXT, 1, loaded_model.tokenizer.vocabulary_size)
    workers = FairPool(1, "reader", 1000)
    return ServedModel("m", {}, loaded_model.tokenizer, loaded_model.chat_template, engine, workers, workers)


@pytest.fixture
def plan(served: ServedModel) -> Plan:
    def planned(message: generate_pb.GenerateRequest, check: Any = lambda grammar: None) -> GenerationRequest:
        return Planner(served, None, check, parse_generate(message), "req", "alice", None).plan()

    return planned


def hot(seed: int | None = 7) -> pb.SamplingOptions:
    return pb.SamplingOptions(temperature=1.0, seed=seed)


def batch(*texts: str, **fields: Any) -> generate_pb.GenerateRequest:
    prompts = [pb.BatchPrompt(text=text) for text in texts]
    return generate_pb.GenerateRequest(model="m", batch=pb.BatchInput(prompts=prompts), **fields)


def seeds(work: GenerationRequest) -> list[int]:
    return [choice.engine.sampling.seed for choice in work.choices]


def test_one_choice(plan: Plan, served: ServedModel) -> None:
    work = plan(request(prompt="one two", sampling=hot(), stopping=pb.StoppingOptions(max_tokens=5)))

    (choice,) = work.choices
    assert (work.request_id, work.model, work.prompt_tokens, work.permits) == ("req", "m", 2, 1)
    assert (choice.index, choice.opening, choice.repeats_prompt) == (0, "", False)
    engine = choice.engine
    assert (engine.request_id, engine.max_tokens, engine.grammar, engine.logprobs) == ("req", 5, None, None)
    assert list(engine.prompt_ids) == served.tokenizer.encode_text("one two")
    assert work.report.sampling == engine.sampling


def test_the_first_choice_equals_that_of_a_request_for_one(plan: Plan) -> None:
    alone = plan(request(sampling=hot()))
    several = plan(request(sampling=hot(), output=pb.OutputOptions(n=8)))

    assert several.choices[0].engine == alone.choices[0].engine
    assert several.report == alone.report
    assert seeds(several) == [choice_seed(7, k) for k in range(8)]
    assert len(set(seeds(several))) == 8
    assert all(0 <= seed < 2**64 for seed in seeds(several))
    assert len({choice.engine.request_id for choice in several.choices}) == 8


def test_seeds_of_choices_derive_from_the_request_s_seed() -> None:
    """The expected values are from the reference program of SplitMix64 with state 0."""
    assert [choice_seed(0, k) for k in range(4)] == [
        0,
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    assert choice_seed(2**64 - 1, 0) == 2**64 - 1
    assert choice_seed(1, 1) != choice_seed(0, 2)


def test_a_drawn_seed_is_reported(plan: Plan) -> None:
    work = plan(request(output=pb.OutputOptions(n=2)))

    assert seeds(work) == [work.report.sampling.seed, choice_seed(work.report.sampling.seed, 1)]


def test_choices_of_a_batch_equal_those_of_single_prompts(plan: Plan) -> None:
    options = {"sampling": hot(), "output": pb.OutputOptions(n=2)}
    together = plan(batch("one two", "three", **options))
    apart = [plan(request(prompt=text, **options)) for text in ("one two", "three")]

    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert seeds(together) == seeds(apart[0]) * 2
    ids = [choice.engine.prompt_ids for choice in together.choices]
    assert ids == [choice.engine.prompt_ids for work in apart for choice in work.choices]
    assert [choice.repeats_prompt for choice in together.choices] == [False, True, False, True]
    assert together.prompt_tokens == 3


def test_choices_share_the_ids_of_their_prompt(plan: Plan) -> None:
    work = plan(request(output=pb.OutputOptions(n=8, echo=True)))

    assert len({id(choice.engine.prompt_ids) for choice in work.choices}) == 1
    assert len({id(choice.opening) for choice in work.choices}) == 1


def test_every_option_reaches_the_engine(plan: Plan) -> None:
    message = request(
        sampling=pb.SamplingOptions(logit_bias={5: -100.0}),
        output=pb.OutputOptions(logprobs=True, top_logprobs=3),
        stopping=pb.StoppingOptions(ignore_eos=True),
    )

    (choice,) = plan(message).choices

    assert (choice.engine.logit_bias, choice.engine.logprobs) == ({5: -100.0}, 3)
    assert choice.engine.ignore_eos


def test_echo_has_the_original_prompt(plan: Plan, served: ServedModel) -> None:
    echo = pb.OutputOptions(echo=True)
    ids = served.tokenizer.encode_text(" one")
    by_ids = generate_pb.GenerateRequest(model="m", token_ids=pb.TokenIds(ids=ids), output=echo)

    assert plan(request(prompt="é 漢", output=echo)).choices[0].opening == "é 漢"
    assert plan(by_ids).choices[0].opening == " one"


def test_the_default_limit_shrinks_to_the_free_context_of_each_prompt(plan: Plan) -> None:
    work = plan(batch("one", "one " * 300))

    limits = [choice.engine.max_tokens for choice in work.choices]
    assert limits == [150, CONTEXT - len(work.choices[1].engine.prompt_ids)]
    assert work.report.max_tokens == max(limits)


def test_one_prompt_that_does_not_fit_refuses_the_batch(plan: Plan) -> None:
    with pytest.raises(ContextLengthExceeded):
        plan(batch("one", "one " * 500))


def test_a_validated_request_has_no_choices(plan: Plan) -> None:
    work = plan(request(prompt="one two", validate_only=True, output=pb.OutputOptions(n=4)))

    assert (list(work.choices), work.permits, work.prompt_tokens) == ([], 0, 2)
    with pytest.raises(InvalidRequest):
        plan(request(validate_only=True, constraint=pb.Constraint(regex="(")))


def test_an_unknown_model_is_refused(plan: Plan) -> None:
    with pytest.raises(ModelNotFound):
        plan(request(model="x"))


def test_ids_outside_the_vocabulary_are_refused(plan: Plan) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(request(sampling=pb.SamplingOptions(logit_bias={3: 1.0, 2**31: 1.0})))

    assert [violation.field for violation in caught.value.violations] == ["sampling.logit_bias"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"constraint": pb.Constraint(json_schema="{")}, "constraint.json_schema"),
        ({"constraint": pb.Constraint(regex="(")}, "constraint.regex"),
        ({"constraint": pb.Constraint(grammar="(")}, "constraint.grammar"),
    ],
)
def test_an_invalid_constraint_is_named(plan: Plan, fields: dict[str, Any], field: str) -> None:
    for message in (request(**fields), _with(chat(), **fields)):
        assert refused(plan, message) == [(field, "invalid_value")]


def _with(message: generate_pb.GenerateRequest, **fields: Any) -> generate_pb.GenerateRequest:
    message.MergeFrom(generate_pb.GenerateRequest(**fields))
    return message


def refused(plan: Plan, *arguments: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        plan(*arguments)
    assert all(len(violation.description) <= 500 for violation in caught.value.violations)
    return [(violation.field, violation.code) for violation in caught.value.violations]


STRICT = '{"type": "object", "properties": {"hunter2": {"pattern": "("}}}'


def test_a_strict_tool_that_cannot_be_enforced_is_named_without_its_own_names(plan: Plan) -> None:
    tools = [tool("f"), tool("g", STRICT, strict=True)]

    message = chat(tools=tools, tool_choice=REQUIRED)

    assert refused(plan, message) == [("chat.tools[1].parameters", "invalid_value")]


@pytest.mark.parametrize(
    "schema", ['{"type": "array"}', '{"not": {}}', '{"properties": {"a\\"]": {"not": 1}}}']
)
def test_every_violation_of_a_strict_tool_names_its_parameters(plan: Plan, schema: str) -> None:
    message = chat(tools=[tool("f", schema, strict=True)], tool_choice=REQUIRED)

    assert refused(plan, message) == [("chat.tools[0].parameters", "invalid_value")]


def test_unsupported_keywords_of_a_tool_that_is_not_strict_are_dropped(plan: Plan) -> None:
    (choice,) = plan(chat(tools=[tool("g", STRICT)], tool_choice=REQUIRED)).choices

    assert choice.engine.grammar is not None
    assert choice.engine.grammar.ignored == ("chat.tools[0].parameters.properties.hunter2.pattern",)
    assert choice.engine.grammar.matches('{"name": "g", "arguments": {"hunter2":1}}')


@pytest.mark.parametrize("kind", [{"regex": "a"}, {"grammar": 'root ::= "a"'}])
def test_tools_go_with_json_alone(plan: Plan, kind: dict[str, str]) -> None:
    constraint = pb.Constraint(**kind)  # type: ignore[arg-type]
    message = _with(chat(tools=[tool()]), constraint=constraint)

    assert [code for _, code in refused(plan, message)] == ["unsupported_parameter"]
    message.chat.tool_choice.mode = pb.TOOL_CHOICE_MODE_NONE
    assert plan(message).choices[0].engine.grammar


def test_optional_tools_set_no_constraint(plan: Plan) -> None:
    assert plan(chat(tools=[tool()])).choices[0].engine.grammar is None
    constrained = plan(_with(chat(tools=[tool()]), constraint=pb.Constraint(json_object=True)))
    assert constrained.choices[0].engine.grammar is not None


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (request(constraint=pb.Constraint(regex="a")), "constraint.regex"),
        (request(constraint=pb.Constraint(json_object=True)), "constraint.json_object"),
        (chat(tools=[tool()], tool_choice=REQUIRED), "chat.tools"),
    ],
)
def test_a_grammar_that_the_engine_cannot_follow_is_refused_by_name(
    plan: Plan, message: generate_pb.GenerateRequest, field: str
) -> None:
    def check(grammar: Grammar) -> None:
        raise EngineGrammarError("too many ways")

    assert refused(plan, message, check) == [(field, "invalid_value")]


def test_the_engine_checks_the_grammar_that_it_gets(plan: Plan) -> None:
    checked: list[Grammar] = []

    work = plan(request(constraint=pb.Constraint(regex="ab")), checked.append)

    assert checked == [work.choices[0].engine.grammar]
    plan(request(), checked.append)
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("message", "effort"),
    [
        (request(), Effort.BY_SIZE),
        (chat(), Effort.BY_SIZE),
        (chat(tools=[tool()]), Effort.LONG),
        (batch("a"), Effort.LONG),
        (chat(tools=[tool()], tool_choice=REQUIRED), Effort.COMPILING),
        (request(constraint=pb.Constraint(json_object=True)), Effort.COMPILING),
        (batch("a", constraint=pb.Constraint(json_object=True)), Effort.COMPILING),
    ],
)
def test_which_requests_are_always_planned_in_a_worker_thread(
    message: generate_pb.GenerateRequest, effort: Effort
) -> None:
    assert effort_of(parse_generate(message)) is effort
