"""What readers see of a world, and what refreshes have left behind in it: to be compared with another one's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from ingestion_dagster.catalog.search import Query, SearchEngine
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import SHAPE
from ingestion_dagster_tests.catalog.worlds import ROWS, World


def titles_generation(titles: Iterable[str | None], where: str) -> str:
    """The one generation that all of some titles are of: their last word."""
    found = {(title or "").split()[-1] for title in titles}
    assert len(found) == 1, f"{where} is of {sorted(found)}"
    return found.pop()


_ALL_TITLES = """
SELECT 'table', title FROM public.image
UNION ALL
SELECT 'list', i.title FROM public.imagelist_images AS l JOIN public.image AS i ON i.id = l.image_id
UNION ALL
SELECT 'view', title FROM public.photos
"""


def table_generation(api: Connection) -> str:
    """That of all rows of the live table, of what hangs on it, and of the view, as one statement sees them."""
    rows = api.execute(_ALL_TITLES).fetchall()
    assert {row[0] for row in rows} == {"table", "list", "view"}
    return titles_generation((row[1] for row in rows), "the table")


def index_generation(engine: SearchEngine, alias: str) -> str:
    """That of all documents that a reader finds."""
    found = engine.search(alias, Query(text="lantern", limit=100, mature=True))
    assert found.hits, f"{alias} is empty"
    return titles_generation((hit.source["title"] for hit in found.hits), alias)


def generations(world: World) -> tuple[str, str, str]:
    """The generation of what readers get from the table, from the index, and from the filtered index; asserts that each is whole."""
    with world.places.api.connect() as api, closing(world.places.search()) as engine:
        of_table = table_generation(api)
        return of_table, index_generation(engine, "image"), index_generation(engine, "image-filtered")


def seen_titles(world: World, alias: str) -> set[str]:
    """The generations of the titles that readers of both aliases find."""
    with closing(world.places.search()) as engine:
        return {index_generation(engine, alias), index_generation(engine, f"{alias}-filtered")}


_LOADS = """
SELECT landing_zone, partition, count(*), array_agg(DISTINCT status), array_agg(DISTINCT error_code),
       sum(rows_in), sum(rows_written), sum(rows_rejected)
FROM ledger.loads GROUP BY 1, 2 ORDER BY 1, 2
"""


_RANGES = """
SELECT suffix, sum(rows_read), sum(documents), sum(filtered), sum(dead) FROM catalog.ranges GROUP BY 1 ORDER BY 1
"""


_FIXES = "SELECT suffix, identifier::text, field, old_value, new_value, rule FROM catalog.fixes ORDER BY 1, 2, 3, 4, 5, 6"


_TABLES = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname LIKE 'catalog%' ORDER BY 1"


def picture(world: World) -> dict[str, Any]:
    """All that readers can see: tables with what hangs on them, and documents; new rows by their identity, not by their number."""
    with world.places.api.connect() as api, closing(world.places.search()) as engine:
        api.execute("SET search_path = ''")
        shape = sorted((tuple(_in_order(row)) for row in api.execute(SHAPE)), key=repr)
        rows = api.execute("SELECT id, identifier::text, title, url, tags::text FROM public.image ORDER BY identifier").fetchall()
        listed = api.execute(
            "SELECT l.note, i.identifier::text FROM public.imagelist_images AS l JOIN public.image AS i ON i.id = l.image_id ORDER BY 1"
        )
        numbers = {row[1]: row[0] for row in rows}
        assert len(set(numbers.values())) == len(rows)
        found: dict[str, Any] = {
            "shape": shape,
            "rows": [[number if number <= ROWS else "new", *rest] for number, *rest in rows],
            "listed": [list(row) for row in listed],
            "viewed": sorted(row[0] for row in api.execute("SELECT title FROM public.photos")),
        }
        for alias in ("image", "image-filtered"):
            (index,) = engine.behind(alias)
            hits = engine.search(alias, Query(text="lantern", limit=100, mature=True)).hits
            assert engine.count(alias) == len(hits)
            found[alias] = index
            found[f"{alias} documents"] = sorted(
                [hit.source["identifier"], hit.source["title"], hit.source.get("mature"), hit.id if hit.id <= ROWS else "new"]
                for hit in hits
            )
            if _of_one(found):
                wrong = [hit.source["identifier"] for hit in hits if numbers.get(hit.source["identifier"]) != hit.id]
                assert wrong == [], f"documents of {alias} have other ids than their rows"
    return found


def halves(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a picture is in the database, and what in the search engine; whether a key is validated yet concerns no reader."""
    shape = [[value for place, value in enumerate(row) if place != 5 or row[0] != "constraint"] for row in found["shape"]]
    shape = [[value.removesuffix(" NOT VALID") if isinstance(value, str) else value for value in row] for row in shape]
    tables = {name: value for name, value in found.items() if not name.startswith("image")}
    return tables | {"shape": shape}, {name: value for name, value in found.items() if name.startswith("image")}


def _of_one(found: Mapping[str, Any]) -> bool:
    return bool(found["rows"]) and str(found["rows"][0][2]).split()[-1] == str(found["image"]).removesuffix("-filtered").split("-")[-1]


def _in_order(row: Sequence[Any]) -> Iterator[Any]:
    for value in row:
        yield ",".join(sorted(value.strip("{}").split(","))) if isinstance(value, str) and value.startswith("{") and "=" in value else value


def left_behind(world: World) -> dict[str, Any]:
    """What refreshes have left: what readers see, what the ledger says, and what lies about; not who, when, nor at which attempt."""
    ledger, _, api = world.databases
    with closing(world.places.search()) as engine:
        indexes = engine.indexes("image-")
        sizes = {index: engine.count(index) for index in indexes}
    return picture(world) | {
        "loads": [list(row) for row in world.query(ledger, _LOADS)],
        "ranges": [list(row) for row in world.query(ledger, _RANGES)],
        "fixes": [list(row) for row in world.query(ledger, _FIXES)],
        "refreshes": [list(row) for row in world.query(ledger, "SELECT suffix, state FROM catalog.refreshes ORDER BY 1")],
        "open promotions": world.query(ledger, "SELECT count(*) FROM catalog.promotions WHERE ended_at IS NULL"),
        "dead letters": world.query(ledger, "SELECT count(*) FROM catalog.dead_letters"),
        "tables": [row[0] for row in world.query(api, _TABLES)],
        "listed rows": world.query(api, "SELECT count(*) FROM public.imagelist_images"),
        "pending": world.query(api, "SELECT count(*) FROM catalog_previous.pending_keys"),
        "archived": [
            list(row) for row in world.query(api, "SELECT table_name, row->>'note' FROM catalog_previous.archived_rows ORDER BY 2")
        ],
        "indexes": sizes,
    }
