"""The gates of a promotion: what must hold of a staged table and its indexes before readers get them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg import sql

from ingestion_dagster.catalog import comparison, copy_errors, figures, gates_sql
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE, NEXT, TableSpec
from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

GATES: Mapping[str, str] = {
    "staged_rows": "The staged tables hold the rows that the copy counted and those carried in since, less what moderation has deleted.",
    "document_count": "The search index holds a document for each staged row that readers may find, and no other.",
    "filtered_count": "The filtered index holds as many of these as are not sensitive.",
    "mapping_version": "Both indexes were made for this refresh, with the settings and mappings of this version.",
    "rows_fell": "No table has lost a larger share of its rows than is allowed.",
    "provider_fell": "No provider has lost a larger share of its rows than is allowed.",
    "null_values": "Columns that rows should fill are filled, in as large a share of them as in the live table.",
    "repeated_values": "Columns that hold a value once hold it once.",
    "definitions_differ": "Every index and constraint of the live tables is on the staged ones, under its name.",
    "golden_queries": "Queries that must find something find it.",
    "documents_differ": "Documents read back from the index are what their rows say, field by field.",
    "sensitive_documents": "Of these, the filtered index holds those that have no sensitive term.",
    "dead_documents": "The indexes have refused no more documents than is allowed.",
}
"""The gates by name, in the order in which they are judged."""

SMALL_PROVIDER = 10
"""Rows below which a provider's fall says nothing: one row of five is 20 %."""

Counts = Mapping[str, int]
"""Rows by provider; those without one under an empty name."""

NULL_SHARE = 0.001
"""By how much the share of rows without a value may grow."""

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: its name, which is the code of the problem if it is shut, what was found with the next step, and figures."""

    name: str
    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class CopiedTable(Protocol):
    """What a copy tells of a table."""

    @property
    def table(self) -> str:
        """Its name."""

    @property
    def by_provider(self) -> Mapping[str, int]:
        """Its staged rows by provider."""

    @property
    def live_by_provider(self) -> Mapping[str, int]:
        """Rows of the live table by provider."""


def judged(places: Places, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh) -> list[Gate]:
    """Every gate of a refresh that is filled, judged now. `connection` leads to the ledger's database."""
    with places.api.connect() as api:
        settings = places.settings
        return [
            staged_rows(api, connection, media, refresh),
            *document_counts(api, engine, connection, media, refresh),
            mapping_version(engine, media, refresh, settings),
            *row_falls(media, _counts_of(api, media, LIVE), _counts_of(api, media, NEXT), settings),
            *values(api, media),
            definitions(api, media),
            golden_queries(api, engine, connection, media, refresh),
            documents_differ(api, engine, connection, media, refresh, settings),
            sensitive_documents(api, engine, connection, media, refresh, settings),
            dead_documents(connection, refresh, settings),
        ]


def falls(places: Places, media: MediaType, copied: Sequence[CopiedTable]) -> tuple[Problem, ...]:
    """What stops a refresh right after its copy: tables or providers that have lost too many rows, columns without values."""
    before = {each.table: each.live_by_provider for each in copied}
    found = row_falls(media, before, {each.table: each.by_provider for each in copied}, places.settings)
    with copy_errors.told(copy_errors.API, media.name), places.api.connect() as api:
        found.append(nulls(api, media))
    return tuple(Problem(gate.name, media.name, gate.description) for gate in found if not gate.passed)


def staged_rows(api: Connection, connection: Connection, media: MediaType, refresh: Refresh) -> Gate:
    """Whether the staged tables are whole: moderation may have taken rows once a promotion was begun, and nothing else may have."""
    counted = {name: int(table["rows"]) for name, table in (refresh.counts.get("tables") or {}).items()}
    if media.table.name in counted:
        counted[media.table.name] += figures.carried(connection, refresh)[0]
    told: dict[str, Any] = {}
    wrong = []
    for table in media.tables:
        found = figures.rows(api, table)
        less = figures.taken_at_most(api, connection, table, refresh)
        told[table.name] = {"rows": found, "counted": counted.get(table.name), "moderated_at_most": less}
        if table.name not in counted or not counted[table.name] - less <= found <= counted[table.name]:
            wrong.append(f"{table.name}: {found:,} rows, of {counted.get(table.name, 0):,}")
    return Gate(
        "staged_rows",
        not wrong,
        f"{'; '.join(wrong)}: the copy is not whole; discard this refresh and start another" if wrong else "all copied rows are there",
        told,
    )


def document_counts(api: Connection, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh) -> Iterator[Gate]:
    """Both counts, exactly: rows that readers may find are documents or were refused; what was moderated since may be either."""
    index, filtered = index_name(refresh.model, refresh.suffix), filtered_name(refresh.model, refresh.suffix)
    most, least = figures.expected_documents(api, media.table)
    dead = figures.dead_of(connection, index)
    found = engine.count(index)
    passed = least <= found + dead <= most
    told = {"documents": found, "expected": most, "moderated_since": most - least, "dead": dead}
    wanted = f"{most:,}" if most == least else f"{least:,} to {most:,}"
    yield Gate(
        "document_count",
        passed,
        f"{found:,} documents and {dead:,} refused, for {wanted} rows"
        + ("" if passed else ": the index is not whole; discard this refresh and start another"),
        told,
    )
    if not refresh.filtered:
        yield Gate("filtered_count", True, "this refresh has no filtered index")
        return
    filled = figures.filled(connection, refresh)
    held = engine.count(filtered)
    less = figures.taken_at_most(api, connection, media.table, refresh)
    passed = (
        filled is not None
        and held <= found
        and 0 <= filled["documents"] - found <= less
        and 0 <= filled["filtered"] - held <= filled["documents"] - found
    )
    sensitive = found - held
    yield Gate(
        "filtered_count",
        passed,
        f"{held:,} documents, {sensitive:,} of {found:,} left out as sensitive"
        + ("" if passed else f"; while filling, and carrying changes, {_of(filled)} were counted: discard this refresh and start another"),
        {"documents": held, "sensitive": sensitive, "filled": filled or {}},
    )


def mapping_version(engine: SearchEngine, media: MediaType, refresh: Refresh, settings: Settings) -> Gate:
    """Whether the labels of both indexes say that they are of this refresh, and of the mapping that this version searches with."""
    version, fields = media.mapping.version, sorted(set(settings.catalog_fields.get(media.name, ())))
    names = [index_name(refresh.model, refresh.suffix)]
    names += [filtered_name(refresh.model, refresh.suffix)] if refresh.filtered else []
    labels = {name: engine.label(name) for name in names}
    wanted = (refresh.suffix, version, fields)
    other = [name for name, label in labels.items() if (label.get("refresh"), label.get("mapping"), label.get("fields", [])) != wanted]
    return Gate(
        "mapping_version",
        not other,
        f"{', '.join(other)} {'was' if len(other) == 1 else 'were'} made by another refresh or with another mapping: "
        "discard this refresh and start another"
        if other
        else f"mapping {version}",
        {"version": version, "labels": {name: dict(label) for name, label in labels.items()}},
    )


def row_falls(media: MediaType, live: Mapping[str, Counts], staged: Mapping[str, Counts], settings: Settings) -> list[Gate]:
    """How far tables and their providers have fallen, by rows per table and provider. A first refresh, and a new provider, cannot fall."""
    rows, providers = [], []
    told: dict[str, Any] = {}
    for table in media.tables:
        before, after = live.get(table.name, {}), staged.get(table.name, {})
        old, new = sum(before.values()), sum(after.values())
        told[table.name] = {"before": old, "after": new, "percent": round(_fall(old, new), 3)}
        if _fall(old, new) > settings.catalog_fall_percent:
            rows.append(f"{table.name}: {new:,} rows, live {old:,} ({-_fall(old, new):.1f} %)")
        for provider, count in sorted(before.items()):
            left = after.get(provider, 0)
            if count >= SMALL_PROVIDER and _fall(count, left) > settings.catalog_provider_fall_percent:
                providers.append(f"{table.name} of {provider or 'no provider'}: {left:,} rows, live {count:,}")
    return [
        Gate(
            "rows_fell",
            not rows,
            f"{'; '.join(rows)}: look upstream; if it is meant, raise INGESTION_CATALOG_FALL_PERCENT ({settings.catalog_fall_percent:g})"
            if rows
            else "no table has fallen too far",
            {"tables": told},
        ),
        Gate(
            "provider_fell",
            not providers,
            f"{_few(providers)}: look upstream; if it is meant, raise INGESTION_CATALOG_PROVIDER_FALL_PERCENT "
            f"({settings.catalog_provider_fall_percent:g})"
            if providers
            else "no provider has fallen too far",
            {"fallen": providers},
        ),
    ]


def nulls(api: Connection, media: MediaType) -> Gate:
    """Nulls in columns that rows should fill: no larger a share of them than in the live table, or little more."""
    (rows, without), (live_rows, live) = (_nulls(api, schema, media.table, media.filled) for schema in (NEXT, LIVE))
    empty = []
    for column, count in without.items():
        before = live[column] / live_rows if live_rows else 0.0
        if rows and count / rows > before + NULL_SHARE:
            empty.append(f"{column}: {count:,} of {rows:,}, live {100 * before:.2f} %")
    return Gate(
        "null_values",
        not empty,
        f"rows without a value in {'; '.join(empty)}: correct them upstream" if empty else f"{', '.join(media.filled)} are filled",
        {"rows": rows, "nulls": without, "rates": {column: count / rows if rows else 0.0 for column, count in without.items()}},
    )


def values(api: Connection, media: MediaType) -> list[Gate]:
    """Nulls in columns that rows should fill, and values that are there twice in columns that hold each once."""
    table = media.table
    repeated = {column: _repeated(api, table, column) for column in media.unique}
    twice = [f"{column}: {count:,}" for column, count in repeated.items() if count]
    return [
        nulls(api, media),
        Gate(
            "repeated_values",
            not twice,
            f"values that are there more than once in {'; '.join(twice)}: correct them upstream" if twice else _once(media.unique),
            {"repeated": repeated},
        ),
    ]


def definitions(api: Connection, media: MediaType) -> Gate:
    """Whether the staged tables have every index and constraint of the live ones."""
    from ingestion_dagster.catalog import staging

    found = staging.differences(api, media)
    lines = [f"{problem.code} ({problem.place}): {problem.message}" for problem in found]
    return Gate(
        "definitions_differ",
        not found,
        f"{_few(lines)}; materialize staged_indexes again" if found else "all indexes and constraints are there",
        {"differences": lines},
    )


def golden_queries(api: Connection, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh) -> Gate:
    """Whether queries of the registry find something, if there is a row for them, and some titles the documents that have them."""
    index = index_name(refresh.model, refresh.suffix)
    asked, failed = [], []
    for golden in media.golden:
        if _exists(api, media.table, golden.made_for):
            asked.append(golden.name)
            if not engine.search(index, golden.query).total:
                failed.append(golden.name)
    for known in comparison.known_titles(api, media, refresh.suffix, figures.refused_of(connection, index)):
        asked.append(f"the title of document {known.id}")
        if not comparison.is_found(engine, index, known):
            failed.append(f"document {known.id} by its title")
    return Gate(
        "golden_queries",
        not failed,
        f"not found: {_few(failed)}; compare what the index does with these words, then discard this refresh and start another"
        if failed
        else f"{len(asked)} queries find what they must",
        {"asked": asked, "failed": failed},
    )


def documents_differ(
    api: Connection, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh, settings: Settings
) -> Gate:
    """Whether documents, read back by id, are what is computed from their rows by other code than that which filled the index."""
    fields = tuple(settings.catalog_fields.get(media.name, ()))
    index = index_name(refresh.model, refresh.suffix)
    compared, lines = comparison.differences(api, engine, media, refresh.suffix, fields, refused=figures.refused_of(connection, index))
    return Gate(
        "documents_differ",
        not lines,
        f"{_few(lines)}; the index was filled from other rows or by another version: discard this refresh and start another"
        if lines
        else f"{compared:,} documents are as their rows say",
        {"compared": compared, "differing": lines[:_MOST_NAMED]},
    )


def sensitive_documents(
    api: Connection, engine: SearchEngine, connection: Connection, media: MediaType, refresh: Refresh, settings: Settings
) -> Gate:
    """Whether documents read back are in the filtered index if, and only if, they have no sensitive term. No term is told."""
    from ingestion_dagster.catalog import sensitive

    if not refresh.filtered:
        return Gate("sensitive_documents", True, "this refresh has no filtered index")
    made_with = (refresh.counts.get("fill") or {}).get("terms")
    if made_with is not None and made_with != sensitive.fingerprint_of(settings):
        return Gate("sensitive_documents", True, "the list of terms has changed since; the filtered index is made anew after the promotion")
    refused = figures.refused_of(connection, filtered_name(refresh.model, refresh.suffix))
    terms = sensitive.load(settings)
    compared, lines = comparison.filtered_differences(api, engine, media, refresh.suffix, terms.found_in, refused=refused)
    return Gate(
        "sensitive_documents",
        not lines,
        f"{_few(lines)}; discard this refresh and start another" if lines else f"{compared:,} documents are where they belong",
        {"compared": compared, "differing": lines[:_MOST_NAMED]},
    )


def dead_documents(connection: Connection, refresh: Refresh, settings: Settings) -> Gate:
    """How many documents the indexes have refused for good."""
    names = [index_name(refresh.model, refresh.suffix), filtered_name(refresh.model, refresh.suffix)]
    codes: dict[str, int] = dict(connection.execute(gates_sql.DEAD_BY_CODE, {"indexes": names}).fetchall())
    dead = int((connection.execute(gates_sql.DEAD_DOCUMENTS, {"indexes": names}).fetchone() or (0,))[0])
    limit = settings.catalog_dead_documents
    return Gate(
        "dead_documents",
        dead <= limit,
        f"{dead:,} documents were refused"
        + ("" if dead <= limit else f", {limit:,} may be (INGESTION_CATALOG_DEAD_DOCUMENTS): catalog.dead_letters says which and why"),
        {"dead": dead, "limit": limit, "by_code": codes},
    )


def _counts_of(api: Connection, media: MediaType, schema: str) -> dict[str, dict[str, int]]:
    return {table.name: _counts(api, schema, table) for table in media.tables}


def _counts(api: Connection, schema: str, table: TableSpec) -> dict[str, int]:
    if api.execute(gates_sql.HAS_PROVIDER, {"relation": f"{schema}.{table.name}"}).fetchone() is None:
        return {}
    statement = gates_sql.BY_PROVIDER.format(relation=sql.Identifier(schema, table.name))
    return dict(api.execute(statement).fetchall())


def _nulls(api: Connection, schema: str, table: TableSpec, columns: Sequence[str]) -> tuple[int, dict[str, int]]:
    counted = [sql.SQL("count({})").format(sql.Identifier(column)) for column in columns]
    statement = sql.SQL("SELECT count(*), {} FROM {}").format(sql.SQL(", ").join(counted), sql.Identifier(schema, table.name))
    rows, *filled = api.execute(statement).fetchone() or (0, *(0 for _ in columns))
    return rows, {column: rows - count for column, count in zip(columns, filled, strict=True)}


def _repeated(api: Connection, table: TableSpec, column: str) -> int:
    """Values that are there more than once. A valid unique index of the column alone says none without a look at the rows."""
    relation = f"{NEXT}.{table.name}"
    if api.execute(gates_sql.IS_UNIQUE, {"relation": relation, "column": column}).fetchone() == (True,):
        return 0
    statement = gates_sql.REPEATED.format(column=sql.Identifier(column), relation=sql.Identifier(NEXT, table.name))
    return int((api.execute(statement).fetchone() or (0,))[0])


def _exists(api: Connection, table: TableSpec, condition: str) -> bool:
    parts = {"relation": sql.Identifier(NEXT, table.name), "deleted": comparison.moderated(api, table.deleted)}
    statement = gates_sql.EXISTS.format(condition=sql.SQL(condition), **parts)
    return api.execute(statement).fetchone() == (True,)


def _fall(before: int, after: int) -> float:
    return 100 * (before - after) / before if before else 0.0


def _of(filled: Mapping[str, int] | None) -> str:
    return f"{filled['documents']:,} and {filled['filtered']:,}" if filled else "none"


def _once(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)}: each value once"


def _few(lines: Sequence[str]) -> str:
    more = len(lines) - _MOST_NAMED
    return "; ".join(lines[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
