"""Constraints and tools over the wire."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.backends.base import EngineGrammarError
from inference_service.scheduling.served_model import Effort, ServedModel
from tests.support.calls import TIMEOUT_SECONDS, ask, collect, eventually, is_free, refusal
from tests.support.generations import ECHO_TOOL, HOT, TIME_TOOL, both, spoken
from tests.support.parsing import tool
from tests.support.service import MODEL_ID, Running, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUIRED = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
NAMED = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="time")
NO_TOOL = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)
SCHEMA = '{"type": "object", "properties": {"a": {"enum": ["é", "x"]}}, "required": ["a"]}'
CALL = '{"name": "echo", "arguments": {"text": "a \\"b\\" 漢"}}'
TIME = '{"name": "time", "arguments": {}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    """An idle service whose engine answers with the prompt's script."""
    async with running_service(context_length=2048, max_concurrency=4) as running:
        yield running


def constrained(text: str, **kind: Any) -> generate_pb.GenerateRequest:
    request = ask(text)
    request.constraint.CopyFrom(pb.Constraint(**kind))
    return request


KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "json_object": ({"json_object": True}, '{"any": [1, null]}', "no object"),
    "json_schema": ({"json_schema": SCHEMA}, '{"a":"é"}', '{"a":"y"}'),
    "regex": ({"regex": "(yes|no)!{2,3}"}, "yes!!!", "yes!"),
    "grammar": ({"grammar": 'root ::= "a" | "b" root\n'}, "bbba", "bb"),
}


@pytest.mark.parametrize(("kind", "fits", "does_not"), KINDS.values(), ids=KINDS)
async def test_every_answer_follows_its_constraint(
    service: Running, kind: dict[str, Any], fits: str, does_not: str
) -> None:
    """A script that follows the constraint is the answer; otherwise the answer is another text that does."""
    wished = await both(service, constrained(f"@say<<{fits}>>", **kind))
    denied = await both(service, constrained(f"@say<<{does_not}>>", **kind))

    assert wished.choices[0].text == fits
    assert denied.choices[0].text != does_not
    assert _complies(next(iter(kind)), denied.choices[0].text)
    for answer in (wished, denied):
        assert answer.choices[0].finished.reason == pb.FINISH_REASON_STOP
        assert answer.choices[0].finished.cause == pb.STOP_CAUSE_END_OF_SEQUENCE


def _complies(kind: str, text: str) -> bool:
    if kind == "json_object":
        return isinstance(json.loads(text), dict)
    if kind == "json_schema":
        return bool(json.loads(text)["a"] in ("é", "x"))
    return re.fullmatch({"regex": "(yes|no)!{2,3}", "grammar": "b*a"}[kind], text) is not None


async def test_every_choice_follows_the_constraint(service: Running) -> None:
    request = constrained("x", json_schema=SCHEMA)
    request.output.n = 3

    answer = await both(service, request)

    assert all(_complies("json_schema", choice.text) for choice in answer.choices)


NONE_AT_ALL: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"json_schema": "{"}, "constraint.json_schema"),
    "half a character": ({"json_schema": '{"const": "\\ud800"}'}, "constraint.json_schema"),
    "a name twice": ({"json_schema": '{"type": "a", "type": "b"}'}, "constraint.json_schema"),
    "digits": ({"json_schema": f'{{"const": {"9" * 9000}}}'}, "constraint.json_schema"),
    "deep": ({"json_schema": '{"a":' * 9000 + "1" + "}" * 9000}, "constraint.json_schema"),
    "deep value": (
        {"json_schema": f'{{"const": {"[" * 9000}{"]" * 9000}}}'},
        "constraint.json_schema",
    ),
    "endless": ({"json_schema": '{"$ref": "#"}'}, "constraint.json_schema"),
    "groups": ({"regex": "(" * 5000 + ")" * 5000}, "constraint.regex"),
    "large": ({"regex": "a" * 530_000}, "constraint.regex"),
    "lookahead": ({"regex": "(?=a)"}, "constraint.regex"),
    "no root": ({"grammar": 'x ::= "a"'}, "constraint.grammar"),
    "left recursion": ({"grammar": 'root ::= root "a" | "a"'}, "constraint.grammar"),
    "not false": ({"json_object": False}, "constraint.json_object"),
}


@pytest.mark.parametrize(("kind", "field"), NONE_AT_ALL.values(), ids=NONE_AT_ALL)
async def test_an_invalid_constraint_is_named_by_its_field(
    service: Running, kind: dict[str, Any], field: str
) -> None:
    request = constrained("x", **kind)

    for call in (service.generate_stub.Generate(request), service.generate_stub.GenerateStream(request)):
        status = await refusal(call)
        assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE")
        assert status.fields == [field]
        assert len(status.message.encode()) <= 1000


async def test_demanded_tools_are_called(service: Running) -> None:
    tools = (ECHO_TOOL, TIME_TOOL)
    scripted = await both(service, spoken(f"@say<<{CALL}\n{TIME}>>", *tools, tool_choice=REQUIRED))
    unwilling = await both(service, spoken("@say<<No.>>", *tools, tool_choice=REQUIRED))

    calls = scripted.choices[0].tool_calls
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("echo", {"text": 'a "b" 漢'}),
        ("time", {}),
    ]
    assert len({call.id for call in calls}) == 2
    assert unwilling.choices[0].tool_calls
    for answer in (scripted, unwilling):
        assert answer.choices[0].text == ""
        assert answer.choices[0].finished.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_a_named_tool_is_called_once(service: Running) -> None:
    message = spoken(f"@say<<{TIME}\n{TIME}>>", ECHO_TOOL, TIME_TOOL, tool_choice=NAMED)

    (choice,) = (await both(service, message)).choices

    assert [(call.name, call.arguments) for call in choice.tool_calls] == [("time", "{}")]
    assert choice.finished.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_without_parallel_tool_calls_there_is_one_call(service: Running) -> None:
    message = spoken(f"@say<<{TIME}\n{TIME} and more>>", TIME_TOOL, parallel_tool_calls=False)

    (choice,) = (await both(service, message)).choices

    assert (choice.text, len(choice.tool_calls)) == ("", 1)
    assert choice.finished.cause == pb.STOP_CAUSE_TOOL_CALLS
    await eventually(lambda: is_free(service))


async def test_with_tool_choice_auto_the_model_may_call_answer_or_do_both(service: Running) -> None:
    (spoke,) = (await both(service, spoken("@say<<Hello.>>", ECHO_TOOL))).choices
    (called,) = (await both(service, spoken(f"@say<<{CALL}>>", ECHO_TOOL))).choices
    (did_both,) = (await both(service, spoken(f"@say<<Well:\n{CALL}>>", ECHO_TOOL))).choices

    assert (spoke.text, len(spoke.tool_calls)) == ("Hello.", 0)
    assert spoke.finished.reason == pb.FINISH_REASON_STOP
    assert (called.text, len(called.tool_calls)) == ("", 1)
    assert (did_both.text.strip(), len(did_both.tool_calls)) == ("Well:", 1)
    for choice in (called, did_both):
        assert choice.finished.reason == pb.FINISH_REASON_TOOL_CALLS
        assert choice.finished.cause == pb.STOP_CAUSE_END_OF_SEQUENCE


async def test_without_tools_there_are_no_calls(service: Running) -> None:
    (choice,) = (await both(service, spoken(f"@say<<{CALL}>>", ECHO_TOOL, tool_choice=NO_TOOL))).choices

    assert (choice.text, len(choice.tool_calls)) == (CALL, 0)
    assert choice.finished.reason == pb.FINISH_REASON_STOP


async def test_a_call_begins_with_its_name(service: Running) -> None:
    """The joined further pieces are JSON; the tokens have ids and log probabilities."""
    request = spoken(f"@say<<{CALL}>>", ECHO_TOOL, output=pb.OutputOptions(logprobs=True))

    events = await collect(service.generate_stub.GenerateStream(request))

    deltas = [event.delta for event in events if event.HasField("delta")]
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert (pieces[0].name, pieces[0].id[:5]) == ("echo", "call_")
    assert not any(piece.id or piece.name for piece in pieces[1:])
    assert len(pieces) > 3
    assert json.loads("".join(piece.arguments for piece in pieces)) == {"text": 'a "b" 漢'}
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in deltas)


async def test_a_call_that_is_cut_short_ends_with_length(service: Running) -> None:
    stopping = pb.StoppingOptions(max_tokens=12)

    (choice,) = (await both(service, spoken(f"@say<<{CALL}>>", ECHO_TOOL, stopping=stopping))).choices

    assert [call.name for call in choice.tool_calls] == ["echo"]
    assert choice.finished.reason == pb.FINISH_REASON_LENGTH
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice.tool_calls[0].arguments)


async def test_a_repeated_request_has_the_same_call_ids(service: Running) -> None:
    request = spoken(f"@say<<{TIME}>>", TIME_TOOL, output=pb.OutputOptions(n=2))

    answer = await both(service, request)

    ids = [call.id for choice in answer.choices for call in choice.tool_calls]
    assert len(set(ids)) == 2


async def test_an_answer_is_tool_calls_or_the_demanded_json(service: Running) -> None:
    constraint = pb.Constraint(json_schema=SCHEMA)
    (called,) = (await both(service, spoken(f"@say<<{CALL}>>", ECHO_TOOL, constraint=constraint))).choices
    (spoke,) = (await both(service, spoken('@say<<{"a":"x"}>>', ECHO_TOOL, constraint=constraint))).choices

    assert (called.text, len(called.tool_calls)) == ("", 1)
    assert (spoke.text, len(spoke.tool_calls)) == ('{"a":"x"}', 0)


async def test_results_of_calls_are_part_of_the_prompt(service: Running) -> None:
    request = spoken("x", ECHO_TOOL)
    call = pb.ToolCall(id="1", name="echo", arguments='{"text": "a"}')
    request.chat.messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[call]))
    request.chat.messages.append(pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id="1", content="@say<<seen>>"))

    assert (await both(service, request)).choices[0].text == "seen"


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\udc00": 1}', "[", '{"a": 1e999}'])
async def test_schemas_that_cannot_be_serialized_are_refused(service: Running, text: str) -> None:
    """The arguments of an earlier call may be any text, since the service does not parse them."""
    called = spoken("x")
    call = pb.ToolCall(id="1", name="f", arguments=text)
    called.chat.messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[call]))
    counted = model_pb.CountTokensRequest(model=MODEL_ID, chat=called.chat)
    assert (await service.model_stub.CountTokens(counted, timeout=TIMEOUT_SECONDS)).token_count

    request, field = spoken("x", tool("f", text)), "chat.tools[0].parameters"
    counted = model_pb.CountTokensRequest(model=MODEL_ID, chat=request.chat)
    assert (await refusal(service.generate_stub.Generate(request))).fields == [field]
    assert (await refusal(service.model_stub.CountTokens(counted))).fields == [field]


async def test_tools_count_as_prompt_tokens(service: Running) -> None:
    request = spoken("x", ECHO_TOOL)

    count = await service.model_stub.CountTokens(
        model_pb.CountTokensRequest(model=MODEL_ID, chat=request.chat), timeout=TIMEOUT_SECONDS
    )

    assert count.token_count == (await both(service, request)).usage.prompt_tokens


async def test_grammars_and_tools_are_processed_in_worker_threads(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds also for small requests."""
    work, efforts = ServedModel.work, set[Effort]()

    async def watched(self: ServedModel, *arguments: Any, effort: Effort = Effort.BY_SIZE) -> Any:
        efforts.add(effort)
        return await work(self, *arguments, effort=effort)

    monkeypatch.setattr(ServedModel, "work", watched)
    counted = model_pb.CountTokensRequest(model=MODEL_ID, chat=spoken("x", TIME_TOOL).chat)

    await service.generate_stub.Generate(ask("x"), timeout=TIMEOUT_SECONDS)
    assert efforts == {Effort.BY_SIZE}
    cases: list[tuple[Any, Any, Effort]] = [
        (service.generate_stub.Generate, spoken("x", TIME_TOOL), Effort.LONG),
        (service.generate_stub.Generate, constrained("x", json_object=True), Effort.COMPILING),
        (service.model_stub.CountTokens, counted, Effort.LONG),
    ]
    for method, request, effort in cases:
        efforts.clear()
        await method(request, timeout=TIMEOUT_SECONDS)
        assert effort in efforts


async def test_a_grammar_that_the_engine_cannot_follow_is_refused_before_the_stream(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(grammar: str) -> None:
        raise EngineGrammarError("the engine cannot follow this grammar: too many ways")

    monkeypatch.setattr(service.loaded.backend, "check_grammar", refuse)
    for request, field in (
        (constrained("x", regex="a*"), "constraint.regex"),
        (spoken("x", TIME_TOOL, tool_choice=REQUIRED), "chat.tools"),
        (
            spoken("x", validate_only=True, constraint=pb.Constraint(json_object=True)),
            "constraint.json_object",
        ),
    ):
        status = await refusal(service.generate_stub.GenerateStream(request))
        assert (status.reason, status.fields) == ("INVALID_VALUE", [field])
        assert "too many ways" in status.message


async def test_a_blocked_prompt_is_answered_at_once_with_empty_choices(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("filter") / "filter.toml"
    path.write_text('[[rules]]\nname = "bad"\naction = "block"\nphrases = ["bad word"]\n', encoding="utf-8")
    request = spoken("a bad word", output=pb.OutputOptions(n=2), sampling=HOT)
    async with running_service(max_concurrency=1, content_filter_file=path) as filtered:
        answer = await both(filtered, request)

        assert [choice.text for choice in answer.choices] == ["", ""]
        for choice in answer.choices:
            assert choice.finished.reason == pb.FINISH_REASON_CONTENT_FILTER
            assert choice.finished.filter_rule == "bad"
        assert answer.usage.completion_tokens == 0
