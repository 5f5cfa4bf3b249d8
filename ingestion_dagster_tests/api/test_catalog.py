"""Tasks over HTTP: what is refused at once, what is kept, and how a task stands, whatever becomes of the processes."""

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydantic import SecretStr

from ingestion_dagster import runs_catalog
from ingestion_dagster.api import callbacks, catalog_desk
from ingestion_dagster.catalog import locks, refreshes, steps
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, State
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.catalog_scene import Asked, Scene, database, module_database, until

__all__ = ["database", "module_database"]

TOKEN = "a token of the test's"  # pragma: allowlist secret
PASSWORD = "zyxwquark"  # pragma: allowlist secret
SINCE = "1999-01-01"


@pytest.fixture
def scene(settings: Settings) -> Scene:
    """A fresh installation."""
    return Scene(settings)


@pytest.fixture
def asked(scene: Scene) -> Iterator[Asked]:
    """Its API."""
    with scene.served() as served:
        yield served


def test_a_fresh_installation_has_no_tasks_then_one_then_two(asked: Asked):
    assert asked.ask("GET", "/task").json == []
    for number, model in enumerate(("image", "audio"), 1):
        asked.ended(asked.post(model, "INGEST_UPSTREAM", index_suffix="init"))
        assert len(asked.ask("GET", "/task").json) == number


def test_an_accepted_task_is_told_of_as_callers_know_it(asked: Asked, scene: Scene):
    scene.launcher.holds = True
    before = datetime.now(UTC).timestamp()
    accepted = asked.post("image", "INGEST_UPSTREAM", index_suffix="init", surplus={"a": 1})
    task_id = accepted.json["task_id"]
    assert (accepted.status, accepted.headers["content-type"]) == (202, "application/json")
    assert len(bytes.fromhex(task_id)) == 16
    assert accepted.json["status_check"] == f"http://127.0.0.1:{asked.client.port}/task/{task_id}"
    waiting = asked.status(task_id)
    assert waiting["start_timestamp"] == pytest.approx(before, abs=20)
    assert waiting["start_time"] == datetime.fromtimestamp(waiting["start_timestamp"], UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    assert waiting == {
        "task_id": task_id, "active": True, "model": "image", "action": "INGEST_UPSTREAM", "progress": 0, "finish_timestamp": 0,
        "finish_time": None, "active_workers": False, "error": False, "is_bad_request": False, "error_message": None,
        "index_suffix": "init", "callback": None, "start_timestamp": waiting["start_timestamp"], "start_time": waiting["start_time"],
    }  # fmt: skip
    scene.launcher.holds = False
    scene.launcher.launch(task_id)
    done = asked.ended(accepted)
    assert (done["active"], done["error"], done["progress"]) == (False, False, 100)
    assert done["finish_timestamp"] >= done["start_timestamp"]
    assert len(done["finish_time"]) == len("2026-01-01 00:00:00.000000")
    with scene.connect() as connection:
        refresh = refreshes.get(connection, "image", "init")
    assert (refresh.asked_by, refresh.filtered, refresh.promote) == (f"task {task_id}", False, False)


def test_the_list_has_running_tasks_first_then_by_their_ends(asked: Asked, scene: Scene):
    first = asked.ended(asked.post("image", "LOAD_TEST_DATA"))["task_id"]
    second = asked.ended(asked.post("audio", "LOAD_TEST_DATA"))["task_id"]
    scene.launcher.holds = True
    third = asked.post("image", "LOAD_TEST_DATA").json["task_id"]
    assert [task["task_id"] for task in asked.ask("GET", "/task").json] == [third, first, second]


def test_without_a_suffix_the_task_gives_its_id(asked: Asked, scene: Scene):
    accepted = asked.post("audio", "INGEST_UPSTREAM")
    assert asked.ended(accepted)["index_suffix"] == accepted.json["task_id"]


BODIES: dict[str, Any] = {
    "nothing": b"", "no json": b"{", "no object": b"[]", "text": b'"image"', "deep": b"[" * 30_000, "bad utf-8": b'{"model": "\xff"}',
    "no model": {"action": "REINDEX"}, "no action": {"model": "image"}, "unknown model": {"model": "video", "action": "REINDEX"},
    "unknown action": {"model": "image", "action": "DROP"}, "small letters": {"model": "image", "action": "reindex"},
    "number": {"model": 1, "action": "REINDEX"}, "null": {"model": None, "action": "REINDEX"},
    "suffix is a number": {"model": "image", "action": "REINDEX", "index_suffix": 5},
    "force is a text": {"model": "image", "action": "DELETE_INDEX", "alias": "image", "force_delete": "yes"},
    "alias without suffix": {"model": "image", "action": "POINT_ALIAS", "alias": "image"},
    "suffix without alias": {"model": "image", "action": "POINT_ALIAS", "index_suffix": "a"},
    "promotion to nothing": {"model": "image", "action": "PROMOTE", "index_suffix": "a"},
    "update since when": {"model": "image", "action": "UPDATE_INDEX", "index_suffix": "a"},
    "deletion of nothing": {"model": "image", "action": "DELETE_INDEX"},
    "deletion of both": {"model": "image", "action": "DELETE_INDEX", "index_suffix": "a", "alias": "image"},
}  # fmt: skip


def test_a_body_that_is_none_is_a_bad_request(asked: Asked, scene: Scene):
    for name, body in BODIES.items():
        answer = asked.ask("POST", "/task", raw=body if isinstance(body, bytes) else json.dumps(body).encode())
        assert (answer.status, set(answer.json)) == (400, {"message"}), name
        assert answer.json["message"], name
    plain = asked.ask("POST", "/task", {"model": "image", "action": "REINDEX"}, Content_Type="text/plain")
    assert (plain.status, scene.launcher.launched) == (400, [])


SUFFIXES = ("", "A", "a b", "a/b", "-a", "x" * 81, "a-filtered", "a\0", "a,b", "*")
ALIASES = ("", "*", "A", "a,b", "image-a", "audio", "audio-x", "a\0")


def test_what_makes_no_sense_is_refused_before_anything_is_queued(asked: Asked, scene: Scene):
    scene.index("image-a", "image")
    senseless: tuple[dict[str, Any], ...] = (
        {"action": "INGEST_UPSTREAM", "model": "model_3d"},
        *({"action": "INGEST_UPSTREAM", "index_suffix": suffix} for suffix in SUFFIXES),
        *({"action": "POINT_ALIAS", "index_suffix": "a", "alias": alias} for alias in ALIASES),
        *({"action": "POINT_ALIAS", "index_suffix": suffix, "alias": "image"} for suffix in ("", "*", "a,b", "-filtered")),
        *(
            {"action": "UPDATE_INDEX", "index_suffix": "a", "since_date": since}
            for since in ("", "soon", "2023-02-30", "infinity", "10000-01-01", "0044-03-15 BC", "1\0", "'; DROP TABLE", "1" * 101)
        ),
        {"action": "DELETE_INDEX", "alias": "*", "force_delete": True},
        *({"action": "REINDEX", "callback_url": url} for url in ("http://example.org/", "http://169.254.169.254/", "file:///x", "", "\0")),
    )  # fmt: skip
    for fields in senseless:
        answer = asked.ask("POST", "/task", {"model": "image"} | fields)
        assert (answer.status, set(answer.json)) == (422, {"message"}), fields
    assert scene.launcher.launched == []
    assert asked.ask("GET", "/task").json == []


def test_what_is_not_there_is_not_found(asked: Asked, scene: Scene):
    for fields in (
        {"action": "POINT_ALIAS", "index_suffix": "no", "alias": "image"},
        {"action": "UPDATE_INDEX", "index_suffix": "no", "since_date": SINCE},
        {"action": "DELETE_INDEX", "index_suffix": "no"},
        {"action": "DELETE_INDEX", "alias": "no", "force_delete": True},
        {"action": "PROMOTE", "index_suffix": "no", "alias": "image"},
        {"action": "CREATE_AND_POPULATE_FILTERED_INDEX"},
        {"action": "CREATE_AND_POPULATE_FILTERED_INDEX", "origin_index_suffix": "no"},
    ):
        assert asked.ask("POST", "/task", {"model": "image"} | fields).status == 404, fields
    for task_id in (uuid.uuid4().hex, "no", "%00", "a'b"):
        assert (asked.ask("GET", f"/task/{task_id}").status, scene.launcher.launched) == (404, [])


def test_deletions_that_readers_would_notice_are_refused(asked: Asked, scene: Scene):
    scene.index("audio-a", "audio-main", "audio")
    scene.index("audio-b", "audio-alone")
    scene.index("image-a", "audio-strange")
    for fields in (
        {"alias": "audio-alone"}, {"alias": "audio-alone", "force_delete": False}, {"alias": "audio-b", "force_delete": True},
        {"index_suffix": "b"}, {"index_suffix": "b", "force_delete": True}, {"index_suffix": "alone"},
        {"alias": "audio-main", "force_delete": True}, {"alias": "audio-strange", "force_delete": True},
    ):  # fmt: skip
        assert asked.post("audio", "DELETE_INDEX", **fields).status == 400, fields
    scene.refresh("audio", "c", "live")
    assert asked.post("audio", "DELETE_INDEX", index_suffix="c").status == 400
    asked.ended(asked.post("audio", "DELETE_INDEX", alias="audio-alone", force_delete=True))
    assert scene.did[-1].request["targets"] == ["audio-b"]


def test_dates_are_whatever_postgres_reads(asked: Asked, scene: Scene):
    scene.index("image-a")
    for since, meant in (
        (SINCE, "1999-01-01 00:00:00+00"),
        ("2023-05-06T07:08:09+02:00", "2023-05-06 05:08:09+00"),
        ("Jan 8, 1999", "1999-01-08 00:00:00+00"),
        ("epoch", "1970-01-01 00:00:00+00"),
    ):  # fmt: skip
        asked.ended(asked.post("image", "UPDATE_INDEX", index_suffix="a", since_date=since))
        assert scene.did[-1].request["since_date"] == meant
        assert datetime.fromisoformat(meant).tzinfo is not None


def test_one_task_of_a_media_type_at_a_time(asked: Asked, scene: Scene):
    scene.index("image-a")
    scene.launcher.holds = True
    asked.post("image", "INGEST_UPSTREAM", index_suffix="one")
    for fields in (
        {"action": "INGEST_UPSTREAM", "index_suffix": "two"}, {"action": "INGEST_UPSTREAM", "index_suffix": "one"},
        {"action": "REINDEX"}, {"action": "CREATE_AND_POPULATE_FILTERED_INDEX", "origin_index_suffix": "a"}, {"action": "ROLLBACK"},
    ):  # fmt: skip
        refused = asked.ask("POST", "/task", {"model": "image"} | fields)
        assert (refused.status, set(refused.json)) == (409, {"message"}), fields
    assert asked.post("audio", "INGEST_UPSTREAM", index_suffix="one").status == 202
    assert asked.post("image", "LOAD_TEST_DATA").status == 202


def test_what_is_about_one_index_waits_for_nothing_that_leaves_it_alone(asked: Asked, scene: Scene):
    for name in ("image-a", "image-b", "image-c"):
        scene.index(name)
    scene.launcher.holds = True
    assert asked.post("image", "CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="a", destination_index_suffix="d").status == 202
    scene.index("image-d-filtered")
    for fields in (
        {"action": "UPDATE_INDEX", "index_suffix": "a", "since_date": SINCE}, {"action": "DELETE_INDEX", "index_suffix": "a"},
        {"action": "DELETE_INDEX", "index_suffix": "d-filtered"},
    ):  # fmt: skip
        assert asked.ask("POST", "/task", {"model": "image"} | fields).status == 409, fields
    assert asked.post("image", "POINT_ALIAS", index_suffix="b", alias="image").status == 202
    for fields in ({"index_suffix": "b", "alias": "image-main"}, {"index_suffix": "c", "alias": "image"}):
        assert asked.post("image", "POINT_ALIAS", **fields).status == 409, fields
    assert asked.post("image", "DELETE_INDEX", index_suffix="c").status == 202
    assert asked.post("image", "ROLLBACK").status == 409


def test_a_refresh_and_what_reads_rows_for_long_keep_away_from_each_other(asked: Asked, scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog_desk, "_TURN_SECONDS", 0)
    scene.index("image-a", "image")
    with scene.connect() as rebuilding, locks.model(rebuilding, "image"):
        for fields in ({"action": "INGEST_UPSTREAM", "index_suffix": "one"}, {"action": "REINDEX"}):
            assert asked.ask("POST", "/task", {"model": "image"} | fields).status == 409, fields
    scene.refresh("image", "one", "copied")
    for action in ("CREATE_AND_POPULATE_FILTERED_INDEX", "REINDEX"):
        assert asked.post("image", action).status == 409, action
    scene.execute("UPDATE ledger.loads SET status = 'errored'")
    scene.launcher.holds = True
    assert asked.post("image", "REINDEX").status == 202
    with scene.connect() as connection, pytest.raises(Busy, match="REINDEX"):
        steps.begin(cast(Places, None), connection, MEDIA_TYPES["image"], "run", asked_by="schedule")


def test_a_refresh_that_nobody_asked_for_here_is_in_the_way_as_well(asked: Asked, scene: Scene):
    scene.refresh("image", "scheduled")
    refused = asked.post("image", "INGEST_UPSTREAM", index_suffix="mine")
    assert refused.status == 409
    assert "scheduled" in refused.json["message"]
    assert asked.post("image", "INGEST_UPSTREAM", index_suffix="scheduled").status == 409
    with scene.connect() as connection, pytest.raises(Busy):
        refreshes.request(connection, "image", "other", asked_by="test")


def test_of_many_that_ask_at_once_one_is_told_yes(asked: Asked, scene: Scene):
    scene.launcher.holds = True
    found: list[int] = []
    threads = [
        threading.Thread(
            target=lambda suffix=f"s{number}": found.append(asked.post("image", "INGEST_UPSTREAM", index_suffix=suffix).status)
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [202] + [409] * 7
    assert len(asked.ask("GET", "/task").json) == 1
    assert scene.execute("SELECT count(*) FROM catalog.refreshes") == [(1,)]


def test_a_refresh_that_broke_off_is_gone_on_with_under_its_suffix(asked: Asked, scene: Scene):
    def breaks(_settings: Settings, _task: Any) -> None:
        raise Transient("upstream_lost", "upstream is away")

    scene.does = breaks
    failed = asked.ended(asked.post("image", "INGEST_UPSTREAM", index_suffix="one"))
    assert (failed["error"], failed["is_bad_request"], failed["error_message"]) == (True, False, "upstream_lost: upstream is away")
    assert failed["progress"] < 100
    assert asked.post("image", "INGEST_UPSTREAM", index_suffix="two").status == 409
    scene.does = lambda _settings, _task: None
    again = asked.post("image", "INGEST_UPSTREAM", index_suffix="one")
    assert not asked.ended(again)["error"]
    assert scene.execute("SELECT suffix, asked_by FROM catalog.refreshes") == [("one", f"task {again.json['task_id']}")]


def test_a_refresh_that_has_failed_gives_way_when_the_task_is_done(asked: Asked, scene: Scene, monkeypatch: pytest.MonkeyPatch):
    discarded: list[str] = []

    def discard(_places: Any, _engine: Any, ledger: Any, refresh: refreshes.Refresh) -> None:
        discarded.append(refresh.suffix)
        refreshes.advance(ledger, refresh, "discarded")

    from ingestion_dagster.catalog import retirement

    monkeypatch.setattr(retirement, "discard", discard)
    monkeypatch.setattr(Places, "of", classmethod(lambda _cls, _settings: scene))
    monkeypatch.setattr(Scene, "search", lambda self: self.engine, raising=False)
    monkeypatch.setattr(Scene, "ledger", postgres.locate(scene.settings), raising=False)
    failed = scene.refresh("image", "one", "copied")
    scene.execute("UPDATE ledger.loads SET status = 'errored' WHERE id = %s", [failed.load_id])
    assert asked.post("image", "INGEST_UPSTREAM", index_suffix="one").status == 409
    scene.launcher.holds = True
    accepted = asked.post("image", "INGEST_UPSTREAM", index_suffix="two")
    assert (accepted.status, discarded) == (202, [])
    begun = runs_catalog.ingested(scene.settings, scene.task(accepted.json["task_id"]))
    assert (begun.suffix, begun.asked_by, discarded) == ("two", f"task {accepted.json['task_id']}", ["one"])


@pytest.mark.parametrize(("state", "status"), [
    ("requested", 409), ("copied", 409), ("indexed", 409), ("filled", 202), ("live", 409), ("previous", 409), ("discarded", 409),
])  # fmt: skip
def test_only_a_filled_refresh_is_promoted(asked: Asked, scene: Scene, state: State, status: int):
    scene.refresh("image", "one", state)
    answer = asked.post("image", "PROMOTE", index_suffix="one", alias="image-main")
    assert answer.status == status
    if status == 202:
        asked.ended(answer)
        with scene.connect() as connection:
            refresh = refreshes.get(connection, "image", "one")
        assert (refresh.alias, refresh.promote) == ("image-main", True)


def test_a_refresh_in_the_hands_of_a_run_is_left_alone(asked: Asked, scene: Scene):
    held = scene.refresh("image", "one", "filled")
    scene.execute("UPDATE ledger.loads SET status = 'ingesting', lease_until = now() + interval '1 min' WHERE id = %s", [held.load_id])
    assert asked.post("image", "PROMOTE", index_suffix="one", alias="image").status == 409
    assert asked.post("image", "DELETE_INDEX", index_suffix="one").status == 409
    assert asked.post("image", "CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="one").status == 409


def test_while_a_promotion_is_open_nothing_moves(asked: Asked, scene: Scene):
    scene.refresh("image", "one", "promoting")
    scene.index("image-a")
    for fields in (
        {"action": "ROLLBACK"}, {"action": "POINT_ALIAS", "index_suffix": "a", "alias": "image"},
        {"action": "DELETE_INDEX", "index_suffix": "a"},
        {"action": "UPDATE_INDEX", "index_suffix": "a", "since_date": SINCE}, {"action": "CREATE_AND_POPULATE_FILTERED_INDEX"},
    ):  # fmt: skip
        assert asked.ask("POST", "/task", {"model": "image"} | fields).status == 409, fields
    assert asked.post("image", "PROMOTE", index_suffix="one", alias="image").status == 202


def test_nothing_is_led_to_an_index_that_is_not_whole(asked: Asked, scene: Scene):
    def breaks(_settings: Settings, task: Any) -> None:
        scene.index(f"image-{task.suffix}")
        raise Transient("search_unavailable", "it is away")

    scene.does = breaks
    asked.ended(asked.post("image", "REINDEX", index_suffix="half"))
    assert asked.post("image", "POINT_ALIAS", index_suffix="half", alias="image-main").status == 409
    scene.does = lambda _settings, _task: None
    asked.ended(asked.post("image", "REINDEX", index_suffix="half"))
    asked.ended(asked.post("image", "POINT_ALIAS", index_suffix="half", alias="image-main"))
    assert asked.post("image", "REINDEX", index_suffix="half").status == 409
    scene.refresh("image", "short", "indexed")
    scene.index("image-short")
    assert asked.post("image", "POINT_ALIAS", index_suffix="short", alias="image-main").status == 409


def test_a_filtered_index_is_asked_for_as_callers_do(asked: Asked, scene: Scene):
    scene.refresh("image", "new", "filled")
    asked.ended(asked.post("image", "CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="new", destination_index_suffix="new"))
    assert {name: scene.did[-1].request[name] for name in ("origin_index_suffix", "destination_index_suffix", "fills")} == {
        "origin_index_suffix": "new", "destination_index_suffix": "new", "fills": "new-filtered",
    }  # fmt: skip
    scene.index("image-new-filtered")
    assert (
        asked.post("image", "CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="new", destination_index_suffix="new").status == 409
    )
    asked.ended(asked.post("image", "POINT_ALIAS", index_suffix="new-filtered", alias="image-filtered"))
    scene.index("image-old", "image")
    accepted = asked.post("image", "CREATE_AND_POPULATE_FILTERED_INDEX")
    asked.ended(accepted)
    assert scene.did[-1].request["origin_index_suffix"] == "old"
    assert scene.did[-1].request["destination_index_suffix"] == accepted.json["task_id"]


def test_a_rollback_needs_something_that_is_live(asked: Asked, scene: Scene):
    assert asked.post("image", "ROLLBACK").status == 409
    scene.refresh("image", "one", "live")
    asked.ended(asked.post("image", "ROLLBACK"))


def test_the_same_key_is_the_same_task(asked: Asked, scene: Scene):
    first = asked.post("image", "INGEST_UPSTREAM", key="k-1", index_suffix="one")
    for fields in ({"index_suffix": "one"}, {"index_suffix": "one", "force_delete": False, "surplus": 1}):
        again = asked.post("image", "INGEST_UPSTREAM", key="k-1", **fields)
        assert (again.status, again.json["task_id"]) == (202, first.json["task_id"])
    asked.ended(first)
    assert asked.post("image", "INGEST_UPSTREAM", key="k-1", index_suffix="one").json["message"] == "the task was done"
    for other in (asked.post("image", "INGEST_UPSTREAM", key="k-1", index_suffix="two"), asked.post("audio", "REINDEX", key="k-1")):
        assert other.status == 422
    for bad in ("", "x" * 256, "a b", "caf\xe9"):
        assert asked.post("image", "REINDEX", key=bad).status == 400
    assert len(scene.did) == 1


def test_the_same_key_at_once_is_one_task(asked: Asked, scene: Scene):
    scene.launcher.holds = True
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(asked.post("image", "REINDEX", key="k").json.get("task_id"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_what_a_task_fails_for_is_told_without_values(asked: Asked, scene: Scene):
    for raised, told, is_bad in (
        (Refused(Problem("too_few", "image", "look upstream")), "too_few: image: look upstream", True),
        (Busy("image", "refresh x"), "image is being worked on: refresh x", True),
        (ConfigurationError("set this"), "set this", False),
        (ValueError(PASSWORD), "ValueError at test_catalog.py:", False),
    ):

        def raises(_settings: Settings, _task: Any, raised: Exception = raised) -> None:
            raise raised

        scene.does = raises
        found = asked.ended(asked.post("image", "REINDEX"))
        assert (found["error"], found["is_bad_request"], found["error_message"][: len(told)]) == (True, is_bad, told)
        assert PASSWORD not in str(found)


def test_stat_tells_of_indexes_and_aliases(asked: Asked, scene: Scene):
    scene.index("audio-integration", "audio-main")
    scene.index("audio-other")
    scene.engine.aliases["audio-both"] = {"audio-integration", "audio-other"}
    nothing: dict[str, Any] = {"exists": False, "is_alias": None, "alt_names": None, "indexes": []}
    for name, told in {
        "audio-integration": {
            "exists": True, "is_alias": False, "alt_names": ["audio-both", "audio-main"], "indexes": ["audio-integration"],
        },
        "audio-main": {"exists": True, "is_alias": True, "alt_names": "audio-integration", "indexes": ["audio-integration"]},
        "audio-both": {"exists": True, "is_alias": True, "alt_names": "audio-integration", "indexes": ["audio-integration", "audio-other"]},
        "audio": nothing, "audio-*": nothing, "_all": nothing, "*": nothing, "audio-integration,audio-other": nothing, "%00": nothing,
    }.items():  # fmt: skip
        answer = asked.ask("GET", f"/stat/{name}")
        assert (answer.status, answer.json) == (200, told), name


def test_health_looks_at_what_is_behind_only_if_asked(
    asked: Asked, scene: Scene, server: EmbeddedServer, database: Database, monkeypatch: pytest.MonkeyPatch
):
    scene.engine.trouble = ("the cluster is yellow",)
    assert asked.ask("GET", "/").json == {"status": "200 OK"}
    assert asked.ask("GET", "/?check_deps=false").status == 200
    assert asked.ask("GET", "/?check_deps=perhaps").status == 400
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_URL", database.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", f"postgresql://deploy:{PASSWORD}@127.0.0.1:1/openledger")
    with Scene(current(), scene.engine).served() as other:
        ill = other.ask("GET", "/?check_deps=true")
        assert (ill.status, set(ill.json)) == (503, {"status", "dependencies"})
        assert ill.json["dependencies"] == {"es": ["the cluster is yellow"], "db": ["the api database does not accept a connection"]}
        assert PASSWORD not in str(ill)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", database.sqlalchemy_url)
    scene.engine.trouble = ()
    with Scene(current(), scene.engine).served() as other:
        assert other.ask("GET", "/?check_deps=true").json == {"status": "200 OK"}


def test_a_search_engine_that_is_away_is_told_as_such_and_nothing_is_queued(asked: Asked, scene: Scene):
    def away(_point: str, _arguments: Any) -> None:
        raise Transient("search_unavailable", PASSWORD)

    scene.engine.fault = away
    for answer in (asked.ask("GET", "/stat/image"), asked.post("image", "POINT_ALIAS", index_suffix="a", alias="image")):
        assert (answer.status, set(answer.json), answer.headers["retry-after"]) == (503, {"message"}, "5")
        assert PASSWORD not in str(answer)
    assert asked.ask("GET", "/task").json == []


def test_workers_are_told_that_nobody_listens(asked: Asked):
    answer = asked.ask("POST", "/worker_finished", {"error": False})
    assert (answer.status, set(answer.json)) == (410, {"message"})


def test_forgetting_the_state_keeps_the_tasks(asked: Asked):
    asked.ended(asked.post("image", "REINDEX"))
    assert (asked.ask("DELETE", "/state").status, len(asked.ask("GET", "/task").json)) == (200, 1)


def test_refusals_of_these_routes_are_messages(asked: Asked):
    for method, path, status in (("PUT", "/task", 405), ("GET", "/state", 405), ("POST", "/stat/x", 405), ("GET", "/task/a/b", 404)):
        answer = asked.ask(method, path)
        assert (answer.status, set(answer.json)) == (status, {"message"}), path
    assert asked.ask("PUT", "/task").headers["allow"] == "GET, POST"
    assert asked.ask("POST", "/task", raw=b"x" * 70_000).status == 413


def test_the_door_is_the_same_for_all(scene: Scene):
    guarded = Scene(scene.settings.model_copy(update={"api_token": SecretStr(TOKEN)}), scene.engine)
    with guarded.served() as asked:
        for method, path in (("GET", "/task"), ("POST", "/task"), ("GET", "/"), ("GET", "/openapi.json"), ("DELETE", "/state")):
            answer = asked.ask(method, path)
            assert answer.status == 401, path
        assert set(asked.ask("GET", "/task").json) == {"message"}
    with scene.served() as asked:
        assert asked.ask("GET", "/task", Host="evil.example").status == 421


def test_every_request_for_a_task_is_logged_with_who_and_what(
    asked: Asked, scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(callbacks, "ATTEMPTS", 1)
    caplog.set_level(logging.INFO, "ingestion_dagster.audit")
    accepted = asked.post("image", "REINDEX", callback_url=f"http://localhost:1/{PASSWORD}")
    asked.post("image", "POINT_ALIAS", index_suffix="no", alias="image")
    asked.ask("POST", "/task", {"model": PASSWORD})
    told = [record.getMessage() for record in caplog.records if record.name == "ingestion_dagster.audit.catalog"]
    assert told[0].startswith(f"127.0.0.1 asked for REINDEX of image: 202, task {accepted.json['task_id']}")
    assert told[1].startswith("127.0.0.1 asked for POINT_ALIAS of image: 40")
    assert told[2].startswith("127.0.0.1 asked for what is no task: 400")
    assert PASSWORD not in str(told)
    assert scene.task(accepted.json["task_id"]).asked_by == "127.0.0.1"


def test_a_task_that_no_process_could_be_started_for_is_started_later(
    asked: Asked, scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    scene.launcher.fails = True
    accepted = asked.post("image", "REINDEX")
    assert accepted.status == 202
    assert asked.status(accepted.json["task_id"])["active"]
    scene.launcher.fails = False
    monkeypatch.setattr(catalog_desk, "LOOK_SECONDS", 0.01)
    asked.ask("DELETE", "/state")
    with scene.served() as restarted:
        assert not restarted.ended(accepted)["error"]


def test_tasks_of_before_are_known_after_a_restart_and_done_once(scene: Scene):
    scene.launcher.holds = True
    with scene.served() as asked:
        waiting = asked.post("image", "REINDEX")
        task_id = waiting.json["task_id"]
    scene.launcher.holds = False
    scene.launcher.launched.clear()
    with scene.served() as one, scene.served() as other:
        assert not one.ended(waiting)["error"]
        assert other.status(task_id) == one.status(task_id)
    assert [task.id for task in scene.did] == [task_id]


def test_a_callback_that_was_left_undone_is_done_after_a_restart(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    with scene.served() as asked:
        done = asked.ended(asked.post("image", "REINDEX"))["task_id"]
    scene.execute("""UPDATE catalog.tasks SET request = request || '{"callback_url": "http://localhost:0/"}'""")
    with scene.served():
        until(lambda: scene.task(done).callback_outcome, "it is called back")
    assert scene.task(done).callback_outcome == "failed (it is no http or https address)"
