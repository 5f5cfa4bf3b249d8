"""What the pipelines need around them on a laptop before Dagster is started: folders to put files into, and stand-ins."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings


def prepare(settings: Settings) -> Iterator[str]:
    """Make the folders that are watched, start the stand-ins that these settings need, and yield a line on each."""
    for pipeline in PIPELINES.values():
        if pipeline.keyed is not None:
            continue
        watched = pipeline.watched(settings) if pipeline.watched else (pipeline.zone(settings).landing.url,)
        for folder in watched:
            if folder.startswith("file://"):
                Path(unquote(folder.removeprefix("file://"))).mkdir(parents=True, exist_ok=True)
        if names := pipeline.stand_ins(settings):
            for name, address in servers.up(settings.home_folder, settings.environment, names).items():
                yield f"{pipeline.name}: {name} of the sandbox answers at {address}"
        yield f"{pipeline.name}: files put into {' or '.join(watched)} are loaded within a minute"
