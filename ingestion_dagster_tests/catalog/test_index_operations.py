"""What tasks do to indexes: nothing aliased goes by accident, nobody is led to what is not there, and all can be repeated."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ingestion_dagster.catalog import fill, index_operations, ranking_samples, refreshes, tasks
from ingestion_dagster.catalog.fill import Target
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, State
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.search import AliasMove, Query
from ingestion_dagster.catalog.tasks import NewTask
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.fake_search import FakeSearch


def noting(asked: list[Target]) -> Any:
    """A fill that notes what is to be filled, and does nothing."""

    def filled(_places: Any, _media: Any, target: Target, *_rest: Any) -> Any:
        asked.append(target)
        return AliasMove("nothing", None)

    return filled


class Shop:
    """Does tasks with a search engine in memory."""

    def __init__(self, places: Places, ledger: Connection) -> None:
        self.places = places
        self.ledger = ledger
        self.engine = FakeSearch()

    def index(self, name: str, *aliases: str) -> None:
        self.engine.put(name, {1: {"id": 1}})
        self.engine.switch([AliasMove(alias, name) for alias in aliases])

    def refresh(self, suffix: str, *states: State) -> None:
        made = refreshes.request(self.ledger, "image", suffix, asked_by="test", promote=False)
        for state in states:
            made = refreshes.advance(self.ledger, made, state)

    def do(self, action: str, **request: Any) -> Any:
        task_id = uuid.uuid4().hex
        tasks.enter(self.ledger, NewTask(task_id, "image", action, request, "test"))
        with tasks.begun(self.ledger, task_id) as task:
            assert task is not None
            done = index_operations.execute(self.places, self.engine, self.ledger, task, "run-1", Limits())
        assert tasks.get(self.ledger, task_id).run_id == "run-1"
        return done


@pytest.fixture
def shop(places: Places) -> Iterator[Shop]:
    with places.ledger.connect() as ledger:
        yield Shop(places, ledger)


def test_an_alias_is_made_then_moved_in_one_step_and_left_where_it_is(shop: Shop):
    shop.index("image-a")
    shop.index("image-b")
    for suffix, before in (("a", []), ("b", ["image-a"]), ("b", ["image-b"])):
        done = shop.do("POINT_ALIAS", index_suffix=suffix, alias="image-main")
        assert done == {"alias": "image-main", "index": f"image-{suffix}", "before": before}
        assert shop.engine.behind("image-main") == (f"image-{suffix}",)
    assert shop.engine.seen()["switch"] == 4  # two of the scene's own


def test_an_alias_waits_for_its_index_and_does_not_move_to_one_that_does_not_come(shop: Shop):
    shop.places = Places(
        shop.places.settings.model_copy(update={"environment": "staging"}), shop.places.ledger, shop.places.upstream, shop.places.api
    )
    shop.index("image-a", "image")
    shop.index("image-b")
    shop.engine.ready = False
    with pytest.raises(Refused, match="index_not_ready"):
        shop.do("POINT_ALIAS", index_suffix="b", alias="image")
    assert shop.engine.behind("image") == ("image-a",)


def test_an_index_that_an_alias_leads_to_by_now_is_not_deleted(shop: Shop):
    shop.index("image-a", "image")
    with pytest.raises(Refused, match="index_has_aliases"):
        shop.do("DELETE_INDEX", index_suffix="a", targets=["image-a"])
    assert shop.engine.exists("image-a")


def test_readers_are_led_away_before_the_index_behind_an_alias_goes(shop: Shop):
    shop.index("image-a", "image-main")
    request = {"alias": "image-main", "force_delete": True, "targets": ["image-a"]}
    assert shop.do("DELETE_INDEX", **request)["deleted"] == ["image-a"]
    assert not shop.engine.exists("image-main")
    assert [name for name, _ in shop.engine.calls if name in ("switch", "delete_index")][-2:] == ["switch", "delete_index"]
    assert shop.do("DELETE_INDEX", **request)["deleted"] == []


def test_a_deletion_that_broke_off_between_its_steps_is_ended_by_the_next(shop: Shop):
    shop.index("image-a")  # the alias was taken away, then the process died
    assert shop.do("DELETE_INDEX", alias="image-main", force_delete=True, targets=["image-a"])["deleted"] == ["image-a"]


def test_an_alias_that_has_moved_since_it_was_asked_for_deletes_nothing(shop: Shop):
    shop.index("image-a")
    shop.index("image-b", "image-main")
    with pytest.raises(Refused, match="alias_moved"):
        shop.do("DELETE_INDEX", alias="image-main", force_delete=True, targets=["image-a"])
    assert shop.engine.exists("image-a")
    assert shop.engine.behind("image-main") == ("image-b",)


def test_an_index_behind_another_alias_too_is_not_deleted(shop: Shop):
    shop.index("image-a", "image-main", "image")
    with pytest.raises(Refused, match="index_has_aliases"):
        shop.do("DELETE_INDEX", alias="image-main", force_delete=True, targets=["image-a"])
    assert shop.engine.aliases_of("image-a") == ("image", "image-main")


def test_an_alias_that_comes_up_meanwhile_saves_the_index(shop: Shop):
    shop.index("image-a", "image-main")

    def meanwhile(point: str, _arguments: tuple[Any, ...]) -> None:
        if point == "delete_index.before":
            shop.engine.aliases["image"] = {"image-a"}

    shop.engine.fault = meanwhile
    with pytest.raises(Refused, match="index_has_aliases"):
        shop.do("DELETE_INDEX", alias="image-main", force_delete=True, targets=["image-a"])
    assert shop.engine.exists("image-a")


def test_the_index_of_what_is_live_is_not_deleted_by_its_suffix(shop: Shop):
    shop.refresh("a", "filled", "live")
    shop.index("image-a")
    with pytest.raises(Refused, match="index_is_live"):
        shop.do("DELETE_INDEX", index_suffix="a", targets=["image-a"])
    assert shop.engine.exists("image-a")


def test_what_has_lost_its_index_is_nothing_to_roll_back_to(shop: Shop):
    shop.refresh("a", "filled", "live", "previous")
    shop.index("image-a")
    shop.index("image-a-filtered", "image-filtered")
    shop.do("DELETE_INDEX", index_suffix="a", targets=["image-a"])
    assert refreshes.previous(shop.ledger, "image") is None
    assert shop.engine.behind("image-filtered") == ("image-a-filtered",)


def test_deletion_and_alias_keep_away_from_a_promotion(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    from ingestion_dagster.catalog import locks

    monkeypatch.setattr(index_operations, "TURN_SECONDS", 0)
    shop.index("image-a")
    with shop.places.ledger.connect() as promotion, locks.model(promotion, "image"):
        with pytest.raises(Busy):
            shop.do("POINT_ALIAS", index_suffix="a", alias="image-main")
        with pytest.raises(Busy):
            shop.do("DELETE_INDEX", index_suffix="a", targets=["image-a"])
    assert (shop.engine.exists("image-a"), shop.engine.behind("image-main")) == (True, ())


@pytest.mark.parametrize(("states", "schema"), [
    (("filled",), "catalog_next"), (("filled", "live"), "public"), (("filled", "live", "previous"), "catalog_previous"), (None, "public"),
])  # fmt: skip
def test_a_filtered_index_is_made_of_its_origins_rows(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, states: tuple[State, ...] | None, schema: str
):
    asked: list[Target] = []
    monkeypatch.setattr(fill, "fill", noting(asked))
    if states is not None:
        shop.refresh("a", *states)
    shop.do("CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="a", destination_index_suffix="b", fills="b-filtered")
    assert asked == [Target("image", "b-filtered", (schema, "image"), None, "image-b-filtered", (), origin="a")]


def test_rows_that_are_gone_make_no_filtered_index(shop: Shop):
    shop.refresh("a", "discarded")
    with pytest.raises(Refused, match="rows_gone"):
        shop.do("CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="a", destination_index_suffix="b", fills="b-filtered")


def test_an_index_is_made_anew_from_the_live_table(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    asked: list[Target] = []
    monkeypatch.setattr(fill, "fill", noting(asked))
    shop.do("REINDEX", index_suffix="b", fills="b")
    assert asked == [Target("image", "b", ("public", "image"), "image-b", None, ())]


@pytest.mark.parametrize(("model", "text"), [("image", "my home office"), ("audio", "symphony no 5 in c minor")])
def test_the_samples_for_ranking_are_ranked_as_they_say(places: Places, model: str, text: str):
    with places.ledger.connect() as ledger, closing(places.search()) as engine:
        for _ in range(2):
            task_id = uuid.uuid4().hex
            tasks.enter(ledger, NewTask(task_id, model, "LOAD_TEST_DATA", {}, "test"))
            with tasks.begun(ledger, task_id) as task:
                assert task is not None
                done = index_operations.execute(places, engine, ledger, task, "run-1", Limits())
            assert done == {"index": f"search-qa-{model}", "documents": 4}
        assert engine.count(f"search-qa-{model}") == 4
        found = engine.search(f"search-qa-{model}", Query(text=text))
        assert found.hits[0].source["identifier"] == "1"
        assert "3" not in {hit.source["identifier"] for hit in found.hits}


def test_the_samples_are_of_every_media_type_and_class():
    for model in MEDIA_TYPES:
        assert sorted(each["identifier"] for each in ranking_samples.documents(model)) == ["1", "2", "2", "3"]
