"""A queue that tenants share: turns, and reserved places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_service.scheduling.admission import FairQueue, Tenant


def filled(limit: int, *held: tuple[Tenant, int]) -> FairQueue[object]:
    queue: FairQueue[object] = FairQueue(limit)
    for tenant, count in held:
        for _ in range(count):
            queue.push(tenant, object())
    return queue


def test_a_tenant_takes_at_most_half_of_the_free_places() -> None:
    queue = filled(100)
    while queue.has_space("first"):
        queue.push("first", object())
    while queue.has_space("second"):
        queue.push("second", object())

    assert queue.counts == {"first": 50, "second": 25}


def test_a_tenant_without_waiting_requests_always_has_a_place() -> None:
    queue = filled(10, ("flooder", 5), ("another", 5))

    assert not queue.has_space("flooder")
    assert queue.has_space("quiet")
    assert queue.has_space("quiet", weight=1000)
    queue.push("quiet", object())
    assert not queue.has_space("quiet")


def test_without_keys_everybody_shares_the_whole_queue() -> None:
    assert filled(10, (None, 9)).has_space(None)
    assert not filled(10, (None, 10)).has_space(None)


def test_a_queue_of_length_zero_has_no_places() -> None:
    assert not filled(0).has_space("quiet")


def test_a_skipped_tenant_keeps_its_place() -> None:
    queue = filled(100, ("a", 2), ("b", 1))

    assert [
        popped[0] for popped in (queue.pop({"a"}), queue.pop({"a"}), queue.pop(), queue.pop()) if popped
    ] == [*("b", "a", "a")]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), max_size=60))
def test_an_emptied_queue_has_no_weights(steps: list[tuple[str, int, bool]]) -> None:
    """This holds for any sequence of push, pop and discard."""
    queue: FairQueue[object] = FairQueue(20)
    pushed: list[tuple[str, object]] = []
    for tenant, weight, is_push in steps:
        if is_push and queue.has_space(tenant, weight):
            pushed.append((tenant, object()))
            queue.push(*pushed[-1], weight)
        elif pushed and weight % 2:
            queue.discard(*pushed.pop())
        else:
            queue.pop()
    list(queue.drain())

    assert (len(queue), queue.counts, queue._weight, queue._weights) == (0, {}, 0, {})
