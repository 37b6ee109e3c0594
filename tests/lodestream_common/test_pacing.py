from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from lodestream_common import pacing
from lodestream_common.pacing import LoadMeter, Pacer, Pause, next_interval, parse_interval
from tests.support.scripted import eventually


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("0.25", 0.25), ("10", 10.0), ("9.999999", 9.999999)]
)
def test_an_interval_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "10.1", "99", "1e1", "nan", "inf", "0,5", " 1", "1s", "٣"])
def test_a_bad_interval_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a number of seconds in \[0, 10\]"):
        parse_interval(text)


class Thread:
    """A thread whose busy time the test sets."""

    def __init__(self) -> None:
        self.busy = 0.0

    def __call__(self) -> float:
        return self.busy


def load_after(share: float, late: float = 0.0, windows: int = 5) -> LoadMeter:
    """A meter that has read the same load for some windows of five ticks each."""
    thread = Thread()
    meter = LoadMeter(thread)
    meter.start(0.0)
    for tick in range(1, 5 * windows + 1):
        thread.busy = share * tick * 0.02
        meter.tick(tick * 0.02 + 1e-9, late)
    return meter


def test_a_meter_reads_the_share_of_each_window_and_the_mean_lateness() -> None:
    meter = load_after(share=0.4, late=0.01, windows=20)

    assert meter.share == pytest.approx(0.4)
    assert meter.lateness == pytest.approx(0.01)


def test_a_window_ends_after_a_tenth_of_a_second() -> None:
    meter = LoadMeter(Thread())
    meter.start(0.0)

    assert [meter.tick(now, 0.0) for now in (0.02, 0.04, 0.099, 0.101, 0.12, 0.202)] == [
        False,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_busy_thread_increases_the_interval_up_to_the_largest() -> None:
    busy = load_after(share=0.9)
    intervals = [0.0]
    while intervals[-1] < 0.25:
        intervals.append(next_interval(intervals[-1], busy, 0.25))

    assert intervals[1] == pytest.approx(0.005)
    assert intervals == sorted(intervals)
    assert next_interval(intervals[-1], busy, 0.25) == 0.25
    assert len(intervals) < 25, "two and a half seconds at most"


def test_a_full_loop_increases_the_interval_faster() -> None:
    assert next_interval(0.01, load_after(share=1.0), 0.25) == 0.02
    assert next_interval(0.01, load_after(share=0.9), 0.25) == 0.0125


def test_a_late_loop_increases_the_interval_even_with_little_cpu_time() -> None:
    assert next_interval(0.0, load_after(share=0.4, late=0.02), 0.25) > 0


def test_an_idle_loop_that_wakes_up_late_is_not_paced() -> None:
    assert next_interval(0.0, load_after(share=0.1, late=0.02), 0.25) == 0.0


def test_the_interval_stays_where_the_load_is_between_the_limits() -> None:
    assert next_interval(0.1, load_after(share=0.7), 0.25) == 0.1
    assert next_interval(0.1, load_after(share=0.5, late=0.006), 0.25) == 0.1


def test_the_interval_of_an_idle_loop_shrinks_to_nothing() -> None:
    idle = load_after(share=0.1)
    interval = 0.25
    for _ in range(40):
        interval = next_interval(interval, idle, 0.25)

    assert interval == 0.0


def test_the_largest_interval_may_be_smaller_than_the_first() -> None:
    assert next_interval(0.0, load_after(share=0.9), 0.001) == 0.001


async def test_a_pacer_follows_the_load_and_stops_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    is_busy = True
    pacer = Pacer(0.25, load=LoadMeter(lambda: loop.time() if is_busy else 0.0))
    assert pacer.current == 0.0
    assert pacer._timer is None, "reading what is in use does not start the timer"

    assert pacer.interval() == 0.0, "the first answer comes before any reading"
    await eventually(lambda: pacer.interval() > 0.02)
    assert pacer.current > 0.02
    assert pacer.interval(0.01) == 0.01, "no caller waits longer than it accepts"
    assert pacer.interval(0) == 0.0
    is_busy = False
    await eventually(lambda: pacer.interval() == 0.0)
    await eventually(lambda: pacer._timer is None)
    assert pacer.current == 0.0


async def test_pacing_can_be_turned_off_or_be_constant() -> None:
    assert Pacer(0.0, "always").interval() == 0.0
    assert Pacer(0.2, "always").interval() == 0.2
    assert Pacer(0.2, "always").interval(0.1) == 0.1
    assert Pacer(0.2, "always").interval(9.0) == 0.2


async def test_random_pacing_holds_some_messages_and_some_not() -> None:
    pacer = Pacer(0.2, "random")
    seen = [pacer.interval() for _ in range(200)]

    assert 0.0 in seen
    assert len(set(seen)) > 20
    assert max(seen) <= 0.2


def test_computing_is_busy_time_and_sleeping_is_not() -> None:
    before, end = pacing.thread_busy_seconds(), time.thread_time() + 0.05
    while time.thread_time() < end:
        pass

    assert pacing.thread_busy_seconds() - before >= 0.04


def test_busy_time_is_read_without_schedstat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pacing, "_SCHEDSTAT", tmp_path / "none")

    assert 0 < pacing.thread_busy_seconds() <= time.thread_time()


async def test_a_pause_ends_by_itself() -> None:
    await asyncio.wait_for(Pause().wait(0.01), 5)


async def test_an_end_interrupts_the_pause_and_skips_later_ones() -> None:
    pause = Pause()
    waiting = asyncio.create_task(pause.wait(1000))
    await asyncio.sleep(0)

    pause.end()

    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(pause.wait(1000), 5)
