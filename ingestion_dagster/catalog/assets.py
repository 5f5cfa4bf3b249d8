"""The assets of a refresh, a chain for each media type: copied, indexed, filled, checked, promoted, retired."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ingestion_dagster.catalog import admission, failures, refreshes, standing, steps
from ingestion_dagster.catalog.checks import GATE_SPECS, gate_results
from ingestion_dagster.catalog.partitions import REFRESHES
from ingestion_dagster.catalog.places import Places, search_url, shown
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES, PIPELINE, MediaType, filtered_name, index_name
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.catalog.tables import LIVE, NEXT
from ingestion_dagster.engine import ledger, whereabouts
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert
from ingestion_dagster.engine.checks import failed_names, table
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import OWNERS, RETRY_STEP, Ingestion, status_table
from ingestion_dagster.engine.errors import ConfigurationError, Refused

UPSTREAM_SNAPSHOT, STAGED_TABLE, FIXES, STAGED_INDEXES = "upstream_snapshot", "staged_table", "fixes", "staged_indexes"
SEARCH_INDEX, FILTERED_INDEX, PROMOTED, RETIRED = "search_index", "filtered_index", "promoted", "retired"


def asset_key(model: str, name: str) -> dg.AssetKey:
    """The key of an asset of a media type."""
    return dg.AssetKey([PIPELINE, model, name])


def _spec(model: str, name: str, after: list[dg.AssetKey], kinds: set[str], description: str, **metadata: Any) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=asset_key(model, name),
        deps=after,
        description=description,
        group_name=PIPELINE,
        kinds=kinds,
        owners=OWNERS,
        metadata=metadata,
        skippable=False,
    )


def _fixes_spec(media: MediaType) -> list[dg.AssetSpec]:
    """What cleaning changed, as an asset of a media type that is cleaned."""
    if not media.table.cleaned:
        return []
    told = "Every value that cleaning changed, before and after, with its rule: for upstream to correct, so that it is not changed again."
    after = [asset_key(media.name, UPSTREAM_SNAPSHOT)]
    return [_spec(media.name, FIXES, after, {"postgres", "table"}, told, **{"dagster/table_name": "catalog.fixes"})]


@dataclass(frozen=True, slots=True)
class Chain:
    """The assets of one media type: what is outside at both ends, and the steps between."""

    upstream: list[dg.AssetSpec]
    alias: dg.AssetSpec
    steps: list[dg.AssetsDefinition]
    gates: dg.AssetChecksDefinition


@contextmanager
def _work(context: dg.AssetExecutionContext, ingestion: Ingestion, media: MediaType, *, begins: bool = False) -> Iterator[Work]:
    """The refresh of this run's partition, in this step's hands. What cannot be now fails the step, so that nothing follows from it.

    `begins`: a partition that is no refresh yet, since a person has added it, becomes one.
    """
    settings, run_id, suffix = ingestion.settings(), context.run.run_id, context.partition_key
    with failures.shown(then="readers have what they had, the next run goes on"):
        places = Places.of(settings)
        with places.ledger.connect() as connection:
            work = Work(places, connection, media, suffix, run_id, Limits.of(settings))
            admission.refuse_paused(connection, media.name)
            _known(work, begins=begins)
            try:
                yield work
            except Refused:
                errored_loads_alert(connection, settings, PIPELINE, run_id)
                raise


def _known(work: Work, *, begins: bool) -> None:
    """See to it that the partition is a refresh. Raises `ConfigurationError` with what to do if it is none."""
    model = work.media.name
    if any(each.suffix == work.suffix for each in refreshes.of_model(work.connection, model)):
        return
    if not begins:
        first = f"materialize {UPSTREAM_SNAPSHOT} and {STAGED_TABLE} of this partition first, which begins one"
        raise ConfigurationError(f"catalog has no refresh {work.suffix} of {model}: {first}, or 'ingestion run catalog --dataset {model}'")
    steps.begin(work.places, work.connection, work.media, work.run_id, asked_by="by hand in Dagster", suffix=work.suffix)


def _refuse_ended(work: Work) -> None:
    """Raises `ConfigurationError`, with what to do, for a refresh whose time has passed, or that stands refused."""
    refresh = work.refresh
    admission.refuse_bygone(refresh)
    (load,) = ledger.loads(work.connection, [refresh.load_id])
    if refresh.is_at_work and load.status is ledger.Status.ERRORED:
        raise ConfigurationError(f"refresh {refresh.suffix} of {refresh.model} {standing.on_its_way(work.connection, refresh)}")


def chain(media: MediaType) -> Chain:
    """The chain of a media type."""
    model = media.name
    partitions = REFRESHES[model]
    sources = [
        dg.AssetSpec(
            key=dg.AssetKey([PIPELINE, "upstream", each.upstream]),
            description=f"Table or view '{each.upstream}' of the upstream database, which providers' pipelines write.",
            group_name=PIPELINE,
            kinds={"postgres", "table"},
            owners=OWNERS,
            metadata={"setting": "INGESTION_CATALOG_UPSTREAM_URL"},
        )
        for each in media.tables
    ]
    alias = dg.AssetSpec(
        key=asset_key(model, "public_alias"),
        deps=[asset_key(model, PROMOTED)],
        description=f"What readers search: the aliases '{model}' and '{model}-filtered'.",
        group_name=PIPELINE,
        kinds={"opensearch"},
        owners=OWNERS,
        metadata={"setting": "INGESTION_CATALOG_SEARCH_URL"},
    )

    @dg.multi_asset(
        name=f"catalog_{model}_copy_step",
        specs=[
            _spec(
                model,
                UPSTREAM_SNAPSHOT,
                [spec.key for spec in sources],
                {"postgres"},
                "Upstream rows as of one moment: how many, of which provider, and what a copy of them adds up to.",
            ),
            _spec(
                model,
                STAGED_TABLE,
                [asset_key(model, UPSTREAM_SNAPSHOT)],
                {"postgres", "table"},
                "These rows, cleaned, with the ids they have always had, in a schema that no reader looks into.",
                **{"dagster/table_name": f"{NEXT}.{media.table.name}"},
            ),
            *_fixes_spec(media),
        ],
        partitions_def=partitions,
        retry_policy=RETRY_STEP,
        can_subset=True,
    )
    def copied(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media, begins=True) as work:
            _refuse_ended(work)
            refresh = steps.copy(work)
            parts = ((UPSTREAM_SNAPSHOT, _snapshot_metadata), (STAGED_TABLE, _staged_metadata), (FIXES, _fixes_metadata))
            for name, told in parts:
                if asset_key(model, name) in context.selected_asset_keys:
                    yield _materialized(work, refresh, name, told(media, refresh))

    @dg.multi_asset(
        name=f"catalog_{model}_index_step",
        specs=[
            _spec(
                model,
                STAGED_INDEXES,
                [asset_key(model, STAGED_TABLE)],
                {"postgres"},
                "Every index and constraint of the live table on the staged one, under its name.",
            )
        ],
        partitions_def=partitions,
        retry_policy=RETRY_STEP,
    )
    def indexed(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media) as work:
            _refuse_ended(work)
            refresh = steps.index_staged(work)
            counts = refresh.counts
            told = {"indexes": counts.get("indexes", 0), "seconds": counts.get("index_seconds", 0.0), "rows": _rows(refresh)}
            yield _materialized(work, refresh, STAGED_INDEXES, told)

    @dg.multi_asset(
        name=f"catalog_{model}_fill_step",
        specs=[
            _spec(
                model,
                SEARCH_INDEX,
                [asset_key(model, STAGED_INDEXES)],
                {"opensearch"},
                "A document for each staged row that readers may find, filled by id ranges; any number of runs may help.",
            ),
            _spec(
                model,
                FILTERED_INDEX,
                [asset_key(model, STAGED_INDEXES)],
                {"opensearch"},
                "The same without documents that hold sensitive terms, filled in the same pass.",
            ),
        ],
        partitions_def=partitions,
        retry_policy=RETRY_STEP,
        can_subset=True,
    )
    def filled(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media) as work:
            _refuse_ended(work)
            refresh = steps.fill(work)
            for name, index in ((SEARCH_INDEX, index_name), (FILTERED_INDEX, filtered_name)):
                if asset_key(model, name) in context.selected_asset_keys:
                    yield _materialized(work, refresh, name, _index_metadata(work, refresh, name, index(model, refresh.suffix)))

    @dg.multi_asset_check(name=f"catalog_{model}_gates", specs=GATE_SPECS[model], can_subset=False)
    def gates(context: dg.AssetCheckExecutionContext, ingestion: Ingestion) -> Iterator[dg.AssetCheckResult]:
        with failures.shown(then="nothing is promoted, the next run judges it"):
            yield from _judged(ingestion, media, context.run)

    @dg.multi_asset(
        name=f"catalog_{model}_promotion_step",
        specs=[
            _spec(
                model,
                PROMOTED,
                [asset_key(model, SEARCH_INDEX), asset_key(model, FILTERED_INDEX)],
                {"postgres", "opensearch"},
                "What readers get: tables and aliases swapped together, once every check has passed. The generation before is kept.",
                **{"dagster/table_name": f"{LIVE}.{media.table.name}"},
            )
        ],
        partitions_def=partitions,
        retry_policy=RETRY_STEP,
    )
    def promoted(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media) as work:
            _refuse_ended(work)
            refresh = steps.promote(work)
            yield _materialized(work, refresh, PROMOTED, _promotion_metadata(media, refresh))

    @dg.multi_asset(
        name=f"catalog_{model}_retire_step",
        specs=[
            _spec(
                model,
                RETIRED,
                [asset_key(model, PROMOTED)],
                {"postgres", "opensearch"},
                "What is older than the generation before, and what failed refreshes have left: dropped. Never what an alias leads to.",
            )
        ],
        partitions_def=partitions,
        retry_policy=RETRY_STEP,
    )
    def retired(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media) as work:
            gone = steps.retire(work)
            yield _materialized(work, work.refresh, RETIRED, {name: str(value) for name, value in gone.items()})

    return Chain(sources, alias, [copied, indexed, filled, promoted, retired], gates)


def _judged(ingestion: Ingestion, media: MediaType, run: dg.DagsterRun) -> list[dg.AssetCheckResult]:
    """What the gates say of the refresh of a run; without a partition, of the one on its way, or else of that which readers have."""
    settings, model, suffix = ingestion.settings(), media.name, run.tags.get("dagster/partition")
    places = Places.of(settings)
    with places.ledger.connect() as connection, closing(places.search()) as engine:
        going = refreshes.at_work(connection, model) or refreshes.live(connection, model)
        refresh = refreshes.get(connection, model, suffix) if suffix else going
        results = list(gate_results(places, engine, connection, media, refresh))
        if refresh is not None and refresh.state == "filled":
            work = Work(places, connection, media, refresh.suffix, run.run_id, Limits.of(settings))
            steps.note_gates(work, {each.check_name or "": str(each.metadata["found"].value) for each in results if not each.passed})
            failed_checks_alert(connection, settings, PIPELINE, run.run_id, failed_names(results))
    return results


def _materialized(work: Work, refresh: Refresh, name: str, told: dict[str, Any]) -> dg.MaterializeResult[Any]:
    """The vocabulary that every materialization carries, and what is told of this asset besides."""
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


def _tables(refresh: Refresh) -> dict[str, dict[str, Any]]:
    return dict(refresh.counts.get("tables", {}))


def _rows(refresh: Refresh) -> int:
    return sum(each["rows"] for each in _tables(refresh).values())


def _snapshot_metadata(media: MediaType, refresh: Refresh) -> dict[str, Any]:
    tables = _tables(refresh)
    return {
        "rows": sum(each["upstream_rows"] for each in tables.values()),
        "seconds": refresh.counts.get("copy_seconds", 0.0),
        "snapshot_at": refresh.counts.get("snapshot_at", ""),
        "tables": table(("table", "rows", "checksum"), [(name, each["upstream_rows"], each["checksum"]) for name, each in tables.items()]),
        "by_provider": table(("provider", "rows"), sorted(tables[media.table.name]["by_provider"].items())),
    }


def _staged_metadata(media: MediaType, refresh: Refresh) -> dict[str, Any]:
    tables = _tables(refresh)
    own = tables[media.table.name]
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
    }


def _fixes_metadata(media: MediaType, refresh: Refresh) -> dict[str, Any]:
    own = _tables(refresh)[media.table.name]
    return {
        "rows": sum(own["fixes"].values()),
        "rows_in": own["upstream_rows"],
        "cleaned_rows": own["cleaned"],
        "seconds": refresh.counts.get("copy_seconds", 0.0),
        "by_rule": table(("rule", "values"), sorted(own["fixes"].items())),
    }


def _index_metadata(work: Work, refresh: Refresh, name: str, index: str) -> dict[str, Any]:
    filled = dict(refresh.counts.get("fill", {}))
    if name == FILTERED_INDEX and not refresh.filtered:
        return {"rows": 0, "left_out": "this refresh was asked for without a filtered index"}
    documents = filled.get("filtered" if name == FILTERED_INDEX else "documents", 0)
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


def _promotion_metadata(media: MediaType, refresh: Refresh) -> dict[str, Any]:
    from ingestion_dagster.catalog import report

    swap = dict(refresh.counts.get("promotion", {}))
    return {
        "rows": _rows(refresh),
        "alias": refresh.alias,
        "caches": refresh.counts.get("caches", ""),
        "report": dg.MetadataValue.md(report.markdown(media.name, refresh.suffix, refresh.counts)),
        **{name: value for name, value in swap.items() if isinstance(value, int | float | str)},
    }


CHAINS = {model: chain(media) for model, media in MEDIA_TYPES.items()}
"""The chains by media type."""
