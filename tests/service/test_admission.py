"""Permits: how many, who is next, and that none is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.errors import NotReady, QueueFull
from inference_service.generation.admission import Admission
from inference_service.generation.deadline import Deadline, DeadlinePassed
from tests.support.texts import THOROUGH


class Line:
    """Callers of one admission, each a task that holds its permit until told to leave."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.admitted: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(self, name: str, tenant: str = "t", deadline: Deadline | None = None) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tenant, deadline))
        await settle()

    async def _hold(self, name: str, tenant: str, deadline: Deadline | None) -> None:
        async with self.admission.permit(tenant, deadline):
            self.admitted.append(name)
            await self._leave[name].wait()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def leave_in_turn(self) -> list[str]:
        """Let everybody leave in the order of admission; that order."""
        for position in range(len(self.tasks)):
            await self.leave(self.admitted[position])
        return self.admitted


@asynccontextmanager
async def line(capacity: int = 1, queue_limit: int = 100) -> AsyncIterator[Line]:
    """A line in which no permit is missing, and nobody waits, once everybody has left."""
    queue = Line(Admission(capacity=capacity, queue_limit=queue_limit))
    try:
        yield queue
    finally:
        for task in queue.tasks.values():
            task.cancel()
        await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
    assert (queue.admission.running, queue.admission.waiting) == (0, 0)


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_run_than_there_are_permits() -> None:
    async with line(capacity=2) as queue:
        for name in "abc":
            await queue.join(name)

        assert queue.admitted == ["a", "b"]
        assert (queue.admission.running, queue.admission.waiting) == (2, 1)

        await queue.leave("a")
        assert queue.admitted == ["a", "b", "c"]
        assert (queue.admission.running, queue.admission.waiting) == (2, 0)


async def test_first_come_is_first_served_within_a_tenant() -> None:
    async with line() as queue:
        for name in "abcde":
            await queue.join(name)

        assert await queue.leave_in_turn() == list("abcde")


async def test_a_flooder_delays_itself_and_not_the_others() -> None:
    async with line() as queue:
        for number in range(5):
            await queue.join(f"flood{number}", tenant="flooder")
        await queue.join("quiet0", tenant="quiet")
        await queue.join("quiet1", tenant="quiet")

        assert await queue.leave_in_turn() == [
            *("flood0", "flood1", "quiet0", "flood2", "quiet1", "flood3", "flood4")
        ]


async def test_tenants_take_turns() -> None:
    async with line() as queue:
        await queue.join("first")
        for name in ("a0", "a1", "b0", "b1", "c0"):
            await queue.join(name, tenant=name[0])

        assert await queue.leave_in_turn() == ["first", "a0", "b0", "c0", "a1", "b1"]


@pytest.mark.parametrize("queue_limit", [0, 2])
async def test_one_more_than_may_wait_is_refused_at_once(queue_limit: int) -> None:
    async with line(queue_limit=queue_limit) as queue:
        for number in range(1 + queue_limit):
            await queue.join(str(number))

        with pytest.raises(QueueFull) as caught:
            async with queue.admission.permit("t"):
                pass
        assert caught.value.retry_after is not None
        assert 0.1 <= caught.value.retry_after <= 60
        assert str(queue_limit) in str(caught.value)
        assert queue.admission.waiting == queue_limit


async def test_a_place_in_the_queue_is_free_again_after_a_cancel() -> None:
    async with line(queue_limit=1) as queue:
        await queue.join("a")
        await queue.join("b")
        await queue.cancel("b")
        await queue.join("c")
        await queue.leave("a")

        assert queue.admitted == ["a", "c"]


async def test_a_deadline_while_waiting() -> None:
    async with line() as queue:
        await queue.join("a")

        with pytest.raises(DeadlinePassed):
            async with queue.admission.permit("t", Deadline.after(0.05)):
                pass
        assert queue.admission.waiting == 0


async def test_a_deadline_that_has_passed_matters_only_where_one_must_wait() -> None:
    late = Deadline.after(-1)
    async with line() as queue:
        await queue.join("a", deadline=late)

        assert queue.admitted == ["a"]
        with pytest.raises(DeadlinePassed):
            async with queue.admission.permit("t", late):
                pass


async def test_after_close_nobody_new_is_admitted_and_who_waits_keeps_the_place() -> None:
    async with line() as queue:
        await queue.join("a")
        await queue.join("b")
        queue.admission.close()

        with pytest.raises(NotReady):
            async with queue.admission.permit("t"):
                pass
        await queue.leave("a")
        assert queue.admitted == ["a", "b"]


async def test_a_permit_comes_back_when_its_holder_fails() -> None:
    admission = Admission(capacity=1, queue_limit=0)

    with pytest.raises(RuntimeError):
        async with admission.permit("t"):
            raise RuntimeError
    assert admission.running == 0


@pytest.mark.parametrize("steps_before_cancel", range(4))
async def test_a_cancel_at_the_moment_of_the_grant_passes_the_permit_on(steps_before_cancel: int) -> None:
    """Whether the cancel falls before, between or after the grant and the waiter's next step."""
    async with line() as queue:
        for name in "abc":
            await queue.join(name)

        queue._leave["a"].set()
        for _ in range(steps_before_cancel):
            await asyncio.sleep(0)
        await queue.cancel("b")

        assert queue.admitted[-1] == "c"
        assert (queue.admission.running, queue.admission.waiting) == (1, 0)


@pytest.mark.parametrize("steps_before_grant", range(4))
async def test_a_grant_at_the_moment_of_a_cancel_goes_to_the_next(steps_before_grant: int) -> None:
    async with line() as queue:
        for name in "abc":
            await queue.join(name)

        queue.tasks["b"].cancel()
        for _ in range(steps_before_grant):
            await asyncio.sleep(0)
        await queue.leave("a")

        assert queue.admitted == ["a", "c"]


actions = st.lists(
    st.tuples(st.sampled_from(["join", "late", "leave", "cancel", "step"]), st.integers(0, 7)), max_size=40
)


@THOROUGH
@given(actions=actions, capacity=st.integers(1, 3), queue_limit=st.integers(0, 4))
def test_no_interleaving_loses_or_invents_a_permit(
    actions: list[tuple[str, int]], capacity: int, queue_limit: int
) -> None:
    """Joins, deadlines, ends and cancels in any order, with any number of loop steps between them."""
    asyncio.run(_interleave(actions, capacity, queue_limit))


async def _interleave(actions: list[tuple[str, int]], capacity: int, queue_limit: int) -> None:
    admission = Admission(capacity=capacity, queue_limit=queue_limit)
    holders = Holders(admission)
    for action, number in actions:
        holders.act(action, number)
        if action == "step":
            await asyncio.sleep(0)
        assert holders.holding <= admission.running <= capacity
        assert 0 <= admission.waiting <= queue_limit
        assert admission.waiting == 0 or admission.running == capacity
    holders.end_all()
    await asyncio.wait_for(asyncio.gather(*holders.tasks, return_exceptions=True), 10)

    assert (admission.running, admission.waiting, holders.holding) == (0, 0, 0)


class Holders:
    """Tasks that take a permit of their tenant and hold it until released."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._releases: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.holding = 0

    def act(self, action: str, number: int) -> None:
        if action in ("join", "late"):
            deadline = Deadline.after(0) if action == "late" else None
            self._releases.append(asyncio.Event())
            self.tasks.append(asyncio.create_task(self._hold(str(number % 3), deadline, self._releases[-1])))
        elif self.tasks and action == "leave":
            self._releases[number % len(self.tasks)].set()
        elif self.tasks and action == "cancel":
            self.tasks[number % len(self.tasks)].cancel()

    def end_all(self) -> None:
        for release in self._releases:
            release.set()

    async def _hold(self, tenant: str, deadline: Deadline | None, release: asyncio.Event) -> None:
        with suppress(QueueFull, DeadlinePassed):
            async with self._admission.permit(tenant, deadline):
                self.holding += 1
                try:
                    await release.wait()
                finally:
                    self.holding -= 1
