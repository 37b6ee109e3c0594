"""Random requests, and random changes of them, over both transports.

The number of a case and the seed make it again: `LODESTREAM_RANDOM_SEED`; `LODESTREAM_RANDOM_REQUESTS` asks
for more of them.
"""

from __future__ import annotations

import json
import os
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from lodestream_common import logs
from tests.support.asking import PATHS, STREAMED, WHOLE, all_of, call, call_stream, comparable, post
from tests.support.body_schema import components, has_right_types, is_valid, name_of, plain
from tests.support.calls import eventually, is_free
from tests.support.comparable_answer import Answer, check_equal
from tests.support.message_mutants import UNKNOWN, changed_message, is_repeatable
from tests.support.messages import grpc_request
from tests.support.mutants import Mutant, mutant
from tests.support.random_requests import ALIAS, random_request
from tests.support.service import MODEL_ID
from tests.support.transports import Transports, running_transports
from tests.support.verdicts import (
    CODES,
    can_compare,
    check_reply,
    is_only_rest,
    message_of,
    read_json,
    service_name,
)

COUNT = int(os.environ.get("LODESTREAM_RANDOM_REQUESTS", "1000"))
SEED = os.environ.get("LODESTREAM_RANDOM_SEED", "4")
AT_ONCE = 16
MAX_FAILURES = 5
ENDINGS = (
    *("end_of_sequence", "max_tokens", "stop_sequence", "stop_token", "tool_calls"),
    *("called", "scored", "validated"),
)
"""The finish reasons that must occur among the answers."""
_ANY: dict[str, Any] = {"messages": [], "logprobs": True, "seed": 0}
"""The body with which answers to messages are read that have no equivalent body: it requests everything."""

Case = tuple[int, dict[str, Any]]

in_module = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transports() -> AsyncIterator[Transports]:
    # Logging two lines for each of thousands of requests would take longer than the requests.
    logs.configure("error", "json", "service")
    settings: dict[str, Any] = {"alias": {ALIAS: MODEL_ID}, "max_concurrency": 64, "queue_limit": 100_000}
    async with running_transports(**settings) as both:
        yield both
    logs.configure("info", "json", "service")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    print(f"seed {SEED}, {COUNT} requests")
    return [(number, random_request(Random(f"{SEED}/{number}"))) for number in range(COUNT)]


def test_random_requests_are_valid_and_hold_every_parameter(cases: list[Case]) -> None:
    """They are valid by the API's own description, and every parameter occurs."""
    for _, body in cases:
        assert is_valid(body, name_of(body)), body
    given = Counter((name_of(body), name) for _, body in cases for name in body if body[name] is not None)
    for schema in PATHS:
        missing = {name for name in components()[schema]["properties"] if given[schema, name] < COUNT // 100}
        assert missing <= {"stream"}, "each way of asking says that itself"


@in_module
async def test_random_requests_are_answered_alike(transports: Transports, cases: list[Case]) -> None:
    """Choices, endings, usage and parameters in effect agree over gRPC and REST, whole and streamed."""
    seen: Counter[str] = Counter()
    await _check_all(cases, lambda case: _check_valid(transports, case[1], seen))

    print(seen)
    assert all(seen[kind] >= COUNT // 100 for kind in ENDINGS), seen


async def _check_valid(transports: Transports, body: dict[str, Any], seen: Counter[str]) -> None:
    name = name_of(body)
    request = plain(body, components()[name])
    message = grpc_request(request)
    answers = [
        await call(transports, message, request),
        await call_stream(transports, message, request),
        (await post(transports.http, PATHS[name], json.dumps({**body, **WHOLE}))).answer(request),
        (await post(transports.http, PATHS[name], json.dumps({**body, **STREAMED}))).answer(request),
    ]
    assert answers[0].error is None, (answers[0].param, answers[0].message)
    assert answers[0].choices or request.get("validate_only")
    _check_same(answers, request)
    assert len({_ignored(answer, request) for answer in answers}) == 1, [a.ignored for a in answers]
    seen.update(choice.ending[0] for choice in answers[0].choices if choice.ending)
    seen["called"] += any(choice.tool_calls for choice in answers[0].choices)
    seen["scored"] += any(choice.logprobs for choice in answers[0].choices)
    seen["validated"] += not answers[0].choices


@in_module
async def test_mutated_requests_are_refused_or_answered_alike(
    transports: Transports, cases: list[Case]
) -> None:
    """No reply is a 5xx and none hangs; answers are as described, and ignored parameters are named."""
    seen: Counter[str] = Counter()
    await _check_all(cases, lambda case: _check_mutant(transports, case, seen))

    print(seen)
    assert all(seen[kind] >= COUNT // 10 for kind in ("200", "400", "over gRPC", "over gRPC 200")), seen
    await eventually(lambda: is_free(transports.service))


async def _check_mutant(transports: Transports, case: Case, seen: Counter[str]) -> None:
    number, body = case
    name = name_of(body)
    changed = mutant(Random(f"{SEED}/{number}/mutant"), {**body, **WHOLE})
    try:
        await _check_changed(transports, name, changed, seen)
    except Exception as error:
        raise AssertionError(f"{changed.changes}: {changed.text[:3000]}\n{_first_lines(error)}") from error


async def _check_changed(transports: Transports, name: str, changed: Mutant, seen: Counter[str]) -> None:
    value = read_json(changed.text)
    replies = [await post(transports.http, PATHS[name], changed.text)]
    check_reply(replies[0], value, name)
    seen[str(replies[0].status)] += 1
    if changed.streamed is not None:
        replies.append(await post(transports.http, PATHS[name], changed.streamed))
        check_reply(replies[1], read_json(changed.streamed), name)
    assert len({reply.status for reply in replies}) == 1
    if not isinstance(value, dict) or (replies[0].status == 200 and not can_compare(value)):
        return
    request = plain(value, components()[name]) if has_right_types(value, name) else {}
    answers = [reply.answer(request) for reply in replies]
    message = message_of(value, name) if request else None
    if message is not None:
        answers.append(await call(transports, message, request))
        seen["over gRPC"] += 1
        seen[f"over gRPC {replies[0].status}"] += 1
        assert _ignored(answers[-1], request) <= _ignored(answers[0], request)
    _check_same(answers, request)


def _check_same(answers: Sequence[Answer], request: Mapping[str, Any]) -> None:
    first, *others = [comparable(answer, request) for answer in answers]
    for other in others:
        if first.error is None:
            check_equal(first, other)
            continue
        assert first.error == other.error, (first.message, other.message)
        params = {service_name(answer.param, request) for answer in (first, other)}
        assert len(params) == 1, params


def _ignored(answer: Answer, request: Mapping[str, Any]) -> frozenset[str | None]:
    return frozenset(service_name(name, request) for name in answer.ignored if not is_only_rest(name))


@in_module
async def test_mutated_messages_are_refused_or_answered_alike(
    transports: Transports, cases: list[Case]
) -> None:
    """The same over gRPC alone, with values that REST cannot express and unknown fields."""
    seen: Counter[str] = Counter()
    await _check_all(cases, lambda case: _check_message(transports, case, seen))

    print(seen)
    assert seen["answered"] >= COUNT // 10
    assert seen["refused"] >= COUNT // 10
    assert seen["unknown"] >= COUNT // 20
    await eventually(lambda: is_free(transports.service))


async def _check_message(transports: Transports, case: Case, seen: Counter[str]) -> None:
    number, body = case
    request = plain(body, components()[name_of(body)])
    message = changed_message(Random(f"{SEED}/{number}/message"), grpc_request(request))
    answers = [await ask(transports, message, _ANY) for ask in (call, call_stream)]
    seen["refused" if answers[0].error else "answered"] += 1
    if answers[0].error is not None:
        assert {answer.error for answer in answers} <= CODES, answers
        assert answers[0].param == answers[1].param
    elif is_repeatable(message):
        _check_same(answers, _ANY)
    if UNKNOWN in message.SerializeToString() and not answers[0].error:
        seen["unknown"] += 1
        assert all(any("field 1999" in name for name in answer.ignored) for answer in answers)


async def _check_all(cases: list[Case], check: Callable[[Case], Awaitable[None]]) -> None:
    failures = [case for case in await all_of([_caught(case, check) for case in cases], AT_ONCE) if case]
    for text in failures[:MAX_FAILURES]:
        print(text)
    assert not failures, f"{len(failures)} of {len(cases)} failed"


async def _caught(case: Case, check: Callable[[Case], Awaitable[None]]) -> str | None:
    try:
        await check(case)
    except Exception as error:
        number, body = case
        return f"\nseed {SEED}, request {number}: {json.dumps(body)}\n{_first_lines(error)}"
    return None


def _first_lines(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.name}, {place.line}: {error}"
