"""The life of both media types' indexes as callers drive it, with 5,000 rows of each and every task done for real."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.api.app import create_app
from ingestion_dagster.api.catalog_desk import CatalogDesk
from ingestion_dagster.api.task_process import run_task
from ingestion_dagster.catalog import samples
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.asking import Answer, Client, answering
from ingestion_dagster_tests.api.catalog_scene import InThreads
from ingestion_dagster_tests.api.test_callbacks import Listener, listening

ROWS = 5000
PATIENCE = 120.0
TERMS = ("zeppelin", "running water", "Crème brûlée", "rock & roll", "3.5")
ADD = """
INSERT INTO {model} (identifier, created_on, updated_on, provider, source, foreign_identifier, url, license, removed_from_source, title,
                     meta_data, tags)
SELECT gen_random_uuid(), '2024-01-01', '2024-01-02', 'somebody', 'somebody', n::text, 'https://a.example/{model}/' || n, 'by', false,
       CASE n %% 50 WHEN 0 THEN 'A ' || %(term)s::text || ', seen' ELSE 'Lanterns ' || n END,
       CASE n %% 50 WHEN 1 THEN jsonb_build_object('description', 'of ' || upper(%(term)s::text)) ELSE '{{}}' END,
       CASE n %% 50 WHEN 2 THEN jsonb_build_array(jsonb_build_object('name', lower(%(term)s::text)))
                    ELSE '[{{"name": "water running"}}, {{"name": "zeppelins"}}]' END
FROM generate_series(%(first)s::int, %(last)s::int) AS n
"""


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@dataclass
class Caller:
    """Asks for tasks, and waits until each has ended and its callback has come."""

    client: Client
    listener: Listener

    def post(self, model: str, action: str, **fields: Any) -> Answer:
        return self.client.ask("POST", "/task", {"model": model, "action": action} | fields)

    def does(self, model: str, action: str, **fields: Any) -> None:
        accepted = self.post(model, action, callback_url=self.listener.url, **fields)
        assert accepted.status == 202, accepted
        task_id = accepted.json["task_id"]
        done = until(lambda: (found := self.client.ask("GET", f"/task/{task_id}").json) and not found["active"] and found)
        assert (done["error"], done["progress"]) == (False, 100), done
        heard = until(lambda: [body for _, _, body in self.listener.got if task_id.encode() in body])
        assert [json.loads(body)["status"] for body in heard] == ["succeeded"]

    def stat(self, name: str) -> Any:
        return self.client.ask("GET", f"/stat/{name}").json

    def tasks(self) -> int:
        return len(self.client.ask("GET", "/task").json)


@pytest.fixture
def filled(catalog_settings: Settings, upstream: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation with 5,000 rows of each media type upstream; each term stands in titles, descriptions and tags of both."""
    (tmp_path / "terms.txt").write_text("\n".join(TERMS), encoding="utf-8")
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", (tmp_path / "terms.txt").as_uri())
    with upstream.connect() as connection:
        samples.make_tables(connection)
        share = ROWS // len(TERMS)
        for model in ("image", "audio"):
            for number, term in enumerate(TERMS):
                connection.execute(
                    ADD.format(model=model).encode(), {"term": term, "first": number * share + 1, "last": (number + 1) * share}
                )
    return current()


@pytest.fixture
def engine(filled: Settings) -> Iterator[SearchEngine]:
    with closing(Places.of(filled).search()) as opened:
        yield opened


@pytest.fixture
def caller(filled: Settings, engine: SearchEngine) -> Iterator[Caller]:
    launcher = InThreads(filled, run_task)
    with listening(200) as listener:
        try:
            with answering(create_app(filled, catalog_desk=CatalogDesk(filled, launcher, engine))) as client:
                yield Caller(client, listener)
        finally:
            launcher.join()


def with_term(engine: SearchEngine, index: str, term: str) -> int:
    """How many documents of an index have a term, word by word, in a text of theirs: looked for by nothing of the package."""
    word = re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE)
    held = engine.get(index, range(1, ROWS + 1))
    texts = ([each.get("title"), each.get("description"), *(tag["name"] for tag in each.get("tags", []))] for each in held.values())
    return sum(any(word.search(text) for text in found if text) for found in texts)


@pytest.mark.timeout(300)
def test_both_media_types_from_the_first_refresh_to_the_last_deletion(caller: Caller, engine: SearchEngine, filled: Settings) -> None:
    assert caller.tasks() == 0
    for number, model in enumerate(("image", "audio"), 1):
        caller.does(model, "INGEST_UPSTREAM", index_suffix="integration")
        assert caller.tasks() == number
        assert engine.count(f"{model}-integration") == ROWS
        assert not caller.stat(f"{model}-main")["exists"]
    for model in ("image", "audio"):
        caller.does(model, "PROMOTE", index_suffix="integration", alias=f"{model}-main")
        assert caller.stat(f"{model}-main") == {
            "exists": True, "is_alias": True, "alt_names": f"{model}-integration", "indexes": [f"{model}-integration"],
        }  # fmt: skip
        assert caller.stat(f"{model}-integration")["alt_names"] == [f"{model}-main"]
        with Places.of(filled).api.connect() as api:
            assert api.execute(f"SELECT count(*) FROM {model}".encode()).fetchone() == (ROWS,)
    assert caller.stat("unknown-main") == {"exists": False, "is_alias": None, "alt_names": None, "indexes": []}

    for model in ("image", "audio"):
        caller.does(model, "CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="integration", destination_index_suffix="integration")
        assert {term: with_term(engine, f"{model}-integration", term) for term in TERMS} == dict.fromkeys(
            TERMS, ROWS // len(TERMS) // 50 * 3
        )
        assert {term: with_term(engine, f"{model}-integration-filtered", term) for term in TERMS} == dict.fromkeys(TERMS, 0)
        assert engine.count(f"{model}-integration-filtered") == ROWS - ROWS // 50 * 3
        caller.does(model, "UPDATE_INDEX", index_suffix="integration", since_date="1999-01-01")
        assert engine.count(f"{model}-main") == ROWS

    for fields in ({}, {"force_delete": False}):
        assert caller.post("audio", "DELETE_INDEX", alias="audio-main", **fields).status == 400
    assert caller.post("image", "POINT_ALIAS", index_suffix="integration", alias="image-integration-filtered").status == 422
    caller.does("image", "DELETE_INDEX", index_suffix="integration-filtered")
    assert not caller.stat("image-integration-filtered")["exists"]
    caller.does("audio", "DELETE_INDEX", alias="audio-main", force_delete=True)
    assert not caller.stat("audio-main")["exists"]
    assert not caller.stat("audio-integration")["exists"]
    assert caller.stat("image-main")["exists"]
