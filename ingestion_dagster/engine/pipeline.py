"""What the command line and the tests may ask of any pipeline, without Dagster."""

from collections.abc import Callable
from dataclasses import dataclass

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline by its parts: the datasets it knows, where its files land, how one is checked, and the Dagster job that loads them."""

    name: str
    datasets: tuple[str, ...]
    zone: Callable[[Settings], Zone]
    check: Callable[[str, bytes], tuple[Problem, ...]]
    """Every problem of one file, given its landing key and content; warnings too."""
    job: str
    asset_of: Callable[[str], tuple[str, ...] | None]
    """The asset key of a dataset; None if it has none of its own and comes with any run."""
    places: Callable[[Settings], tuple[tuple[str, str], ...]]
    """Where loaded and refused files go: a word and a URL each."""
    tables: tuple[str, ...]
    """The tables a run fills, as a person would query them."""
    prefix_of: Callable[[str], str] = lambda _dataset: ""
    """Under which prefix of the landing zone the files of a dataset arrive."""
    take_over: Callable[[Database, bool], tuple[str, ...]] = lambda _database, _dry_run: ()
    """Take over another system's tables in the database, or (True) only say what would be; lines that tell of it, none if none is there."""
