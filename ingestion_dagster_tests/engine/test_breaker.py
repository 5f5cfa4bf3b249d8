"""The circuit breaker: who waits, who goes to see, when all give up, and that it closes again."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from ingestion_dagster.engine.breaker import Breaker
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster_tests.engine.virtual_time import VirtualTime


class Server:
    """Well, or not, depending on the time; notes when it was asked."""

    def __init__(self, is_well: Callable[[float], bool], takes: float = 0.01, **options: Any) -> None:
        self.time = VirtualTime()
        self.breaker = Breaker(**{"failures": 3, "patience": 30, **options}, clock=self.time, sleep=self.time.sleep)
        self.asked: list[float] = []
        self._is_well = is_well
        self._takes = takes

    @property
    def since(self) -> float:
        return self.time() - 1000

    async def ask(self) -> bool:
        was_probe = await self.breaker.enter()
        try:
            self.asked.append(round(self.since, 1))
            await self.time.sleep(self._takes)
            well = self._is_well(self.since)
            self.breaker.good() if well else self.breaker.bad()
            return well
        finally:
            self.breaker.leave(was_probe)

    async def ask_until_well(self, after: float = 0.0) -> float:
        await self.time.sleep(after)
        while not await self.ask():
            pass
        return self.since


def test_few_failures_do_not_open_it_and_a_good_answer_between_them_counts_anew():
    breaker = Breaker(3)
    for _ in range(5):
        breaker.bad()
        breaker.bad()
        assert not breaker.is_open
        breaker.good()
    breaker.bad()
    breaker.bad()
    breaker.bad()
    assert breaker.is_open


def test_one_at_a_time_goes_to_see_after_pauses_that_grow():
    server = Server(lambda now: now > 20)
    ended = server.time.run(*(server.ask_until_well() for _ in range(8)))
    assert server.asked.count(0.0) < 12
    probes = [each for each in server.asked if 0 < each <= 25]
    assert probes == [pytest.approx(each, abs=0.3) for each in (1, 3, 7, 15, 25)]
    assert all(20 < each < 26 for each in ended)


def test_everybody_goes_on_at_once_when_it_is_well_again():
    server = Server(lambda now: now > 0.5)
    ended = server.time.run(*(server.ask_until_well() for _ in range(20)))
    assert max(ended) - min(ended) < 0.3
    assert not server.breaker.is_open


def test_all_give_up_at_once_when_patience_is_over_also_those_who_come_later():
    server = Server(lambda _: False, patience=5)
    found = server.time.run(*(server.ask_until_well() for _ in range(5)), server.ask_until_well(4.9), server.ask_until_well(60))
    assert {type(each) for each in found} == {Transient}
    assert {each.code for each in found} == {"http_unavailable"}
    assert len([each for each in server.asked if each > 5.2]) == 0
    assert server.since < 61


def test_a_probe_that_hangs_does_not_hold_back_the_others_beyond_their_patience():
    server = Server(lambda _: False, takes=25, patience=5)
    ended: list[float] = []

    async def ask() -> None:
        with suppress(Transient):
            await server.ask_until_well()
        ended.append(server.since)

    async def hurry() -> None:
        for _ in range(3):
            server.breaker.bad()

    server.time.run(hurry(), *(ask() for _ in range(4)))
    assert sorted(round(each) for each in ended)[:3] == [5, 5, 5]


def test_an_answer_to_an_old_question_closes_it_after_it_was_given_up():
    server = Server(lambda _: False, patience=1)
    server.time.run(*(server.ask_until_well() for _ in range(4)))
    server.breaker.good()

    async def ask() -> bool:
        return await server.ask()

    assert server.time.run(ask()) == [False]


def test_a_probe_that_is_cancelled_lets_the_next_one_go():
    server = Server(lambda now: now > 2)

    async def go() -> float:
        for _ in range(3):
            server.breaker.bad()
        first = asyncio.ensure_future(server.ask_until_well())
        await server.time.sleep(0.5)
        other = asyncio.ensure_future(server.ask_until_well())
        await server.time.sleep(0.3)
        first.cancel()
        return await other

    (ended,) = server.time.run(go())
    assert 2 < ended < 8


def test_a_server_that_wants_no_request_for_an_hour_is_left_alone_for_an_hour():
    server = Server(lambda _: True, patience=30)
    server.breaker.shut(3600)

    async def early() -> None:
        await server.time.sleep(3599)
        await server.ask()

    async def late() -> bool:
        await server.time.sleep(3601)
        return await server.ask()

    found = server.time.run(early(), late())
    assert isinstance(found[0], Transient)
    assert found[1] is True
