"""Documents sent to a cluster on a bad day: what is sent again, what is given up, and that nothing is lost."""

import uuid
from contextlib import closing
from itertools import pairwise

import pytest

from ingestion_dagster.catalog.bulk import bodies, indexed
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog.faulty_proxy import Exchange, Fault, FaultyProxy
from ingestion_dagster_tests.catalog.opensearch_scene import DOCUMENTS, IDS, VirtualTime, ask, engine, in_index, index, proxy, time

__all__ = ["engine", "index", "proxy", "time"]

PASSING: list[Fault] = [
    *(faulty_proxy.status(code) for code in (408, 429, 500, 502, 503, 504)),
    *(faulty_proxy.dropped, faulty_proxy.lost, faulty_proxy.cut, faulty_proxy.page, faulty_proxy.short),
]


def test_what_may_pass_is_sent_again_and_counted_once(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.faults = [answer for fault in PASSING for answer in (fault, fault, faulty_proxy.passes)]
    result = engine.bulk(index, [(number, b"{}") for number in range(10 * len(PASSING))])
    assert (result.accepted, result.rejected, result.retries) == (10 * len(PASSING), (), 2 * len(PASSING))
    assert proxy.bulks == [list(range(first, first + 10)) for first in range(0, 10 * len(PASSING), 10) for _ in range(3)]
    assert time.pauses == [0.25, 0.5] * len(PASSING)
    assert in_index(engine, index) == 10 * len(PASSING)


def test_only_the_items_that_were_not_taken_are_sent_again(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    proxy.faults = [faulty_proxy.overloaded(lambda id_: id_ % 3 == 0), faulty_proxy.overloaded(lambda id_: id_ % 2 == 0, 503)]
    result = engine.bulk(index, DOCUMENTS[:10])
    assert proxy.bulks == [IDS[:10], [1, 2, 4, 5, 7, 8], [1, 5, 7]]
    assert (result.accepted, result.retries, in_index(engine, index)) == (10, 2, 10)


def test_a_storm_of_refusals_ends_when_nothing_gets_done(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.otherwise = faulty_proxy.status(429)
    with pytest.raises(Transient) as failed:
        engine.bulk(index, DOCUMENTS)
    assert failed.value.code == "search_overloaded"
    assert 90 < time.now <= 120
    assert max(time.pauses) == 20
    assert "secret" not in str(failed.value)


def test_slow_progress_is_progress(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    def later(exchange: Exchange) -> None:
        time.now += 100
        faulty_proxy.overloaded(lambda id_: id_ == exchange.ids[0])(exchange)

    proxy.otherwise = later
    assert engine.bulk(index, DOCUMENTS[:5]).accepted == 5
    assert time.now > 480
    assert in_index(engine, index) == 5


def test_an_outage_of_a_minute_loses_nothing(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    def down(exchange: Exchange) -> bool:
        if time.now < 60:
            exchange.drop()
        return time.now < 60

    proxy.before = down
    result = engine.bulk(index, DOCUMENTS)
    assert (result.accepted, in_index(engine, index)) == (30, 30)
    assert 60 <= time.now < 100


def test_an_outage_longer_than_the_patience_ends_the_call(index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.otherwise = faulty_proxy.status(503)
    engine = OpenSearch.at(proxy.url, waiting=time.waiting(30))
    with pytest.raises(Transient, match="search_unavailable"):
        engine.bulk(index, DOCUMENTS)
    assert time.now <= 30
    engine.close()


def test_a_poison_document_costs_no_pause(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    documents = [(number, b'{"max_boost":-5}' if number == 14 else source) for number, source in DOCUMENTS]
    result = engine.bulk(index, documents)
    assert ([rejected.id for rejected in result.rejected], result.accepted, time.pauses) == ([14], 29, [])
    assert proxy.bulks == [IDS[:10], IDS[10:20], IDS[20:]], "something was sent twice"
    assert in_index(engine, index) == 29


@pytest.mark.parametrize("block", ["read_only_allow_delete", "read_only", "write"])
def test_a_full_disk_is_said_soon(engine: OpenSearch, index: str, opensearch: str, time: VirtualTime, block: str) -> None:
    engine.bulk(index, DOCUMENTS[:10])
    ask(opensearch, "PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
    with pytest.raises(Transient, match="free disk space") as failed:
        engine.bulk(index, DOCUMENTS)
    assert (failed.value.code, time.pauses) == ("index_read_only", [])
    ask(opensearch, "PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})
    assert engine.bulk(index, DOCUMENTS).accepted == 30
    assert in_index(engine, index) == 30


def test_a_body_too_large_is_halved_until_the_cluster_takes_it(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def limited(exchange: Exchange) -> None:
        answer = faulty_proxy.status(413) if len(exchange.body) > 300 else faulty_proxy.passes
        answer(exchange)

    proxy.otherwise = limited
    documents = [(number, b'{"url":"%s"}' % (b"x" * (400 if number == 3 else 50))) for number in range(8)]
    result = engine.bulk(index, documents)
    assert [(rejected.id, rejected.code) for rejected in result.rejected] == [(3, "document_too_large")]
    assert (result.accepted, in_index(engine, index)) == (7, 7)
    sent = [id_ for ids in proxy.bulks for id_ in ids]
    assert sorted(set(sent)) == list(range(8))


@pytest.mark.parametrize(("most", "most_bytes"), [(1, 10), (3, 10**9), (1000, 100), (7, 150), (1000, 10**9)])
def test_bodies_are_bounded_and_leave_nothing_out(most: int, most_bytes: int) -> None:
    items = [indexed(number, b"{}" + b" " * (number * 37 % 90)) for number in range(200)]
    parts = list(bodies(items, most, most_bytes))
    assert [item for part in parts for item in part] == items
    assert all(len(part) <= most for part in parts)
    assert all(len(part) == 1 or sum(len(item.lines) for item in part) <= most_bytes for part in parts)
    for part, following in pairwise(parts):
        assert len(part) == most or sum(len(item.lines) for item in [*part, following[0]]) > most_bytes, "a body could have had more"


def test_an_index_deleted_midway_is_not_made_by_what_is_sent_to_it(
    opensearch: str, engine: OpenSearch, index: str, proxy: FaultyProxy
) -> None:
    def deleted(exchange: Exchange) -> None:
        ask(opensearch, "DELETE", f"/{index}")
        faulty_proxy.passes(exchange)

    proxy.faults = [faulty_proxy.passes, deleted]
    with pytest.raises(Refused, match="no_such_index"):
        engine.bulk(index, DOCUMENTS)
    assert not engine.exists(index)


def test_an_outage_of_200_seconds_ends_the_run_and_the_next_one_goes_on(places: Places, opensearch: str) -> None:
    """With the patience that is set by default, in virtual time."""
    index, clock = f"outage-{uuid.uuid4().hex[:10]}", VirtualTime()
    documents = [(number, b"{}") for number in range(5)]
    with faulty_proxy.faulty_proxy(opensearch) as proxy:
        engine = OpenSearch.at(proxy.url, waiting=clock.waiting(places.settings.catalog_search_patience_seconds))
        with closing(engine):
            engine.create(index, MEDIA_TYPES["audio"].mapping.definition({}))

            def away(exchange: Exchange) -> bool:
                if clock.now < 200:
                    exchange.drop()
                return clock.now < 200

            proxy.before = away
            with pytest.raises(Transient, match="search_unavailable"):
                engine.bulk(index, documents)
            assert clock.now < 200
            clock.sleep(200 - clock.now)
            assert engine.bulk(index, documents).accepted == 5
            engine.refresh(index)
            assert engine.count(index) == 5
