"""The token bucket: no second holds too many, nothing is left unused, and nobody overtakes."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_dagster.engine.rate import Rate
from ingestion_dagster_tests.engine.virtual_time import VirtualTime


def times_of(rate: Rate, time: VirtualTime, waits: list[float]) -> list[float]:
    """When requests were let through that came after such waits."""
    passed: list[float] = []

    async def come(after: float) -> None:
        await time.sleep(after)
        await rate.take()
        passed.append(time())

    time.run(*map(come, waits))
    return passed


def most_in_a_second(passed: list[float]) -> int:
    return max(sum(begin <= each < begin + 1 for each in passed) for begin in passed)


def test_the_whole_rate_is_used_and_no_second_holds_more_than_the_burst_above_it():
    time = VirtualTime()
    passed = times_of(Rate(80, clock=time, sleep=time.sleep), time, [0.0] * 800)
    assert most_in_a_second(passed) <= 88
    assert 800 / (passed[-1] - passed[0]) >= 0.95 * 80


@settings(max_examples=40, deadline=None)
@given(
    per_second=st.floats(1, 50),
    burst=st.floats(1, 20),
    waits=st.lists(st.floats(0, 5).filter(lambda wait: wait > 1e-6 or wait == 0), min_size=1, max_size=60),
)
def test_no_second_holds_more_than_allowed_whatever_comes_and_when(per_second: float, burst: float, waits: list[float]):
    time = VirtualTime()
    passed = times_of(Rate(per_second, burst, clock=time, sleep=time.sleep), time, waits)
    assert len(passed) == len(waits)
    assert most_in_a_second(passed) <= per_second + burst + 1


def test_after_idle_hours_no_more_come_at_once_than_the_burst():
    time = VirtualTime()
    rate = Rate(10, 2, clock=time, sleep=time.sleep)
    passed = times_of(rate, time, [0.0] + [7200.0] * 12)
    assert sum(each == 8200.0 for each in passed) == 2


def test_a_sleep_that_is_too_long_is_caught_up_within_the_burst():
    time = VirtualTime()

    async def oversleep(seconds: float) -> None:
        await time.sleep(seconds + 0.015)

    passed = times_of(Rate(80, clock=time, sleep=oversleep), time, [0.0] * 400)
    assert 400 / (passed[-1] - passed[0]) >= 0.95 * 80
    assert most_in_a_second(passed) <= 88


def test_whoever_came_first_goes_first():
    time = VirtualTime()
    rate = Rate(5, 1, clock=time, sleep=time.sleep)
    order: list[int] = []

    async def come(number: int) -> None:
        await time.sleep(number / 1000)
        await rate.take()
        order.append(number)

    time.run(*map(come, reversed(range(20))))
    assert order == list(range(20))


def test_a_pause_holds_everybody_and_a_shorter_one_does_not_end_it():
    time = VirtualTime()
    rate = Rate(100, clock=time, sleep=time.sleep)

    async def pause() -> None:
        await time.sleep(0.05)
        rate.pause(7)
        rate.pause(1)

    passed: list[float] = []

    async def come(after: float) -> None:
        await time.sleep(after)
        await rate.take()
        passed.append(time() - 1000)

    time.run(pause(), *map(come, [0.0, 0.06, 1, 3, 6.9, 8]))
    assert passed[0] == 0
    assert min(passed[1:]) >= 7.05 - 1e-6


def test_one_who_is_cancelled_holds_up_nobody():
    time = VirtualTime()
    rate = Rate(1, 1, clock=time, sleep=time.sleep)

    async def go() -> float:
        await rate.take()
        waiting = [asyncio.ensure_future(rate.take()) for _ in range(3)]
        await time.sleep(0.5)
        waiting[0].cancel()
        waiting[1].cancel()
        with suppress(asyncio.CancelledError):
            await waiting[0]
        await waiting[2]
        return time() - 1000

    assert time.run(go())[0] == pytest.approx(1.0)


@pytest.mark.parametrize("per_second", [0, -1])
def test_a_rate_of_nothing_is_none(per_second: float):
    with pytest.raises(ValueError, match="larger than 0"):
        Rate(per_second)
