"""Indexes and aliases of a cluster on a bad day: whatever answer is lost, whoever is faster, readers are led right."""

import urllib.error
import urllib.request
import uuid

import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog.faulty_proxy import Exchange, FaultyProxy
from ingestion_dagster_tests.catalog.opensearch_scene import DOCUMENTS, ask, engine, index, proxy, time

__all__ = ["engine", "index", "proxy", "time"]


@pytest.mark.parametrize("same", [True, False])
def test_an_index_whose_making_was_answered_in_vain_is_known_again(
    engine: OpenSearch, proxy: FaultyProxy, opensearch: str, same: bool
) -> None:
    name = f"faults-{uuid.uuid4().hex[:10]}"
    definition = mapping.AUDIO.definition({"run": "mine"})

    def once(exchange: Exchange) -> bool:
        if exchange.method != "PUT":
            return False
        proxy.before = lambda exchange: False
        if same:
            exchange.forward()
        else:
            ask(opensearch, "PUT", f"/{name}", {"mappings": {"_meta": {"run": "another"}}})
        exchange.drop()
        return True

    proxy.before = once
    if same:
        engine.create(name, definition)
        assert engine.label(name)["run"] == "mine"
    else:
        with pytest.raises(Refused, match="index_exists"):
            engine.create(name, definition)


def test_an_alias_that_leads_to_two_indexes_leads_to_one_afterwards(engine: OpenSearch, index: str, opensearch: str) -> None:
    other, alias = f"{index}-other", f"{index}-alias"
    engine.create(other, mapping.AUDIO.definition({}))
    ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"indices": [index, other], "alias": alias}}]})
    assert engine.behind(alias) == (index, other)
    engine.bulk(index, DOCUMENTS)
    engine.refresh(index)
    assert engine.count(alias) == 30
    engine.switch([AliasMove(alias, other)])
    assert (engine.behind(alias), engine.count(alias)) == ((other,), 0)


def test_a_switch_whose_answer_is_lost_is_verified(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    posts: list[str] = []

    def once(exchange: Exchange) -> bool:
        if exchange.path.startswith("/_aliases"):
            posts.append(exchange.path)
            if len(posts) == 1:
                faulty_proxy.lost(exchange)
                return True
        return False

    proxy.before = once
    engine.switch([AliasMove(f"{index}-alias", index)])
    assert engine.behind(f"{index}-alias") == (index,)


def test_others_that_move_the_alias_back_are_noticed(engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str) -> None:
    other, alias = f"{index}-other", f"{index}-alias"
    engine.create(other, mapping.AUDIO.definition({}))

    def back(exchange: Exchange) -> bool:
        if not exchange.path.startswith("/_aliases"):
            return False
        answer = exchange.forward()
        actions = [{"remove": {"index": "*", "alias": alias}}, {"add": {"index": other, "alias": alias}}]
        ask(opensearch, "POST", "/_aliases", {"actions": actions})
        exchange.answer(*answer)
        return True

    proxy.before = back
    with pytest.raises(Transient, match="somebody else"):
        engine.switch([AliasMove(alias, index)])


def test_an_alias_that_comes_while_its_index_is_deleted_saves_it(
    engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str
) -> None:
    alias = f"{index}-alias"

    def meanwhile(exchange: Exchange) -> bool:
        if exchange.method == "PUT" and exchange.path.startswith(f"/{index}/_settings"):
            proxy.before = lambda exchange: False
            ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": alias}}]})
        return False

    proxy.before = meanwhile
    with pytest.raises(Refused, match="index_has_aliases"):
        engine.delete_index(index)
    assert engine.behind(alias) == (index,)
    assert engine.bulk(index, DOCUMENTS).accepted == 30, "the block has stayed"


def test_no_alias_can_come_between_the_last_look_and_the_deletion(
    engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str
) -> None:
    refused: list[int] = []

    def meanwhile(exchange: Exchange) -> bool:
        if exchange.method == "DELETE":
            try:
                ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": f"{index}-alias"}}]})
            except urllib.error.HTTPError as error:
                refused.append(error.code)
                error.close()
        return False

    proxy.before = meanwhile
    assert engine.delete_index(index)
    assert refused == [429]


def test_a_deletion_whose_answer_is_lost_is_done(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def once(exchange: Exchange) -> bool:
        if exchange.method != "DELETE":
            return False
        proxy.before = lambda exchange: False
        faulty_proxy.lost(exchange)
        return True

    proxy.before = once
    assert engine.delete_index(index)
    assert not engine.exists(index)


def test_finish_sets_replicas_and_leaves_refreshing_off(engine: OpenSearch, index: str, opensearch: str) -> None:
    engine.finish(index, replicas=1)
    settings = ask(opensearch, "GET", f"/{index}/_settings")[index]["settings"]["index"]
    assert (settings["number_of_replicas"], settings["refresh_interval"]) == ("1", "-1")
    assert engine.wait_ready(index, 10), "a single node cannot hold the replica, and need not"


def test_shards_that_do_not_answer_are_no_answer(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def some(exchange: Exchange) -> bool:
        if "/_count" in exchange.path:
            exchange.answer(200, b'{"count":5,"_shards":{"total":2,"successful":1,"failed":1}}')
        return "/_count" in exchange.path

    proxy.before = some
    with pytest.raises(Transient, match="not all shards"):
        engine.count(index)
