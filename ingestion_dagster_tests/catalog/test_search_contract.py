"""What every search engine does alike: the embedded one and a real OpenSearch."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.embedded_search import EmbeddedSearch
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.search import AliasMove, IndexDefinition, Query, SearchEngine
from ingestion_dagster.engine.errors import Refused


@pytest.fixture(params=["embedded", "opensearch"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SearchEngine]:
    """An engine of the kind asked for."""
    made: SearchEngine
    if request.param == "embedded":
        made = EmbeddedSearch.at((tmp_path / "search").as_uri())
    else:
        made = OpenSearch.at(request.getfixturevalue("opensearch"), bulk_documents=500, patience_seconds=20)
    yield made
    made.close()


@pytest.fixture
def name() -> str:
    """The name of an index that nobody else has."""
    return f"contract-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def index(engine: SearchEngine, name: str) -> str:
    """An empty index of audio."""
    engine.create(name, mapping.AUDIO.definition({"refresh": "one"}))
    return name


def put(engine: SearchEngine, index: str, *documents: dict[str, Any]) -> None:
    """Put documents, numbered from 1."""
    result = engine.bulk(index, [(number, orjson.dumps({"id": number, **content})) for number, content in enumerate(documents, 1)])
    assert (result.accepted, result.rejected) == (len(documents), ())
    engine.refresh(index)


def found(engine: SearchEngine, index: str, text: str | None = None, **query: Any) -> list[int]:
    """The ids of what is found, in order of ids."""
    answer = engine.search(index, Query(text, **query))
    assert answer.total == len(answer.hits) or answer.total > query.get("limit", 20)
    return sorted(hit.id for hit in answer.hits)


def code(call: Callable[[], object]) -> str:
    """The code that a call is refused with."""
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.problems[0].code


def test_an_index_is_there_once_made_and_only_once(engine: SearchEngine, name: str) -> None:
    definition = mapping.AUDIO.definition({"refresh": "one", "run": "r-1"})
    assert not engine.exists(name)
    engine.create(name, definition)
    assert engine.exists(name)
    assert engine.label(name) == {"refresh": "one", "run": "r-1", "mapping": mapping.AUDIO.version}
    assert engine.indexes(name) == (name,)
    assert code(lambda: engine.create(name, definition)) == "index_exists"
    assert engine.delete_index(name)
    assert not engine.delete_index(name)
    assert engine.indexes(name) == ()


@pytest.mark.parametrize(
    "name", ["", "Image", "_image", "-image", "+image", "im age", "im/age", "im*", "im,age", "im#age", "..", "a:b", "x" * 256]
)
def test_a_name_that_no_index_can_have_is_refused(engine: SearchEngine, name: str) -> None:
    assert code(lambda: engine.create(name, mapping.AUDIO.definition({}))) == "bad_index_name"
    assert code(lambda: engine.count(name)) == "bad_index_name"
    assert (engine.exists(name), engine.behind(name), engine.aliases_of(name)) == (False, (), ())
    assert not engine.delete_index(name)


def test_a_mapping_that_the_engine_does_not_know_is_refused(engine: SearchEngine, name: str) -> None:
    assert code(lambda: engine.create(name, IndexDefinition({}, {"properties": {"a": {"type": "no_such_type"}}}))) == "mapping_refused"
    assert not engine.exists(name)


def test_what_is_not_there_is_refused_everywhere(engine: SearchEngine, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: engine.bulk(name, [(1, b"{}")]),
        lambda: engine.delete_documents(name, [1]),
        lambda: engine.update_documents(name, [1], {"mature": True}),
        lambda: engine.finish(name),
        lambda: engine.refresh(name),
        lambda: engine.count(name),
        lambda: engine.get(name, [1]),
        lambda: engine.search(name, Query()),
        lambda: engine.label(name),
        lambda: engine.switch([AliasMove(name, f"{name}-other")]),
    ]
    assert [code(call) for call in calls] == ["no_such_index"] * len(calls)
    assert not engine.wait_ready(name, 1)
    assert not engine.exists(name), "one of the calls has made the index"


def test_documents_come_back_as_they_were_put_and_are_replaced(engine: SearchEngine, index: str) -> None:
    source = {
        "id": 7,
        "title": "Zwölf “Boxkämpfer” 🐦",
        "url": "https://x.example/a?b=c",
        "tags": [{"name": "a"}],
        "n": 1.5,
        "deep": {"a": [1, None]},
    }
    assert engine.bulk(index, [(7, orjson.dumps(source)), (8, b'{"title":\n "spread over\\n lines"}')]).accepted == 2
    assert engine.get(index, [7, 8, 9]) == {7: source, 8: {"title": "spread over\n lines"}}
    assert engine.bulk(index, [(7, b'{"title":"a"}'), (7, b'{"title":"b"}')]).accepted == 2
    engine.refresh(index)
    assert engine.count(index) == 2
    assert engine.get(index, [7]) == {7: {"title": "b"}}
    assert found(engine, index, "Boxkämpfer") == []


POISON: dict[str, dict[str, Any]] = {
    "negative feature": {"standardized_popularity": -5},
    "feature of zero": {"max_boost": 0},
    "two features": {"min_boost": [1, 2]},
    "date that is none": {"created_on": "yesterday-secret"},
    "date of February 30": {"created_on": "2024-02-30"},
    "boolean that is none": {"mature": "maybe"},
    "boolean as number": {"mature": 1},
    "object for text": {"title": {"secret": 1}},
    "text for object": {"tags": "secret"},
    "number that is none": {"id": "secret"},
    "number too large": {"id": 2**63},
    "immense keyword": {"license": "x" * 40_000},
}


def test_a_poison_document_costs_only_itself(engine: SearchEngine, index: str) -> None:
    contents = [content for kind in POISON for content in (POISON[kind], {"source": "good"})]
    result = engine.bulk(index, [(number, orjson.dumps({"id": number} | content)) for number, content in enumerate(contents)])
    engine.refresh(index)
    assert (result.accepted, result.retries, engine.count(index)) == (len(POISON), 0, len(POISON))
    assert [(rejected.id, rejected.code) for rejected in result.rejected] == [(2 * at, "document_refused") for at in range(len(POISON))]
    fields = [next(iter(content)) for content in POISON.values()]
    assert [rejected.reason.rpartition(" ")[2] for rejected in result.rejected] == fields
    assert "secret" not in repr(result)


def test_what_is_no_json_object_costs_only_itself(engine: SearchEngine, index: str) -> None:
    sources = [b"", b" ", b"{", b"[1]", b"3", b"null", b'{"a":1}}', b"\xff"]
    documents = [(number, source) for number, source in enumerate(part for bad in sources for part in (bad, b"{}"))]
    result = engine.bulk(index, documents)
    assert sorted(rejected.id for rejected in result.rejected) == list(range(0, 2 * len(sources), 2))
    assert sorted(engine.get(index, range(2 * len(sources)))) == list(range(1, 2 * len(sources), 2))


def test_values_that_can_be_read_are_taken(engine: SearchEngine, index: str) -> None:
    taken = [
        {"mature": ""},
        {"id": 1.5},
        {"standardized_popularity": "3"},
        {"created_on": "2020"},
        {"created_on": 1577836800000},
        {"created_on": "2020-01-01T00:00:00.123456+00"},
        {"license": ["a", "b"]},
        {"tags": [None]},
        {"tags": {"name": ["a", "b"]}},
        {"title": None},
        {"title": 7},
    ]
    result = engine.bulk(index, [(number, orjson.dumps(content)) for number, content in enumerate(taken)])
    assert (result.accepted, result.rejected) == (len(taken), ())


def test_documents_are_changed_and_deleted_by_id_through_the_alias(engine: SearchEngine, index: str) -> None:
    put(engine, index, *({"title": f"bird {number}", "mature": False, "deep": {"a": 1}} for number in range(1, 6)))
    alias = f"{index}-alias"
    engine.switch([AliasMove(alias, index)])
    assert engine.update_documents(alias, [1, 2, 99], {"mature": True, "deep": {"b": 2}}) == 2
    assert engine.update_documents(alias, [1], {"mature": True}) == 1
    assert engine.delete_documents(alias, [4, 5, 5, 98]) == 2
    assert engine.delete_documents(alias, [4]) == 0
    engine.refresh(index)
    assert engine.get(index, [1, 4]) == {1: {"id": 1, "title": "bird 1", "mature": True, "deep": {"a": 1, "b": 2}}}
    assert (found(engine, alias, "bird"), found(engine, alias, "bird", mature=True)) == ([3], [1, 2, 3])
    assert code(lambda: engine.update_documents(index, [3], {"created_on": "never"})) == "document_refused"
    assert engine.delete_documents(index, []) == 0


def test_finish_can_be_repeated_and_all_is_seen(engine: SearchEngine, index: str) -> None:
    engine.bulk(index, [(number, b"{}") for number in range(1200)])
    engine.finish(index, replicas=1)
    engine.finish(index, replicas=1)
    assert engine.count(index) == 1200
    assert engine.wait_ready(index, 20)


BIRDS: list[dict[str, Any]] = [
    {"title": "Animals of the Universe", "description": "Robins sing", "tags": [{"name": "bird"}, {"name": "red breast"}]},
    {"title": "animated film", "description": "An anime about the universe's end", "creator": "Ann O'Hara"},
    {"title": "To be, or not to be", "description": "the singing bird", "tags": [{"name": "stage play"}]},
    {"title": "Bird's nest", "mature": True, "license": "by", "source": "flickr"},
    {"title": "technology of flight", "license": "by-sa", "source": "flickr", "creator": "Bo"},
    {"title": "Flying machines", "license": "by", "source": "met", "description": "e-mail, A.B.C and 3.14"},
    {"title": "Straße nach Köln", "description": "ΟΔΟΣ ΣΙΓΜΑ", "tags": [{"name": "日本語"}]},
]

TEXTS: dict[str, list[int]] = {
    "animal": [1],
    "Animals": [1],
    "ANIMATE": [2],
    "animated": [2],
    "anime": [2],
    "universe": [1, 2],
    "Universe's": [1, 2],
    "univers": [],
    "bird": [1, 3],
    "birds sing": [1, 3],
    "the bird": [1, 3],
    "bird -singing": [],
    "bird -robin": [3],
    "-bird": [2, 5, 6, 7],
    "--bird": [1, 3],
    '"red breast"': [1],
    '"breast red"': [],
    '"bird red"': [],
    '"animals of the universe"': [1],
    '"animals universe"': [],
    '-"red breast" bird': [3],
    "techno*": [5],
    "Tech*": [5],
    "technologies": [5],
    "fly": [6],
    "e-mail": [6],
    "3.14": [6],
    "a.b.c": [6],
    "straße": [7],
    "köln nach": [7],
    "οδοσ": [7],
    "日本": [7],
    'bird"red breast"': [1],
    '"unclosed bird': [],
    "bird (": [1, 3],
    "(bird | film)": [],
    "bird+sing": [3],
    "nest": [],
    "the": [],
    "*": [1, 2, 3, 5, 6, 7],
    "bird - robin": [1],
    "bird *": [1, 3],
    'sing " ': [1, 3],
}


@pytest.fixture
def birds(engine: SearchEngine, index: str) -> str:
    """An index of a few documents."""
    put(engine, index, *BIRDS)
    return index


def test_words_are_found_as_readers_expect(engine: SearchEngine, birds: str) -> None:
    assert {text: found(engine, birds, text) for text in TEXTS} == TEXTS


def test_single_fields_and_filters_are_looked_in_alone(engine: SearchEngine, birds: str) -> None:
    assert found(engine, birds, title="bird") == []
    assert found(engine, birds, title="bird", mature=True) == [4]
    assert found(engine, birds, tags="bird") == [1]
    assert found(engine, birds, creator="o'hara ann") == [2]
    assert found(engine, birds, filters={"license": ["by"]}) == [6]
    assert found(engine, birds, filters={"license": ["by", "by-sa"], "source": ["flickr"]}, mature=True) == [4, 5]
    assert found(engine, birds, filters={"license": []}) == []
    assert found(engine, birds, filters={"nowhere": ["by"]}) == []
    assert found(engine, birds, "", filters={"license": ["by-sa"]}) == [5]
    assert found(engine, birds) == [1, 2, 3, 5, 6, 7]
    assert engine.search(birds, Query(limit=0)).total == 6
    assert engine.search(birds, Query(limit=2)).total == 6
    assert code(lambda: engine.search(birds, Query(limit=10_001))) == "limit_too_large"


def test_titles_come_first_then_what_is_popular(engine: SearchEngine, index: str) -> None:
    put(
        engine,
        index,
        {"description": "bird", "standardized_popularity": 99.0},
        {"title": "bird", "standardized_popularity": 0.25},
        {"title": "bird", "standardized_popularity": 0.5},
        {"description": "bird"},
        {"tags": [{"name": "bird"}], "standardized_popularity": 40.0},
        {"description": "bird", "standardized_popularity": 99.5},
    )
    hits = engine.search(index, Query("bird")).hits
    assert [hit.id for hit in hits] == [3, 2, 6, 1, 5, 4]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].source == {"id": 3, "title": "bird", "standardized_popularity": 0.5}
    assert [hit.id for hit in engine.search(index, Query(limit=2)).hits] == [6, 1]


def test_the_newest_come_first_if_asked_for(engine: SearchEngine, index: str) -> None:
    put(
        engine,
        index,
        {"created_on": "2024-01-01T00:00:00+00:00", "standardized_popularity": 90.0},
        {"created_on": "2024-03-01T00:00:00.5+00:00"},
        {},
        {"created_on": "2024-03-01T01:00:00+02:00"},
        {"created_on": "1969-03-01T00:00:00+00:00"},
    )
    assert [hit.id for hit in engine.search(index, Query(newest_first=True)).hits] == [2, 4, 1, 5, 3]


def test_aliases_move_together_or_not_at_all(engine: SearchEngine, name: str) -> None:
    first, second = f"{name}-1", f"{name}-2"
    main, filtered = f"{name}-main", f"{name}-main-filtered"
    for index in (first, second):
        engine.create(index, mapping.AUDIO.definition({}))
    engine.switch([AliasMove(main, first), AliasMove(filtered, first)])
    assert (engine.behind(main), engine.aliases_of(first)) == ((first,), (main, filtered))
    assert code(lambda: engine.switch([AliasMove(main, second), AliasMove(filtered, f"{name}-3")])) == "no_such_index"
    assert code(lambda: engine.switch([AliasMove(main, second), AliasMove(second, first)])) == "alias_is_index"
    assert code(lambda: engine.switch([AliasMove(main, second), AliasMove("A b", first)])) == "bad_index_name"
    assert code(lambda: engine.switch([AliasMove(f"{name}-other", main)])) == "no_such_index"
    assert (engine.behind(main), engine.behind(filtered)) == ((first,), (first,))
    engine.switch([AliasMove(main, second), AliasMove(filtered, None)])
    engine.switch([AliasMove(main, second), AliasMove(filtered, None)])
    assert (engine.behind(main), engine.behind(filtered), engine.aliases_of(first)) == ((second,), (), ())
    assert (engine.behind(second), engine.aliases_of(main)) == ((), ())
    assert code(lambda: engine.create(main, mapping.AUDIO.definition({}))) == "index_exists"


def test_an_index_that_an_alias_leads_to_is_never_deleted(engine: SearchEngine, index: str) -> None:
    alias = f"{index}-alias"
    engine.switch([AliasMove(alias, index)])
    assert code(lambda: engine.delete_index(index)) == "index_has_aliases"
    assert not engine.delete_index(alias)
    assert engine.exists(index)
    assert engine.bulk(index, [(1, b"{}")]).accepted == 1, "the refusal has left a block"
    engine.switch([AliasMove(alias, None)])
    assert engine.delete_index(index)


def test_readers_see_one_of_two_indexes_at_any_time(engine: SearchEngine, name: str) -> None:
    alias, indexes = f"{name}-live", (f"{name}-1", f"{name}-2")
    for index, documents in zip(indexes, (3, 5), strict=True):
        engine.create(index, mapping.AUDIO.definition({}))
        put(engine, index, *({} for _ in range(documents)))
    engine.switch([AliasMove(alias, indexes[0])])
    seen: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(engine.count(alias))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(1, 11):
        engine.switch([AliasMove(alias, indexes[turn % 2])])
    over.set()
    reader.join()
    assert set(seen) <= {3, 5}
    assert seen


def test_an_engine_that_is_well_has_no_problems_but_a_missing_replica(engine: SearchEngine) -> None:
    assert engine.problems() in ((), ("the search cluster is yellow",))


def test_several_threads_fill_one_index(engine: SearchEngine, index: str) -> None:
    def fill(first: int) -> None:
        for start in range(first, first + 300, 100):
            engine.bulk(index, [(number, b'{"source":"a"}') for number in range(start, start + 100)])

    threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 300, 600)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.finish(index)
    assert engine.count(index) == 900
