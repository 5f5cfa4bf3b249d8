"""Changes that are carried or brought by updates: none is lost, none is there twice, and what is said of them is so."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import carry, changes, gates, locks, refreshes, reindex, steps, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import PIPELINE
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.catalog.tables import LIVE, NEXT
from ingestion_dagster.engine import ledger as loads
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.catalog import scene, worlds
from ingestion_dagster_tests.catalog.fake_search import FakeSearch
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE
from ingestion_dagster_tests.catalog.scenes import FakePlaces, with_fake

NEW = 101
"""The number of a row that upstream gets after the copy."""

CHANGE = "UPDATE image SET title = %(title)s, updated_on = now() WHERE foreign_identifier = %(work)s"
REMOVE = "UPDATE image SET removed_from_source = true, updated_on = now() WHERE foreign_identifier = 'work-5'"

# Every temporary table of changes has a disk that is full.
FULL_DISK = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '53100'; END $$;
CREATE FUNCTION without_room() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF to_regclass('pg_temp.catalog_changes') IS NOT NULL THEN
        CREATE TRIGGER full_disk BEFORE INSERT ON pg_temp.catalog_changes EXECUTE FUNCTION public.no_room();
    END IF;
END $$;
CREATE EVENT TRIGGER full_disk ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION without_room();
"""


class Stage:
    """Thirty rows that readers have, of which one is sensitive, and a refresh of them that is made."""

    def __init__(self, places: FakePlaces, engine: FakeSearch, ledger: Connection, listed: Path) -> None:
        self.places = places
        self.engine = engine
        self.ledger = ledger
        self.listed = listed
        self.work = Work(places, ledger, IMAGE, "one", "run", Limits())

    def begin(self) -> None:
        """Let readers have them."""
        self.terms("water")
        with self.places.upstream.connect() as upstream:
            scene.upstream_tables(upstream)
            scene.put_upstream(upstream, "image", [*scene.rows(range(1, 30)), scene.row(30, title="Running water")])
        self.staged("one")
        steps.fill(self.work)
        steps.promote(self.work)

    def terms(self, *terms: str) -> None:
        """What is sensitive from now on."""
        self.listed.write_text("\n".join(terms) + "\n")

    def staged(self, suffix: str = "two") -> Work:
        """A refresh whose tables are copied and indexed."""
        steps.begin(self.places, self.ledger, IMAGE, "run", asked_by="test", suffix=suffix)
        self.work = Work(self.places, self.ledger, IMAGE, suffix, "run", Limits())
        steps.copy(self.work)
        steps.index_staged(self.work)
        return self.work

    def add(self, title: str = "A lighthouse") -> None:
        """Upstream has a new row."""
        with self.places.upstream.connect() as upstream:
            scene.put_upstream(upstream, "image", [scene.row(NEW, title=title)])
            upstream.execute("UPDATE image SET updated_on = now() WHERE foreign_identifier = %s", [f"work-{NEW}"])

    def upstream(self, statement: str, **values: Any) -> None:
        with self.places.upstream.connect() as upstream:
            upstream.execute(statement.encode(), values)

    def retitle(self, number: int, title: str) -> None:
        """Upstream, a row is changed."""
        self.upstream(CHANGE, title=title, work=f"work-{number}")

    def update(self) -> updates.Updated:
        """What is done every hour, by a process of its own."""
        with self.places.ledger.connect() as ledger:
            return updates.update_live(self.places, self.engine, ledger, IMAGE, "update")

    def rows(self, number: int, schema: str = LIVE) -> list[tuple[int, str]]:
        """Ids and titles of a row."""
        with self.places.api.connect() as api:
            statement = f"SELECT id, title FROM {schema}.image WHERE identifier = %s"
            return api.execute(statement.encode(), [scene.identifier(number)]).fetchall()

    def id(self, number: int) -> int:
        """The id by which readers know a row."""
        ((found, _),) = self.rows(number)
        return found

    def watermark(self) -> datetime | None:
        row = self.ledger.execute("SELECT updated_on FROM catalog.watermarks WHERE model = 'image'").fetchone()
        return row[0] if row else None

    def shut(self) -> dict[str, str]:
        found = gates.judged(self.places, self.engine, self.ledger, IMAGE, self.work.refresh)
        return {gate.name: gate.description for gate in found if not gate.passed}

    def title(self, index: str, number: int) -> str | None:
        """Of a document, by id; None: there is none."""
        found = self.engine.get(index, [number])
        return str(found[number]["title"]) if found else None


@contextmanager
def staged(databases: Mapping[str, Database], home: Path, listed: Path) -> Iterator[Stage]:
    """A stage over these databases."""
    settings = worlds.settings_for(databases, home, catalog_sensitive_terms_url=listed.as_uri())
    faked, engine = with_fake(Places.of(settings))
    with faked.ledger.connect() as ledger:
        yield Stage(faked, engine, ledger, listed)


@pytest.fixture(scope="module")
def begun(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage to be copied, never to be changed. Nobody is connected to it."""
    home = tmp_path_factory.mktemp("stage")
    with worlds.databases_of(server) as databases:
        with staged(databases, home, home / "terms.txt") as made:
            made.begin()
        yield made


@pytest.fixture
def stage(server: EmbeddedServer, begun: Stage, tmp_path: Path) -> Iterator[Stage]:
    home = tmp_path / "home"
    shutil.copytree(begun.places.settings.home_folder, home)
    databases = {"ledger": begun.places.ledger, "upstream": begun.places.upstream, "api": begun.places.api}
    template = {kind: worlds.name_of(database) for kind, database in databases.items()}
    with worlds.databases_of(server, template) as copies, staged(copies, home, home / "terms.txt") as copied:
        for name in ("documents", "labels", "aliases"):
            getattr(copied.engine, name).update(deepcopy(getattr(begun.engine, name)))
        copied.engine.finished.update(begun.engine.finished)
        yield copied


@pytest.mark.parametrize("passage", [0, 1])
def test_a_row_that_an_update_brings_while_it_is_carried_has_one_id(stage: Stage, monkeypatch: pytest.MonkeyPatch, passage: int) -> None:
    work = stage.staged()
    stage.add()
    passages, refused = list[str](), list[int]()
    original = changes.Changes.batches

    def meanwhile(self: changes.Changes, size: int) -> Iterator[list[changes.Change]]:
        if self._schema == NEXT:
            if len(passages) == passage:
                try:
                    stage.update()
                except Busy:
                    refused.append(passage)
            passages.append(self._schema)
        yield from original(self, size)

    with monkeypatch.context() as patched:
        patched.setattr(changes.Changes, "batches", meanwhile)
        steps.fill(work)
    assert refused == ([1] if passage == 1 else []), "new rows are written while nobody else numbers them, and others at any time"
    stage.update()
    readers = stage.rows(NEW)
    assert stage.rows(NEW, NEXT) == readers
    steps.promote(work)
    assert stage.rows(NEW) == readers
    assert stage.title("image", readers[0][0]) == "A lighthouse"


def test_what_updates_have_brought_outlives_an_upstream_that_becomes_another(stage: Stage) -> None:
    work = stage.staged()
    stage.add()
    stage.retitle(3, "Changed")
    stage.upstream(REMOVE)
    stage.update()
    brought = {number: stage.rows(number) for number in (NEW, 3)}
    with stage.places.api.connect() as api:
        # The copy is of a later moment than what an update has brought of this row.
        api.execute("UPDATE catalog_next.image SET title = 'Younger', updated_on = now() + interval '1 hour' WHERE id = %s", [stage.id(4)])
        api.execute("UPDATE public.image SET title = 'Older', updated_on = now() WHERE id = %s", [stage.id(4)])
    stage.upstream("ALTER TABLE image ALTER COLUMN filesize TYPE text")
    steps.fill(work)
    assert work.refresh.counts["carried"]["stopped_by"] == ["type_mismatch"]
    assert stage.shut() == {}
    steps.promote(work)
    assert {number: stage.rows(number) for number in (NEW, 3)} == brought
    assert stage.title("image", stage.id(NEW)) == "A lighthouse"
    assert stage.title("image-filtered", stage.id(3)) == "Changed"
    assert stage.title("image", stage.id(5)) is None
    assert [title for _, title in stage.rows(4)] == ["Younger"]
    with pytest.raises(Refused, match="type_mismatch"):
        stage.update()


def test_a_value_that_cannot_be_carried_refuses_the_refresh_and_loses_nothing(stage: Stage) -> None:
    work = stage.staged()
    stage.add()
    stage.update()
    readers = stage.rows(NEW)
    stage.upstream("ALTER TABLE image ALTER COLUMN meta_data TYPE json")
    stage.upstream(r"""UPDATE image SET meta_data = '{"a": "marrow\u0000fat"}', updated_on = now() WHERE foreign_identifier = 'work-7'""")
    with pytest.raises(Refused) as refused:
        steps.fill(work)
    (problem,) = refused.value.problems
    assert (problem.code, problem.place) == ("unsupported_character", "image")
    assert "correct it upstream" in problem.message
    assert "marrow" not in problem.message
    assert stage.rows(NEW) == readers
    stage.upstream("UPDATE image SET meta_data = NULL WHERE foreign_identifier = 'work-7'")
    assert loads.retry(stage.ledger, Scope(PIPELINE, ids=frozenset({work.refresh.load_id}))).ready
    steps.fill(work)
    steps.promote(work)
    assert stage.rows(NEW) == readers
    assert stage.title("image", readers[0][0]) == "A lighthouse"


def test_a_list_that_is_another_for_an_hour_lets_nothing_into_the_filtered_index(stage: Stage) -> None:
    stage.retitle(1, "Stays")
    stage.update()
    before = stage.watermark()
    one, two, three = (stage.id(number) for number in (1, 2, 3))
    stage.terms("nothing")
    stage.add("Water under a bridge")
    stage.retitle(2, "Water again")
    stage.retitle(3, "Of no list")
    told = stage.update()
    assert told.watermark == before == stage.watermark()
    number = stage.id(NEW)
    assert [stage.title("image", each) for each in (number, two)] == ["Water under a bridge", "Water again"]
    assert [stage.title("image-filtered", each) for each in (number, two, three)] == [None, None, None]
    assert stage.title("image-filtered", one) == "Stays", "what neither the row nor the index has changed of is clean by both lists"
    stage.terms("water")
    assert stage.update().watermark != before
    assert [stage.title("image-filtered", each) for each in (number, two, three)] == [None, None, "Of no list"]


def test_an_index_of_another_list_is_not_passed_off_as_brought_up_to_date(stage: Stage) -> None:
    stage.retitle(3, "Of no list")
    stage.update()
    stage.terms("nothing")
    since = datetime.now().astimezone() - timedelta(hours=1)
    with pytest.raises(Transient) as failed:
        updates.index_changes(stage.places, stage.engine, stage.ledger, IMAGE, "image-one-filtered", since)
    assert failed.value.code == "terms_changed"
    assert "nothing" not in failed.value.message
    assert "water" not in failed.value.message


def test_a_refresh_that_is_carried_with_another_list_is_brought_up_to_date_afterwards(stage: Stage) -> None:
    work = stage.staged()
    steps.fill(work)
    behind = updates.complete_to(work.refresh)
    stage.terms("nothing")
    stage.add("Water under a bridge")
    stage.retitle(3, "Of no list")
    steps.promote(work)
    assert work.refresh.state == "live"
    assert updates.complete_to(work.refresh) == behind
    number, three = stage.id(NEW), stage.id(3)
    assert [stage.title("image-filtered", each) for each in (number, three)] == [None, None]
    stage.terms("water")
    stage.update()
    assert [stage.title("image-filtered", each) for each in (number, three)] == [None, "Of no list"]


def test_a_document_that_is_refused_leaves_no_older_one_behind(stage: Stage) -> None:
    work = stage.staged()
    poison = stage.id(3)
    stage.retitle(3, "Poison")
    stage.engine.poison = {poison}
    stage.update()
    assert stage.title("image", poison) is None
    assert stage.title("image-filtered", poison) is None
    stage.engine.poison = set()

    def poisoned(name: str, _arguments: tuple[Any, ...]) -> None:
        # What was filled was taken; what is carried is not.
        stage.engine.poison = {poison} if name == "refresh.after" else stage.engine.poison

    stage.engine.fault = poisoned
    steps.fill(work)
    stage.engine.fault = None
    assert stage.title("image-two", poison) is None
    assert stage.title("image-two-filtered", poison) is None
    assert stage.shut() == {}


def test_a_promotion_waits_for_an_update_to_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    work = stage.staged()
    steps.fill(work)
    with ExitStack() as update:
        update.enter_context(locks.model(stage.places.ledger, "image"))
        monkeypatch.setattr("ingestion_dagster.catalog.steps.time.sleep", lambda _seconds: update.close())
        steps.promote(work)
    assert work.refresh.state == "live"


def cut(module: Any, name: str, *, does: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """A run that is killed there: after what it does, or before."""

    def patch(patched: pytest.MonkeyPatch) -> None:
        original = getattr(module, name)

        def broken(*arguments: Any, **named: Any) -> None:
            if does:
                original(*arguments, **named)
            raise Transient("a_test", name)

        patched.setattr(module, name, broken)

    return patch


KILLED = {
    "before documents": cut(reindex.Reindexer, "rows", does=False),
    "before it is noted": cut(reindex.Reindexer, "rows", does=True),
    "after all": cut(steps.Work, "came_to", does=False),
}


@pytest.mark.parametrize(
    ("where", "point"), [*((where, "") for where in KILLED), ("after all", "delete_index.after"), ("after all", "create.after")]
)
def test_ranges_that_are_filled_again_count_what_was_carried_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, where: str, point: str
) -> None:
    work = stage.staged()
    stage.add()
    stage.upstream(REMOVE)
    stage.retitle(3, "Water again")
    stage.retitle(30, "Dry")
    with monkeypatch.context() as patched:
        KILLED[where](patched)
        with pytest.raises(Transient, match="a_test"):
            steps.fill(work)
    stage.terms("lighthouse", "water")
    if point:
        # Killed once more, while the filtered index is made again.

        def fault(name: str, arguments: tuple[Any, ...]) -> None:
            if name == point and arguments[0] == "image-two-filtered":
                raise Transient("a_test", name)

        stage.engine.fault = fault
        with pytest.raises(Transient, match="a_test"):
            steps.fill(work)
        stage.engine.fault = None
    steps.fill(work)
    assert stage.shut() == {}
    filtered = stage.engine.documents["image-two-filtered"]
    assert len(filtered) == 28, "of 31 one is removed, one has a term of the first list, and one of the second"
    steps.promote(work)
    assert stage.title("image", stage.id(NEW)) == "A lighthouse"
    assert stage.title("image-filtered", stage.id(30)) == "Dry"


def test_a_full_disk_of_the_api_is_not_told_as_upstreams(stage: Stage) -> None:
    stage.add()
    with stage.places.api.connect() as api:
        api.execute(FULL_DISK)
    with pytest.raises(Transient) as failed:
        stage.update()
    assert (failed.value.code, failed.value.message.startswith("the API's database")) == ("disk_full", True)
    assert "secret" not in failed.value.message


def test_a_fault_of_upstream_is_told_as_its_own(stage: Stage) -> None:
    work = stage.staged()
    stage.upstream("ALTER TABLE image RENAME TO image_rows")
    stage.upstream("CREATE VIEW image AS SELECT image_rows.* FROM image_rows, (SELECT pg_terminate_backend(pg_backend_pid())) AS gone")
    with pytest.raises(Transient) as failed:
        carry.carry(stage.places, stage.engine, stage.ledger, IMAGE, refreshes.get(stage.ledger, "image", work.suffix))
    assert (failed.value.code, failed.value.message.startswith("the upstream database")) == ("connection_lost", True)
