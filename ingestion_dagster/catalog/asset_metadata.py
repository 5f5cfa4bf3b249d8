"""What the assets of a refresh tell of themselves in Dagster: rows, seconds, statuses, and what each is looked at for."""

from typing import Any

import dagster as dg

from ingestion_dagster.catalog.places import search_url, shown
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import PIPELINE, filtered_name, index_name
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.catalog.tables import LIVE, NEXT
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.checks import table
from ingestion_dagster.engine.dagster import column_schema, status_table

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'never null' ELSE '' END
FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def asset_key(model: str, name: str) -> dg.AssetKey:
    """The key of an asset of a media type."""
    return dg.AssetKey([PIPELINE, model, name])


def materialized(work: Work, name: str, told: dict[str, Any]) -> dg.MaterializeResult[Any]:
    """The vocabulary that every materialization carries, and what is told of this asset besides."""
    refresh = work.refresh
    statuses = [
        row
        for row in whereabouts.status_counts(work.connection, PIPELINE, [refresh.suffix])
        if row["dataset"] in (refresh.model, work.media.index_dataset)
    ]
    of_refresh = [row for row in statuses if row["dataset"] == refresh.model]
    rows = int(told.pop("rows", 0))
    common = {
        "dagster/row_count": rows,
        "dagster/partition_row_count": rows,
        "loads_archived": sum(row["loads"] for row in of_refresh if row["status"] == "archived"),
        "loads_errored": sum(row["loads"] for row in of_refresh if row["status"] == "errored"),
        "rows_in": told.pop("rows_in", rows),
        "rows_written": rows,
        "rows_rejected": told.pop("rows_rejected", 0),
        "bytes": told.pop("bytes", 0),
        "seconds": told.pop("seconds", 0.0),
        "refresh_state": refresh.state,
        "load_statuses": status_table(statuses),
    }
    first = {"report": told.pop("report")} if "report" in told else {}
    return dg.MaterializeResult(asset_key(refresh.model, name), metadata=first | common | told)


def _columns(work: Work, schema: str) -> dg.TableSchema:
    """The columns of a media type's table as they stand in the API's database."""
    with work.places.api.connect() as api:
        return column_schema(api.execute(COLUMNS, [f"{schema}.{work.media.table.name}"]).fetchall())


def _tables(refresh: Refresh) -> dict[str, dict[str, Any]]:
    return dict(refresh.counts.get("tables", {}))


def _rows(refresh: Refresh) -> int:
    return sum(each["rows"] for each in _tables(refresh).values())


def of_snapshot(work: Work, refresh: Refresh) -> dict[str, Any]:
    """What upstream held at the moment of the copy."""
    tables = _tables(refresh)
    return {
        "rows": sum(each["upstream_rows"] for each in tables.values()),
        "seconds": refresh.counts.get("copy_seconds", 0.0),
        "snapshot_at": refresh.counts.get("snapshot_at", ""),
        "tables": table(("table", "rows", "checksum"), [(name, each["upstream_rows"], each["checksum"]) for name, each in tables.items()]),
        "by_provider": table(("provider", "rows"), sorted(tables[work.media.table.name]["by_provider"].items())),
    }


def of_staged_table(work: Work, refresh: Refresh) -> dict[str, Any]:
    """What of it was staged, cleaned, and had an id already."""
    tables = _tables(refresh)
    own = tables[work.media.table.name]
    return {
        "rows": _rows(refresh),
        "rows_in": sum(each["upstream_rows"] for each in tables.values()),
        "rows_rejected": sum(each["deleted"] for each in tables.values()),
        "bytes": sum(each["bytes"] for each in tables.values()),
        "seconds": refresh.counts.get("copy_seconds", 0.0),
        "cleaned_rows": own["cleaned"],
        "fixes": table(("rule", "values"), sorted(own["fixes"].items())),
        "ids_kept": own["kept_ids"],
        "ids_new": own["new_ids"],
        "dagster/column_schema": _columns(work, NEXT),
    }


def of_fixes(work: Work, refresh: Refresh) -> dict[str, Any]:
    """How many values cleaning changed, by rule."""
    own = _tables(refresh)[work.media.table.name]
    return {
        "rows": sum(own["fixes"].values()),
        "rows_in": own["upstream_rows"],
        "cleaned_rows": own["cleaned"],
        "seconds": refresh.counts.get("copy_seconds", 0.0),
        "by_rule": table(("rule", "values"), sorted(own["fixes"].items())),
    }


def of_staged_indexes(_work: Work, refresh: Refresh) -> dict[str, Any]:
    """How many indexes and constraints the staged table has."""
    counts = refresh.counts
    return {"indexes": counts.get("indexes", 0), "seconds": counts.get("index_seconds", 0.0), "rows": _rows(refresh)}


def of_search_index(work: Work, refresh: Refresh) -> dict[str, Any]:
    """How many documents the main index took, and how fast."""
    return _of_index(work, refresh, index_name(refresh.model, refresh.suffix), "documents")


def of_filtered_index(work: Work, refresh: Refresh) -> dict[str, Any]:
    """The same of the filtered index."""
    if not refresh.filtered:
        return {"rows": 0, "left_out": "this refresh was asked for without a filtered index"}
    return _of_index(work, refresh, filtered_name(refresh.model, refresh.suffix), "filtered")


def _of_index(work: Work, refresh: Refresh, index: str, counted: str) -> dict[str, Any]:
    filled = dict(refresh.counts.get("fill", {}))
    documents = filled.get(counted, 0)
    return {
        "rows": documents,
        "rows_in": filled.get("rows_read", documents),
        "rows_rejected": filled.get("dead", 0),
        "bytes": filled.get("bytes", 0),
        "seconds": filled.get("seconds", 0.0),
        "dagster/uri": f"{shown(search_url(work.places.settings)).rstrip('/')}/{index}",
        "documents_per_second": round(documents / filled["seconds"]) if filled.get("seconds") else 0,
        "retries": filled.get("retries", 0),
    }


def of_promotion(work: Work, refresh: Refresh) -> dict[str, Any]:
    """What the swap did, with the report of the whole refresh."""
    from ingestion_dagster.catalog import report

    swap = dict(refresh.counts.get("promotion", {}))
    return {
        "rows": _rows(refresh),
        "alias": refresh.alias,
        "dagster/column_schema": _columns(work, LIVE),
        "caches": refresh.counts.get("caches", ""),
        "report": dg.MetadataValue.md(report.markdown(work.media.name, refresh.suffix, refresh.counts)),
        **{name: value for name, value in swap.items() if isinstance(value, int | float | str)},
    }


def of_retirement(_work: Work, gone: dict[str, Any]) -> dict[str, Any]:
    """What was dropped."""
    return {name: str(value) for name, value in gone.items()}
