"""`make dev`: the Dagster UI on the embedded default, with this project's Dagster home."""

import argparse
import os
import signal
import sys
from pathlib import Path

from dotenv import load_dotenv

from ingestion_dagster import surroundings
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.dagster import open_instance
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.sandbox import opensearch
from ingestion_dagster.settings import Settings, current


def main() -> None:
    """Prepare what the UI needs and become `dagster dev`; arguments but for `--search opensearch` are passed on.

    With that, a real OpenSearch stands in for the search cluster, and ends when the UI does.
    """
    parser = argparse.ArgumentParser(prog="python -m ingestion_dagster.dev", add_help=False, allow_abbrev=False)
    parser.add_argument("--search", choices=["opensearch"])
    ours, passed_on = parser.parse_known_args()
    load_dotenv(Path.cwd() / ".env", override=False)
    # Started in the background by a script, it would hand on that interrupts are ignored, and Dagster's processes would not end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = current()
    os.environ["INGESTION_HOME"] = str(settings.home_folder)
    if ours.search:
        _start_search(settings)
        settings = current()
    prepare_dagster_home(settings)
    open_instance().dispose()
    postgres.ready(settings)
    for line in surroundings.prepare(settings):
        print(line, flush=True)
    form = ["--log-format", "json"] if settings.log_format == "json" else []
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", "3000", *form, *passed_on]
    os.execv(sys.executable, command)  # noqa: S606 - a list of our own


def _start_search(settings: Settings) -> None:
    """Start OpenSearch for this process, which is `dagster dev` later on, and set its URL for those that it starts."""
    if settings.environment == "production":
        sys.exit("production has no sandbox: set INGESTION_CATALOG_SEARCH_URL to its search cluster")
    try:
        node = opensearch.start(settings.home_folder, owned=True)
    except ConfigurationError as error:
        sys.exit(str(error))
    os.environ["INGESTION_CATALOG_SEARCH_URL"] = node.url
    print(f"catalog: OpenSearch of the sandbox answers at {node.url}", flush=True)


if __name__ == "__main__":
    main()
