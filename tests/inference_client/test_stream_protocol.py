from __future__ import annotations

from typing import Any

import pytest

from inference_client import ProtocolError
from tests.inference_client.conftest import Caller
from tests.support.scripted import (
    HELLO,
    Event,
    ScriptedService,
    call_delta,
    delta,
    finished,
    script,
    started,
    summary,
)

TWO: dict[str, Any] = {"model": "m", "prompt": "p", "n": 2}


async def _error_message(
    caller: Caller, service: ScriptedService, events: list[Event], **options: Any
) -> str:
    """The message of the error about a stream. The error must have the request id."""
    service.stream = script(*events)
    with pytest.raises(ProtocolError) as caught:
        await caller.events(request_id="r1", **{"model": "m", "prompt": "p"} | options)
    assert caught.value.request_id in {"r1", "server-id"}
    assert caught.value.code == "protocol_error"
    return str(caught.value)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "without its summary"),
        ([started()], "without its summary"),
        ([started(), delta("a"), finished()], "without its summary"),
        ([delta("a")], "began with a delta"),
        ([summary()], "began with a summary"),
        ([started(), started()], "started twice"),
        ([started(), finished(), delta("a")], "went on after it had ended"),
        ([started(), finished(), finished()], "ended twice"),
        ([started(), summary()], "before every choice had ended"),
        ([started(), delta("a", 1)], "Choice 1 was not requested: the request wants 1"),
        ([started(), finished(1)], "Choice 1 was not requested"),
        ([started(), finished(), summary(), summary()], "after its summary"),
        ([started(), finished(), summary(), delta("a", 1)], "after its summary"),
        ([started(), finished(reason=0)], "without a reason"),
    ],
)
async def test_a_stream_with_an_invalid_order_of_events_is_refused(
    caller: Caller, service: ScriptedService, events: list[Event], message: str
) -> None:
    assert message in await _error_message(caller, service, events)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([started(), delta("a"), delta("b", 1), finished(1), summary()], "before every choice had ended"),
        ([started(), delta("a"), finished(), summary()], "before every choice had ended"),
        ([started(), finished(1), delta("b", 0), delta("b", 1)], "Choice 1 went on after it had ended"),
        ([started(), finished(1), finished(0), finished(1)], "Choice 1 ended twice"),
        ([started(), delta("a", 2)], "Choice 2 was not requested: the request wants 2"),
    ],
)
async def test_the_order_of_events_is_checked_for_every_choice(
    caller: Caller, service: ScriptedService, events: list[Event], message: str
) -> None:
    assert message in await _error_message(caller, service, events, **TWO)


async def test_each_prompt_has_its_choices(caller: Caller, service: ScriptedService) -> None:
    """Two prompts with two choices each have the choices 0 to 3."""
    events = [started(), *(finished(choice) for choice in (2, 0, 3)), summary()]
    assert "every choice" in await _error_message(caller, service, events, prompt=["p", "q"], n=2)

    service.stream = script(*events[:-1], finished(1), summary())
    assert len(await caller.events(model="m", prompt=["p", "q"], n=2)) == 6


async def test_a_large_n_takes_no_memory_in_advance(caller: Caller, service: ScriptedService) -> None:
    """The service refuses too many choices."""
    assert "every choice" in await _error_message(caller, service, list(HELLO), n=2**31 - 1)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([call_delta(arguments="{")], "call 0 of choice 0 began without its id"),
        ([call_delta(id="c")], "call 0 of choice 0 began without its id or its name"),
        ([call_delta(name="f")], "call 0 of choice 0 began without its id or its name"),
        ([call_delta(1, id="c", name="f")], "call 1 of choice 0 came before call 0"),
        ([call_delta(id="c", name="f"), call_delta(id="c", name="f")], "call 0 of choice 0 began twice"),
        ([call_delta(id="c", name="f"), call_delta(name="f")], "call 0 of choice 0 began twice"),
        ([call_delta(id="c", name="f"), call_delta(choice=1, arguments="{")], "call 0 of choice 1 began"),
    ],
)
async def test_tool_calls_begin_with_their_id_and_name(
    caller: Caller, service: ScriptedService, pieces: list[Event], message: str
) -> None:
    assert message in await _error_message(caller, service, [started(), *pieces], **TWO)


async def test_calls_and_choices_may_be_interleaved(caller: Caller, service: ScriptedService) -> None:
    service.stream = script(
        started(),
        call_delta(0, 0, id="a", name="f"),
        call_delta(0, 1, id="b", name="g"),
        delta("text", 1),
        call_delta(1, 0, id="c", name="f", arguments="{"),
        call_delta(0, 0, arguments="{}"),
        finished(1, reason=4, cause=7),
        call_delta(1, 0, arguments="}"),
        finished(0, reason=4, cause=7),
        summary(),
    )

    assert len(await caller.events(**TWO)) == 10
