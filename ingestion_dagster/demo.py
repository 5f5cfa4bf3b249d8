"""The demonstration: sample data of every pipeline, loaded for real, and whether each file ended as it should."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from ingestion_dagster import arrivals, runs
from ingestion_dagster.demo_screen import Standing, show
from ingestion_dagster.engine import postgres, stand_ins, whereabouts
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.engine.pipeline import Delivery, Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.sandbox import events_consumer, servers
from ingestion_dagster.settings import Settings

EVENTS_PLATFORM = "events_platform"
"""The stand-in of the sandbox that holds what life events publishes."""

BAD = "bad/"
"""Sample files under this folder are bad on purpose and must be refused."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """A file that did not end as the demo expects."""

    key: str
    expected: str
    status: str
    error_code: str | None

    def __str__(self) -> str:
        return f"{self.key} is {self.status} ({self.error_code}), expected {self.expected}"


def run_demo(settings: Settings, pipelines: Sequence[Pipeline]) -> bool:
    """Load `source_data/` through these pipelines; print what came of it. True if every file ended as expected."""
    addresses: dict[str, str] = {}
    for pipeline in pipelines:
        if names := pipeline.stand_ins(settings):
            addresses |= servers.up(settings.home_folder, settings.environment, names)
    as_expected = {each.name: _run(each, settings, project_file("source_data") / each.name) for each in pipelines}
    with postgres.ready(settings).connect() as connection:
        show([_standing(connection, pipeline, settings) for pipeline in pipelines], addresses)
    if not all(as_expected.values()):
        print(f"NOT AS EXPECTED, see above: {', '.join(name for name, fine in as_expected.items() if not fine)}")
    return all(as_expected.values())


def _run(pipeline: Pipeline, settings: Settings, folder: Path) -> bool:
    if pipeline.keyed is not None:
        return _refresh(pipeline, settings)
    surprises: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for delivery in pipeline.samples(folder, Path(scratch)):
            surprises += _deliver(pipeline, settings, delivery)
    if EVENTS_PLATFORM in pipeline.stand_ins(settings):
        surprises += _consume(settings)
    for surprise in surprises:
        print(f"  NOT AS EXPECTED: {surprise}")
    print(f"{pipeline.name}: {'every file ended as expected' if not surprises else f'{len(surprises)} files did not end as expected'}")
    return not surprises


def _refresh(pipeline: Pipeline, settings: Settings) -> bool:
    """Refresh every media type, and images again; search, roll back, and search again. True if readers got what the samples hold."""
    from ingestion_dagster.catalog import readers, samples
    from ingestion_dagster.catalog.registry import MEDIA_TYPES, filtered_name

    surprises = []
    for dataset in (None, "image"):
        summary = runs.run(pipeline, settings, runs.Request(dataset=dataset))
        print(
            f"catalog: {dataset or 'every media type'} refreshed: {summary.rows_in} rows in, {summary.rows_written} written, "
            f"{summary.errored} refreshes refused"
        )
        surprises += [f"a refresh of {dataset or 'every media type'} was not promoted"] if summary.errored or not summary.loads else []
    with postgres.ready(settings).connect() as connection:
        found = {name: count for count, name in pipeline.contents(connection, settings)}
    for model in MEDIA_TYPES:
        expected = samples.expected(model)
        wanted = {f"table {model}": "rows", f"index {model}": "documents", f"index {filtered_name(model, '')}": "filtered"}
        surprises += [f"{name}: {found.get(name)}, not {expected[of]}" for name, of in wanted.items() if found.get(name) != expected[of]]
    phrase = samples.expected("image")["phrase"]
    text = f'"{phrase["term"]}"'
    before = readers.search(settings, "image", text, limit=1)
    print(f"catalog: a reader who looks for '{text}' finds {before.total} images")
    surprises += [f"'{text}' finds {before.total}, not {phrase['documents']}"] if before.total != phrase["documents"] else []
    surprises += _roll_back(settings, text, before.total)
    for surprise in surprises:
        print(f"  NOT AS EXPECTED: {surprise}")
    print(f"catalog: {'every refresh ended as expected' if not surprises else f'{len(surprises)} things are not as expected'}")
    return not surprises


def _roll_back(settings: Settings, text: str, wanted: int) -> list[str]:
    """Give readers back the refresh before the last, and look whether they have it; what is not as it should be."""
    from ingestion_dagster.catalog import readers, refreshes, steps
    from ingestion_dagster.catalog.places import Places
    from ingestion_dagster.catalog.registry import MEDIA_TYPES

    places = Places.of(settings)
    with places.ledger.connect() as connection:
        newest, previous = refreshes.live(connection, "image"), refreshes.previous(connection, "image")
        back = steps.roll_back(places, connection, MEDIA_TYPES["image"], "demo")
    total = readers.search(settings, "image", text, limit=1).total
    if newest is None or previous is None or back is None or back.suffix != previous.suffix:
        return ["the rollback did not bring back the refresh before"]
    print(f"catalog: rolled back from refresh {newest.suffix} to {back.suffix}, which finds {total}")
    return [] if total == wanted else [f"after the rollback '{text}' finds {total}, expected {wanted}"]


def _consume(settings: Settings) -> list[str]:
    """Act as a consumer of the events that have been published, until the platform has had them deleted; what did not go as expected."""
    platform = stand_ins.url(settings.home_folder, EVENTS_PLATFORM)
    if platform is None:
        return ["the events platform of the sandbox is gone"]
    pages = list(events_consumer.consume(platform))
    consumed, enriched, values = (sum(getattr(page, name) for page in pages) for name in ("consumed", "enriched", "values"))
    print(f"life_events: a consumer read {consumed} events, {enriched} of them enriched by us with {values} values, and confirmed them")
    try:
        deleted = events_consumer.await_deletion(platform)
    except TimeoutError as error:
        return [str(error)]
    with postgres.ready(settings).connect() as connection:
        row = connection.execute("SELECT count(*) FROM life_events.events").fetchone()
    left = row[0] if row else 0
    print(f"life_events: the platform has had {deleted} events deleted in all; the event store holds {left}")
    return [f"{left} events are still in the event store"] if left else []


def _deliver(pipeline: Pipeline, settings: Settings, delivery: Delivery) -> list[str]:
    """Land and load a delivery; what did not end as expected."""
    with postgres.ready(settings).connect() as connection:
        if delivery.is_known(connection):
            print(f"{pipeline.name}: {delivery.name} has been landed before")
            return delivery.surprises(connection) if delivery.surprises else []
    print(f"{pipeline.name}: landing {delivery.name}")
    landed = arrivals.land(pipeline, settings, [delivery.folder])
    summary = runs.run(pipeline, settings, runs.Request(as_of=delivery.as_of, quiet=True))
    print(
        f"{pipeline.name}: {len(landed.objects)} files landed, {summary.loads - summary.errored} loaded ({summary.duplicates} of them "
        f"as before), {summary.errored} refused, {summary.rows_written} rows written"
    )
    with postgres.ready(settings).connect() as connection:
        if delivery.surprises is not None:
            return delivery.surprises(connection)
        return [str(surprise) for surprise in _surprises(connection, pipeline, {(seen.key, seen.version) for seen in landed.objects})]


def _surprises(connection: Connection, pipeline: Pipeline, landed: set[tuple[str, str]]) -> list[Surprise]:
    states = {(state["key"], state["version"]): state for state in whereabouts.load_states(connection, pipeline.name)}
    surprises = []
    for key, version in sorted(landed):
        expected = "errored" if key.startswith(BAD) else "archived"
        state = states.get((key, version), {"status": "unknown", "error_code": None})
        if state["status"] != expected:
            surprises.append(Surprise(key, expected, state["status"], state["error_code"]))
    return surprises


def _standing(connection: Connection, pipeline: Pipeline, settings: Settings) -> Standing:
    filled = list(pipeline.contents(connection, settings))
    for table in pipeline.tables:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))).fetchone()
        filled.append((row[0] if row else 0, table))
    return Standing.of(connection, pipeline.name, filled, pipeline.places(settings))
