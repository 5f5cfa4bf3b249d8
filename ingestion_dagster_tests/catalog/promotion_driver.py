"""A process that promotes, or rolls back, and that a test kills at a fault point: SUFFIX (empty: rollback) and the fake engine's file."""

import sys
from pathlib import Path

from ingestion_dagster.catalog import promotion, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.settings import current
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, FileSearch


def main(suffix: str, state: str) -> None:
    places = Places.of(current())
    engine = FileSearch(Path(state))
    with places.ledger.connect() as ledger:
        if suffix:
            promotion.promote(places, engine, ledger, IMAGE, refreshes.get(ledger, "image", suffix), "killed")
        else:
            promotion.rollback(places, engine, ledger, IMAGE, "killed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
