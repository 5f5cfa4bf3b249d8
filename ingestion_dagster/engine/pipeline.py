"""What the command line and the tests may ask of any pipeline, without Dagster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ingestion_dagster.engine import ledger, moving
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings

STREAM_DAYS = 366
"""For longer than this no Kinesis stream keeps a record, and brings it again."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A Dagster job that loads files: its name, and of which datasets."""

    name: str
    datasets: Callable[[], frozenset[str] | None] = lambda: None
    """None: of all."""

    def loads(self, dataset: str) -> bool:
        """Whether a dataset is among them."""
        of = self.datasets()
        return of is None or dataset in of


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sample files that are landed together, and what tells whether each of them ended as it should."""

    name: str
    folder: Path
    is_known: Callable[[Connection], bool] = lambda _connection: False
    """Whether it has been landed before, and would be something else if it were landed again."""
    surprises: Callable[[Connection], list[str]] | None = None
    """Lines that tell of files which did not end as expected; None: what lies below `bad/` is refused, the rest is loaded."""
    as_of: str | None = None
    """The ISO date by which it is to be judged; None: today."""


@dataclass(frozen=True, slots=True)
class KeyedRun:
    """A run that works on one load alone, and has a partition key: of which job and dynamic partitions, and which load of the ledger."""

    job: str
    partition: str
    definition: str
    load_id: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline by its parts: the datasets it knows, where its files land, how one is checked, and the Dagster job that loads them."""

    name: str
    known: Callable[[], tuple[str, ...]]
    """The datasets that may arrive, as the registry names them now."""
    zone: Callable[[Settings], Zone]
    check: Callable[[Settings, str, bytes, Callable[[str], bytes | None]], tuple[Problem, ...]]
    """Every problem of one file, warnings too, given its landing key and content, and what reads the file that lies beside it under
    another key."""
    jobs: tuple[LoadJob, ...]
    """What loads its files: one job for each definition of partitions."""
    asset_of: Callable[[str], tuple[str, ...] | None]
    """The asset key of a dataset; None if it has none of its own and comes with any run."""
    places: Callable[[Settings], tuple[tuple[str, str], ...]]
    """Where loaded and refused files go: a word and a URL each. Under `archived` each of them is kept, to be replayed."""
    tables: tuple[str, ...] = ()
    """The tables of this database that a run fills, as a person would query them."""
    contents: Callable[[Connection, Settings], list[tuple[int, str]]] = lambda _connection, _settings: []
    """What is filled elsewhere: numbers of rows, and names under which a person would ask for them."""
    samples: Callable[[Path, Path], tuple[Delivery, ...]] = lambda folder, _scratch: (Delivery(folder.name, folder),)
    """The sample deliveries of a folder below `source_data`; one that has to be prepared is put into the second folder."""
    watched: Callable[[Settings], tuple[str, ...]] | None = None
    """URLs of the folders that people put files into; None: the landing zone itself."""
    prefix_of: Callable[[str], str] = lambda _dataset: ""
    """Under which prefix of the landing zone the files of a dataset arrive."""
    sync: Callable[[Connection, Settings], None] | None = None
    """Enter the datasets into the ledger; None: their names are all there is to enter."""
    dynamic_partitions: Callable[[Connection], Mapping[str, Sequence[str]]] | None = None
    """Partitions that are known only from what has arrived: their keys, by the name of their definition in Dagster."""
    behind: Callable[[Connection, Settings], list[tuple[str, ...]]] | None = None
    """Keys of assets that lag behind what has been loaded; `follow_job` materializes them."""
    follow_job: str | None = None
    stand_ins: Callable[[Settings], tuple[str, ...]] = lambda _settings: ()
    """Names of the sandbox's servers that it needs by these settings."""
    landing_key: Callable[[Settings, str], str] = lambda _settings, key: key
    """The key under which a file is landed that lies under this one in the folder it is taken from."""
    retry: Callable[[Connection, Scope, str | None], ledger.Again] = ledger.retry
    """Put back to `ready` what ended without being loaded whole, of this key or of any."""
    replay: Callable[[Connection, Scope], ledger.Again] = ledger.replay
    """Put back to `ready` what was loaded."""
    predict: Callable[[Settings, str, bytes, str | None], Mapping[str, int]] | None = None
    """What loading a file would do, given its key, its content and an ISO date to go by: counts by word. None: only `check` tells."""
    done: Callable[[Settings, Sequence[StoredObject]], tuple[frozenset[str], tuple[str, ...]]] = lambda _settings, objects: (
        frozenset(seen.key for seen in objects),
        (),
    )
    """Which of the files of a living system have been dealt with, by key, and lines on those that a person should look at."""
    as_of_narrows: bool = True
    """Whether a run as of a day takes only what had been discovered by then; else it only judges by it."""
    standing: Callable[[Connection, str | None], list[str]] = lambda _connection, _dataset: []
    """Lines on what is still to be done, or stands refused, besides loads: of a dataset, or of all (None)."""
    wants: Callable[[Connection, str | None], list[tuple[str, str]]] = lambda _connection, _dataset: []
    """What of it waits for a person: a line, and the command that comes next."""
    keyed: Callable[[Connection, Settings, str | None, str | None], list[KeyedRun]] | None = None
    """The runs that are meant by a dataset and a partition (None: all of them), each for a load of its own. None: its runs claim what is
    claimable. Such a pipeline has no landing zone."""
    foretell: Callable[[Settings, str | None], Mapping[str, int]] | None = None
    """Of such a pipeline: what a run for a dataset would do, counts by word."""
    progress: Callable[[Connection], int] = lambda _connection: 0
    """A number that grows while loads are worked on which take more than one run."""
    takes_over_loads: bool = False
    """Whether `take_over` knows what has been loaded, so that what stands in the landing zone then has not."""
    take_over: Callable[[Database, bool], tuple[str, ...]] = lambda _database, _dry_run: ()
    """Take over another system's tables in the database, or (True) only say what would be; lines that tell of it, none if none is there."""

    sensors: Callable[[Settings], tuple[str, ...]] = lambda _settings: ()
    """Its own sensors that should tick by the settings."""
    claimable_minutes: Callable[[Settings], int] = lambda _settings: 60
    """For how long a load may wait, though a run could claim it, before people are told."""
    remembers: Callable[[Settings], int] = lambda _settings: 0
    """Days for which no load that has ended may leave the ledger: what it has brought might come again, and is known by it."""
    leftovers: Callable[[Connection, Settings, datetime], Mapping[str, int]] = lambda _connection, _settings, _now: {}
    """Remove what killed processes have left half done in places of its own, older than that moment; how much of what, by word."""
    stores: Callable[[Settings], tuple[str, ...]] = lambda _settings: ()
    """URLs of the stores that it writes to besides its landing zone and what `places` names."""
    amiss: Callable[[Connection, Settings], Sequence[str]] = lambda _connection, _settings: ()
    """Lines on what stands in its targets otherwise than its ledger says."""
    tidy: Callable[[Connection, Settings], Sequence[str]] | None = None
    """Give back what dead runs held, and finish what they left half done; lines that tell of it, one at least. None: leases and moves are
    all there is to see to."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that may arrive."""
        return self.known()

    def sync_datasets(self, connection: Connection, settings: Settings) -> None:
        """Enter the datasets into the ledger."""
        if self.sync is None:
            sync_datasets(connection, self.name, self.datasets)
        else:
            self.sync(connection, settings)

    def archive(self, settings: Settings) -> str | None:
        """URL of where every loaded object is kept; None: it is kept nowhere, or stays for people to take away."""
        return dict(self.places(settings)).get("archived")

    def written(self, settings: Settings) -> tuple[str, ...]:
        """URLs of all the stores that it writes to besides its landing zone."""
        named = [url for _, url in self.places(settings) if url.startswith(("file://", "s3://")) and "<" not in url]
        return (*named, *self.stores(settings))

    def sweep(self, connection: Connection, settings: Settings) -> Sequence[str]:
        """Give back what dead runs held, and finish what they left half done; lines that tell of it. Repeatable."""
        if self.tidy is not None:
            return self.tidy(connection, settings)
        returned, moved = moving.sweep(
            connection, self.zone(settings), lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts
        )
        return (f"{returned} loads returned to ready, {moved} moves finished",)
