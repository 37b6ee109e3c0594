"""Permits: their number, their order, and that none is ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.errors import DeadlineBeforeFirstToken, NotReady, QueueFull
from inference_service.scheduling.admission import Admission, Deadline, DeadlinePassed, Tenant
from lodestream_common.keys import Priority
from tests.support.permits import permit
from tests.support.texts import THOROUGH


class Line:
    """Callers of one admission, each a task that holds its permit until `leave`."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.admitted: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(
        self,
        name: str,
        tenant: Tenant = None,
        deadline: Deadline | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tenant, deadline, priority))
        await settle()

    async def _hold(self, name: str, tenant: Tenant, deadline: Deadline | None, priority: Priority) -> None:
        async with permit(self.admission, tenant, deadline, priority):
            self.admitted.append(name)
            await self._leave[name].wait()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def leave_in_turn(self) -> list[str]:
        """Let all callers leave in the order of admission. Return that order."""
        for position in range(len(self.tasks)):
            await self.leave(self.admitted[position])
        return self.admitted


@asynccontextmanager
async def line(capacity: int = 1, queue_limit: int = 100) -> AsyncIterator[Line]:
    """A line; when all callers have left, all permits must be free and nobody may wait."""
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


async def test_a_flooding_tenant_delays_only_itself() -> None:
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


async def test_interactive_requests_go_before_batch_ones_which_get_a_fifth_of_the_permits() -> None:
    async with line() as queue:
        await queue.join("first")
        for number in range(3):
            await queue.join(f"batch{number}", "batch", priority=Priority.BATCH)
        for number in range(9):
            await queue.join(str(number), f"key{number}")

        assert await queue.leave_in_turn() == [
            *("first", "0", "1", "2", "3", "batch0", "4", "5", "6", "7", "batch1", "8", "batch2")
        ]


async def test_batch_requests_alone_get_all_permits_and_their_keys_take_turns() -> None:
    async with line() as queue:
        for name in ("a0", "a1", "a2", "b0"):
            await queue.join(name, tenant=name[0], priority=Priority.BATCH)

        assert await queue.leave_in_turn() == ["a0", "a1", "b0", "a2"]


async def test_a_full_queue_of_batch_requests_refuses_no_interactive_one() -> None:
    """Each priority has places of its own, and a suspension ends both."""
    admission = Admission(capacity=1, queue_limit=2)
    batch = Priority.BATCH
    async with admission.reserve(None, 3, priority=batch):
        with pytest.raises(QueueFull, match="2 requests"):
            await admission.check_space(None, batch)
        with pytest.raises(QueueFull):
            async with admission.reserve(None, 1, priority=batch):
                pass
        async with admission.reserve(None, 2):
            assert (admission.running, admission.waiting) == (1, 4)
            with pytest.raises(QueueFull):
                await admission.check_space(None)
            admission.suspend("its engine is down")
            assert admission.waiting == 0


@pytest.mark.parametrize("queue_limit", [0, 2])
async def test_a_request_above_the_queue_limit_is_refused_at_once(queue_limit: int) -> None:
    async with line(queue_limit=queue_limit) as queue:
        for number in range(1 + queue_limit):
            await queue.join(str(number))

        with pytest.raises(QueueFull) as caught:
            async with permit(queue.admission, None):
                pass
        assert caught.value.retry_after is not None
        assert 0.1 <= caught.value.retry_after <= 60
        assert str(queue_limit) in str(caught.value)
        assert queue.admission.waiting == queue_limit


async def test_a_cancelled_request_frees_its_place_in_the_queue() -> None:
    async with line(queue_limit=1) as queue:
        await queue.join("a")
        await queue.join("b")
        await queue.cancel("b")
        await queue.join("c")
        await queue.leave("a")

        assert queue.admitted == ["a", "c"]


async def test_a_deadline_ends_the_wait_in_the_queue() -> None:
    async with line() as queue:
        await queue.join("a")

        with pytest.raises(DeadlinePassed):
            async with permit(queue.admission, None, Deadline.after(0.05)):
                pass
        assert queue.admission.waiting == 0


async def test_a_passed_deadline_matters_only_if_the_request_must_wait() -> None:
    late = Deadline.after(-1)
    async with line() as queue:
        await queue.join("a", deadline=late)

        assert queue.admitted == ["a"]
        with pytest.raises(DeadlinePassed):
            async with permit(queue.admission, None, late):
                pass


async def test_after_close_new_requests_are_refused_and_waiting_ones_keep_their_place() -> None:
    async with line() as queue:
        await queue.join("a")
        await queue.join("b")
        queue.admission.close()

        with pytest.raises(NotReady):
            async with permit(queue.admission, None):
                pass
        await queue.leave("a")
        assert queue.admitted == ["a", "b"]


async def test_a_permit_is_freed_when_its_holder_fails() -> None:
    admission = Admission(capacity=1, queue_limit=0)

    with pytest.raises(RuntimeError):
        async with permit(admission, None):
            raise RuntimeError
    assert admission.running == 0


@pytest.mark.parametrize("steps_before_cancel", range(4))
async def test_a_cancellation_during_the_grant_passes_the_permit_on(steps_before_cancel: int) -> None:
    """The cancellation comes before, between or after the grant and the waiter's next step."""
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
async def test_a_grant_during_a_cancellation_goes_to_the_next_request(steps_before_grant: int) -> None:
    async with line() as queue:
        for name in "abc":
            await queue.join(name)

        queue.tasks["b"].cancel()
        for _ in range(steps_before_grant):
            await asyncio.sleep(0)
        await queue.leave("a")

        assert queue.admitted == ["a", "c"]


async def test_all_places_of_a_request_are_taken_at_once() -> None:
    """They are taken before any of them is waited for, so later requests see them in the queue."""
    admission = Admission(capacity=2, queue_limit=4)

    async with admission.reserve(None, 5):
        assert (admission.running, admission.waiting) == (2, 3)
        with pytest.raises(QueueFull):
            async with admission.reserve(None, 2):
                pass
        async with admission.reserve(None, 1):
            assert (admission.running, admission.waiting) == (2, 4)
        assert (admission.running, admission.waiting) == (2, 3)
    assert (admission.running, admission.waiting) == (0, 0)


@pytest.mark.parametrize(("permits", "queue_limit"), [(8, 2), (2, 0)])
async def test_a_request_larger_than_the_queue_is_admitted_when_it_is_alone(
    permits: int, queue_limit: int
) -> None:
    admission = Admission(capacity=1, queue_limit=queue_limit)

    async with admission.reserve(None, permits):
        assert admission.waiting == permits - 1
        with pytest.raises(QueueFull):
            async with admission.reserve(None, 1):
                pass


async def test_a_request_without_choices_takes_no_place() -> None:
    admission = Admission(capacity=1, queue_limit=0)

    async with admission.reserve(None, 1), admission.reserve(None, 0):
        assert (admission.running, admission.waiting) == (1, 0)


async def test_unused_places_are_freed_whether_granted_or_not() -> None:
    admission = Admission(capacity=1, queue_limit=9)
    async with admission.reserve(None, 3) as wait:
        async with wait():
            pass
        assert (admission.running, admission.waiting) == (1, 1)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_each_permit_of_a_request_is_free_when_its_own_context_ends() -> None:
    admission = Admission(capacity=1, queue_limit=9)
    async with admission.reserve(None, 2) as wait:
        async with wait() as running:
            assert running == 1
            other = asyncio.create_task(_hold_one(admission))
            await settle()
        async with wait():
            assert admission.waiting == 1
        await asyncio.wait_for(other, 10)


async def _hold_one(admission: Admission) -> None:
    async with permit(admission, "other"):
        pass


class Learned:
    """An admission that has learned that permits are held for `seconds`."""

    def __init__(self, capacity: int = 1, seconds: float = 1.0) -> None:
        self.admission = Admission(capacity=capacity, queue_limit=100)
        self.admission._record(seconds)

    async def estimate(self, tenant: Tenant = None) -> float:
        return await self.admission.estimate(tenant)


async def test_the_estimate_is_the_recent_time_of_permits() -> None:
    admission = Admission(capacity=1, queue_limit=9)
    async with permit(admission, None):
        await asyncio.sleep(0.05)

    assert await admission.estimate(None) == 0
    async with permit(admission, None):
        assert 0.04 < await admission.estimate(None) < 5


@pytest.mark.parametrize(
    ("capacity", "permits", "seconds"), [(1, 1, 1.0), (1, 4, 4.0), (4, 4, 0.25), (2, 1, 0.0)]
)
async def test_the_estimate_grows_with_the_queue(capacity: int, permits: int, seconds: float) -> None:
    learned = Learned(capacity)
    async with learned.admission.reserve(None, permits):
        assert await learned.estimate() == pytest.approx(seconds)


async def test_a_new_tenant_waits_for_only_one_turn_of_each_other() -> None:
    learned = Learned()
    async with learned.admission.reserve("flooder", 50), learned.admission.reserve("another", 2):
        assert await learned.estimate("quiet") == pytest.approx(3)
        assert await learned.estimate("another") == pytest.approx(6)
        assert await learned.estimate("flooder") == pytest.approx(49 + 2 + 1)


async def test_the_estimate_knows_priorities() -> None:
    """An interactive request waits for a batch one after each four; a batch one for four before each."""
    learned = Learned()
    async with learned.admission.reserve("batch", 3, priority=Priority.BATCH):
        assert await learned.estimate("alice") == pytest.approx(1)
        async with learned.admission.reserve("alice", 9):
            assert await learned.estimate("alice") == pytest.approx(9 + 2 + 1)
            assert await learned.admission.estimate("batch", Priority.BATCH) == pytest.approx(2 + 9 + 1)
            assert await learned.admission.estimate("other", Priority.BATCH) == pytest.approx(1 + 8 + 1)


async def test_a_deadline_within_the_estimate_is_refused_at_once() -> None:
    learned = Learned(seconds=10)
    admission = learned.admission
    async with admission.reserve(None, 1):
        soon = Deadline(time.monotonic() + 5)
        with pytest.raises(DeadlineBeforeFirstToken, match=r"about 10\.0 s"):
            async with admission.reserve(None, 1, soon):
                pass
        assert (admission.running, admission.waiting) == (1, 0)
        async with admission.reserve(None, 1, Deadline(time.monotonic() + 60)), admission.reserve(None, 1):
            assert admission.waiting == 2


async def test_without_history_no_deadline_is_refused_before_it_passes() -> None:
    admission = Admission(capacity=1, queue_limit=9)
    async with (
        admission.reserve(None, 1),
        admission.reserve(None, 1, Deadline(time.monotonic() + 0.01)) as wait,
    ):
        with pytest.raises(DeadlinePassed):
            async with wait():
                pass
        assert admission.waiting == 0


async def test_with_a_free_permit_no_deadline_is_refused() -> None:
    learned = Learned(seconds=1000)

    async with permit(learned.admission, None, Deadline(time.monotonic() + 1)) as running:
        assert running == 1


actions = st.lists(
    st.tuples(st.sampled_from(["join", "late", "leave", "cancel", "step"]), st.integers(0, 7)), max_size=40
)


@THOROUGH
@given(actions=actions, capacity=st.integers(1, 3), queue_limit=st.integers(0, 4))
def test_no_interleaving_loses_or_invents_a_permit(
    actions: list[tuple[str, int]], capacity: int, queue_limit: int
) -> None:
    """Joins, deadlines, ends and cancellations come in any order, with any number of loop steps between."""
    asyncio.run(_interleave(actions, capacity, queue_limit))


async def _interleave(actions: list[tuple[str, int]], capacity: int, queue_limit: int) -> None:
    admission = Admission(capacity=capacity, queue_limit=queue_limit)
    holders = Holders(admission)
    for action, number in actions:
        holders.act(action, number)
        if action == "step":
            await asyncio.sleep(0)
        assert holders.holding <= admission.running <= capacity
        # Each of the three tenants has a reserved place.
        assert 0 <= admission.waiting <= (queue_limit + 3 if queue_limit else 0)
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

    async def _hold(self, tenant: Tenant, deadline: Deadline | None, release: asyncio.Event) -> None:
        with suppress(QueueFull, DeadlinePassed, DeadlineBeforeFirstToken):
            async with permit(self._admission, tenant, deadline):
                self.holding += 1
                try:
                    await release.wait()
                finally:
                    self.holding -= 1
