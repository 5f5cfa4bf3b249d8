"""The assets of a refresh, a chain for each media type: copied, indexed, filled, checked, promoted, retired."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ingestion_dagster.catalog import admission, asset_metadata, failures, refreshes, standing, steps
from ingestion_dagster.catalog.asset_metadata import asset_key
from ingestion_dagster.catalog.checks import GATE_SPECS, gate_results
from ingestion_dagster.catalog.partitions import REFRESHES
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES, PIPELINE, MediaType
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.catalog.tables import LIVE, NEXT, TableSpec
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.alerting import errored_loads_alert, failed_checks_alert
from ingestion_dagster.engine.checks import failed_names
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import OWNERS, RETRY_STEP, Ingestion
from ingestion_dagster.engine.errors import ConfigurationError, Refused

UPSTREAM_SNAPSHOT, STAGED_TABLE, FIXES, STAGED_INDEXES = "upstream_snapshot", "staged_table", "fixes", "staged_indexes"
SEARCH_INDEX, FILTERED_INDEX, PROMOTED, RETIRED = "search_index", "filtered_index", "promoted", "retired"


@dataclass(frozen=True, slots=True)
class _Asset:
    """What a step makes: after which assets, of what kinds, and what is told of it, given what the step returned."""

    name: str
    description: str
    after: tuple[str, ...]
    kinds: frozenset[str]
    told: Callable[[Work, Any], dict[str, Any]]
    table: Callable[[MediaType], str] | None = None
    only_cleaned: bool = False
    """Media types whose rows are not cleaned have none."""

    def spec(self, media: MediaType) -> dg.AssetSpec:
        after = [asset_key(media.name, name) for name in self.after] or [_upstream_key(each) for each in media.tables]
        return dg.AssetSpec(
            key=asset_key(media.name, self.name),
            deps=after,
            description=self.description,
            group_name=PIPELINE,
            kinds=set(self.kinds),
            owners=OWNERS,
            metadata={"dagster/table_name": self.table(media)} if self.table else {},
            skippable=False,
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of every refresh. `begins`: a partition that is no refresh yet becomes one. `of_any`: also of a refresh that has ended."""

    name: str
    do: Callable[[Work], Any]
    makes: tuple[_Asset, ...]
    begins: bool = False
    of_any: bool = False


_POSTGRES, _TABLE, _SEARCH = frozenset({"postgres"}), frozenset({"postgres", "table"}), frozenset({"opensearch"})

_COPY = _Step(
    "copy",
    steps.copy,
    (
        _Asset(
            UPSTREAM_SNAPSHOT,
            "Upstream rows as of one moment: how many, of which provider, and what a copy of them adds up to.",
            (),
            _POSTGRES,
            asset_metadata.of_snapshot,
        ),
        _Asset(
            STAGED_TABLE,
            "These rows, cleaned, with the ids they have always had, in a schema that no reader looks into.",
            (UPSTREAM_SNAPSHOT,),
            _TABLE,
            asset_metadata.of_staged_table,
            table=lambda media: f"{NEXT}.{media.table.name}",
        ),
        _Asset(
            FIXES,
            "Every value that cleaning changed, before and after, with its rule: for upstream to correct, so that it is not changed again.",
            (UPSTREAM_SNAPSHOT,),
            _TABLE,
            asset_metadata.of_fixes,
            table=lambda _media: "catalog.fixes",
            only_cleaned=True,
        ),
    ),
    begins=True,
)
_INDEX = _Step(
    "index",
    steps.index_staged,
    (
        _Asset(
            STAGED_INDEXES,
            "Every index and constraint of the live table on the staged one, under its name.",
            (STAGED_TABLE,),
            _POSTGRES,
            asset_metadata.of_staged_indexes,
        ),
    ),
)
_FILL = _Step(
    "fill",
    steps.fill,
    (
        _Asset(
            SEARCH_INDEX,
            "A document for each staged row that readers may find, filled by id ranges; any number of runs may help.",
            (STAGED_INDEXES,),
            _SEARCH,
            asset_metadata.of_search_index,
        ),
        _Asset(
            FILTERED_INDEX,
            "The same without documents that hold sensitive terms, filled in the same pass.",
            (STAGED_INDEXES,),
            _SEARCH,
            asset_metadata.of_filtered_index,
        ),
    ),
)
_PROMOTE = _Step(
    "promotion",
    steps.promote,
    (
        _Asset(
            PROMOTED,
            "What readers get: tables and aliases swapped together, once every check has passed. The generation before is kept.",
            (SEARCH_INDEX, FILTERED_INDEX),
            _POSTGRES | _SEARCH,
            asset_metadata.of_promotion,
            table=lambda media: f"{LIVE}.{media.table.name}",
        ),
    ),
)
_RETIRE = _Step(
    "retire",
    steps.retire,
    (
        _Asset(
            RETIRED,
            "What is older than the generation before, and what failed refreshes have left: dropped. Never what an alias leads to.",
            (PROMOTED,),
            _POSTGRES | _SEARCH,
            asset_metadata.of_retirement,
        ),
    ),
    of_any=True,
)

STEPS = (_COPY, _INDEX, _FILL, _PROMOTE, _RETIRE)
"""The steps of a refresh, in their order; the gates stand before the promotion."""


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


def _upstream_key(table: TableSpec) -> dg.AssetKey:
    return dg.AssetKey([PIPELINE, "upstream", table.upstream])


def chain(media: MediaType) -> Chain:
    """The chain of a media type."""
    model = media.name
    sources = [
        dg.AssetSpec(
            key=_upstream_key(each),
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

    return Chain(sources, alias, [_step(media, step) for step in STEPS], _gates(media))


def _step(media: MediaType, step: _Step) -> dg.AssetsDefinition:
    """A step of a media type's chain."""
    makes = [asset for asset in step.makes if media.table.cleaned or not asset.only_cleaned]

    @dg.multi_asset(
        name=f"catalog_{media.name}_{step.name}_step",
        specs=[asset.spec(media) for asset in makes],
        partitions_def=REFRESHES[media.name],
        retry_policy=RETRY_STEP,
        can_subset=len(makes) > 1,
    )
    def does(context: dg.AssetExecutionContext, ingestion: Ingestion) -> Iterator[Any]:
        with _work(context, ingestion, media, begins=step.begins) as work:
            if not step.of_any:
                _refuse_ended(work)
            done = step.do(work)
            for asset in makes:
                if asset_key(media.name, asset.name) in context.selected_asset_keys:
                    yield asset_metadata.materialized(work, asset.name, asset.told(work, done))

    return does


def _gates(media: MediaType) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(name=f"catalog_{media.name}_gates", specs=GATE_SPECS[media.name], can_subset=False)
    def gates(context: dg.AssetCheckExecutionContext, ingestion: Ingestion) -> Iterator[dg.AssetCheckResult]:
        with failures.shown(then="nothing is promoted, the next run judges it"):
            yield from _judged(ingestion, media, context.run)

    return gates


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


CHAINS = {model: chain(media) for model, media in MEDIA_TYPES.items()}
"""The chains by media type."""
