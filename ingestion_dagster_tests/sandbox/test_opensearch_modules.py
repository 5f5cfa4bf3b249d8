"""What the catalog asks of a search cluster, asked of the sandbox's: a module that is missing there would show only in a refresh."""

import pytest

from ingestion_dagster_tests.catalog import search_server
from ingestion_dagster_tests.sandbox.searching import Search

opensearch = search_server.opensearch

INDEX = {
    "settings": {
        "number_of_shards": 1,
        "number_of_replicas": 0,
        "analysis": {
            "filter": {
                "english_stop": {"type": "stop", "stopwords": "_english_"},
                "overrides": {"type": "stemmer_override", "rules": ["animals => animal", "anime => anime"]},
                "english": {"type": "stemmer", "language": "english"},
                "possessive": {"type": "stemmer", "language": "possessive_english"},
            },
            "analyzer": {
                "ours": {"tokenizer": "standard", "filter": ["possessive", "lowercase", "english_stop", "overrides", "english"]},
            },
        },
    },
    "mappings": {
        "_meta": {"refresh": "20260101"},
        "dynamic": "false",
        "properties": {
            "title": {"type": "text", "analyzer": "ours", "fields": {"keyword": {"type": "keyword"}}},
            "source": {"type": "keyword"},
            "boost": {"type": "rank_feature"},
        },
    },
}


@pytest.fixture
def search(opensearch: str, request: pytest.FixtureRequest) -> Search:
    """A node with three documents in the index `modules`, made anew."""
    search = Search(opensearch)
    for index in ("modules", "modules-2"):
        search.status("DELETE", f"/{index}")
    search.put("/modules", INDEX)
    answer = search.bulk(
        {"index": {"_index": "modules", "_id": "1"}}, {"title": "The dog's houses", "source": "flickr", "boost": 1.5},
        {"index": {"_index": "modules", "_id": "2"}}, {"title": "Running animals", "source": "flickr", "boost": 90.0},
        {"index": {"_index": "modules", "_id": "3"}}, {"title": "A house", "source": "met", "boost": 20.0},
    )  # fmt: skip
    assert answer["errors"] is False
    return search


def ids(answer: dict) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def test_words_are_stemmed_and_stopped_as_the_filters_say(search: Search):
    answer = search.post("/modules/_analyze", {"analyzer": "ours", "text": "The dog's animals and Anime are running"})
    assert [token["token"] for token in answer["tokens"]] == ["dog", "animal", "anime", "run"]


def test_a_rank_feature_orders_what_a_query_finds(search: Search):
    query = {"simple_query_string": {"query": "house | animals", "fields": ["title"]}}
    assert set(ids(search.post("/modules/_search", {"query": query}))) == {"1", "2", "3"}
    boosted = {"bool": {"filter": [query], "should": [{"rank_feature": {"field": "boost", "boost": 10000}}]}}
    assert ids(search.post("/modules/_search", {"query": boosted})) == ["2", "3", "1"]
    phrase = {"simple_query_string": {"query": '"dog house" -animals', "fields": ["title"], "default_operator": "and"}}
    assert ids(search.post("/modules/_search", {"query": phrase})) == ["1"]


def test_documents_are_counted_as_a_whole_and_by_source(search: Search):
    assert search.get("/modules/_count")["count"] == 3
    answer = search.post("/modules/_search", {"size": 0, "aggs": {"sources": {"terms": {"field": "source"}}}})
    assert {bucket["key"]: bucket["doc_count"] for bucket in answer["aggregations"]["sources"]["buckets"]} == {"flickr": 2, "met": 1}


def test_meta_of_an_index_is_kept_and_can_be_changed(search: Search):
    assert search.get("/modules/_mapping")["modules"]["mappings"]["_meta"] == {"refresh": "20260101"}
    search.put("/modules/_mapping", {"_meta": {"refresh": "20260101", "state": "whole"}})
    assert search.get("/modules/_mapping")["modules"]["mappings"]["_meta"]["state"] == "whole"


def test_an_index_is_copied_in_part_and_an_alias_moves_in_one_call(search: Search):
    search.put("/modules-2", INDEX)
    copied = search.post(
        "/_reindex?refresh=true",
        {"source": {"index": "modules", "query": {"term": {"source": "flickr"}}}, "dest": {"index": "modules-2"}},
    )
    assert (copied["created"], copied["failures"]) == (2, [])
    search.post("/_aliases", {"actions": [{"add": {"index": "modules", "alias": "moving"}}]})
    search.post(
        "/_aliases", {"actions": [{"remove": {"index": "modules", "alias": "moving"}}, {"add": {"index": "modules-2", "alias": "moving"}}]}
    )
    assert search.get("/moving/_count")["count"] == 2


def test_documents_are_updated_and_deleted_by_query(search: Search):
    assert search.post("/modules/_update_by_query?refresh=true", {"query": {"term": {"source": "met"}}})["updated"] == 1
    assert search.post("/modules/_delete_by_query?refresh=true", {"query": {"term": {"source": "flickr"}}})["deleted"] == 2
    assert search.get("/modules/_count")["count"] == 1


def test_an_index_that_nobody_created_is_not_made_by_a_document(search: Search):
    assert search.status("PUT", "/modules-of-nobody/_doc/1", {"title": "x"}) == 404
    answer = search.bulk({"index": {"_index": "modules-of-nobody", "_id": "1"}}, {"title": "x"})
    assert answer["items"][0]["index"]["error"]["type"] == "index_not_found_exception"


def test_the_block_of_a_full_disk_refuses_documents_with_429(search: Search):
    search.put("/modules/_settings", {"index.blocks.read_only_allow_delete": True})
    assert search.status("PUT", "/modules/_doc/4", {"title": "x"}) == 429
    search.put("/modules/_settings", {"index.blocks.read_only_allow_delete": None})
    assert search.status("PUT", "/modules/_doc/4", {"title": "x"}) == 201
