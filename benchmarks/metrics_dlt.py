"""The peer: dlt loads metric files into two flat tables. Runs by itself, with the interpreter of `.venv/bench`.

Arguments: `append` or `merge` (upsert by series and date), the folder of the files, a folder for dlt's own state, and where the database
is (JSON: host, port, user, dbname). Without arguments it imports what it needs and ends: what a start costs. A series is a number, as in
the floor's tables: dlt is asked for no rule, no ledger and no dimension.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt  # type: ignore[import-not-found,unused-ignore]
import orjson
import psycopg2  # noqa: F401 - part of a start: the destination imports it when it is first used


def points(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The points of each file as flat rows."""
    for number, path in enumerate(sorted(folder.iterdir())):
        payload = orjson.loads(path.read_bytes())
        yield [
            {
                "series_id": number,
                "refresh_date": payload["refresh_date"],
                "embargo": point["embargo"],
                "date": point["date"],
                "epiweek": int(point["epiweek"]),
                "metric_value": point["metric_value"],
                "in_reporting_delay_period": point["in_reporting_delay_period"],
            }
            for point in payload["time_series"]
        ]


def load(disposition: str, folder: Path, state: Path, database: dict[str, Any]) -> None:
    """One run of one pipeline with two resources."""
    os.environ["DLT_DATA_DIR"] = str(state)
    credentials = {
        "drivername": "postgresql",
        "host": "localhost",
        "port": int(database["port"]),
        "username": database["user"],
        "password": database.get("password", "none"),
        "database": database["dbname"],
        "query": {"host": database["host"]},  # a folder stands in no other part of a URL
    }
    columns: Any = {
        "refresh_date": {"data_type": "timestamp"},
        "embargo": {"data_type": "timestamp"},
        "date": {"data_type": "date"},
        "metric_value": {"data_type": "decimal", "precision": 11, "scale": 4},
    }
    how: Any = {"write_disposition": "append"}
    if disposition == "merge":
        how = {"write_disposition": {"disposition": "merge", "strategy": "upsert"}, "primary_key": ["series_id", "date"]}
    core = dlt.resource(points(folder), name="core", columns=columns, **how)
    api = dlt.resource(points(folder), name="api", columns=columns | {"metric_value": {"data_type": "double"}}, **how)
    pipeline = dlt.pipeline(
        "metrics", pipelines_dir=str(state), destination=dlt.destinations.postgres(credentials=credentials), dataset_name="peer"
    )
    pipeline.run([core, api], loader_file_format="csv").raise_on_failed_jobs()


if __name__ == "__main__" and len(sys.argv) > 1:
    load(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
