"""Draws what `docs/architecture.md` shows of the code, into the page: the moves of a load, layers, assets, jobs and partitions, the ledger.

`python -m tools.architecture` writes the page (an embedded Postgres is started for the ledger's tables, and stopped again).
"""

import os
import re
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

    from ingestion_dagster.engine.postgres import Connection

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"

_BLOCK = re.compile(r"(<!-- drawn by tools/architecture\.py: (?P<name>[a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TYPES = {"timestamp with time zone": "timestamptz", "double precision": "float8"}

_COLUMNS = """
SELECT table_class.relname, attribute.attname, format_type(attribute.atttypid, NULL),
       EXISTS (SELECT FROM pg_constraint AS c WHERE c.conrelid = table_class.oid AND c.contype = 'p' AND attribute.attnum = ANY(c.conkey)),
       EXISTS (SELECT FROM pg_constraint AS c WHERE c.conrelid = table_class.oid AND c.contype = 'f' AND attribute.attnum = ANY(c.conkey))
FROM pg_class AS table_class JOIN pg_attribute AS attribute ON attribute.attrelid = table_class.oid
WHERE table_class.relnamespace = 'ledger'::regnamespace AND table_class.relkind IN ('r', 'p')
  AND table_class.relname <> 'alembic_version' AND attribute.attnum > 0 AND NOT attribute.attisdropped
ORDER BY table_class.relname, attribute.attnum
"""
_REFERENCES = """
SELECT DISTINCT target.relname, source.relname, attribute.attname
FROM pg_constraint AS c
JOIN pg_class AS source ON source.oid = c.conrelid JOIN pg_class AS target ON target.oid = c.confrelid
JOIN pg_attribute AS attribute ON attribute.attrelid = source.oid AND attribute.attnum = c.conkey[1]
WHERE c.contype = 'f' AND source.relnamespace = 'ledger'::regnamespace AND target.relnamespace = 'ledger'::regnamespace
ORDER BY 1, 2, 3
"""


def written(page: str, connection: "Connection") -> str:
    """The page with its drawings renewed. `connection` leads to a migrated database. Raises `KeyError` for a drawing that there is not."""
    from ingestion_dagster.definitions import defs

    drawings = {
        "moves": _mermaid("stateDiagram-v2", _moves()),
        "layers": _mermaid("flowchart TD", _layers()),
        "ledger": _mermaid("erDiagram", _ledger(connection)),
        "jobs": "\n".join(_jobs(defs)),
        **{f"assets of {name}": _mermaid("flowchart LR", lines) for name, lines in _assets(defs).items()},
    }
    return _BLOCK.sub(lambda found: f"{found[1]}\n{drawings[found['name']]}\n\n{found[3]}", page)


def _mermaid(kind: str, lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", kind, *(f"    {line}" for line in lines), "```"])


def _moves() -> list[str]:
    from ingestion_dagster.engine.ledger import LEGAL_MOVES, Status

    order = list(Status)
    moves = sorted(LEGAL_MOVES, key=lambda move: (order.index(move[0]), order.index(move[1])))
    return [f"[*] --> {Status.READY}", *(f"{before} --> {after}" for before, after in moves)]


def _layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    names = [" · ".join(part.strip(" ()") for part in re.split(r"[|:]", layer)) for layer in layers]
    return [f'l{number}["{name}"]' for number, name in enumerate(names)] + [
        f"l{number} --> l{number + 1}" for number in range(len(names) - 1)
    ]


def _ledger(connection: "Connection") -> list[str]:
    lines = [f"{target} ||--o{{ {source} : {column}" for target, source, column in connection.execute(_REFERENCES)]
    tables: dict[str, list[str]] = {}
    for table, column, kind, is_key, refers in connection.execute(_COLUMNS):
        mark = " PK, FK" if is_key and refers else " PK" if is_key else " FK" if refers else ""
        tables.setdefault(table, []).append(f"{_TYPES.get(kind, kind).replace(' ', '_')} {column}{mark}")
    for table, columns in tables.items():
        lines += [f"{table} {{", *(f"    {column}" for column in columns), "}"]
    return lines


def _jobs(defs: "dg.Definitions") -> list[str]:
    repository = defs.get_repository_def()
    started: dict[str, list[str]] = {}
    for sensor in repository.sensor_defs:
        for target in sensor.targets:
            if target.job_name:
                started.setdefault(target.job_name, []).append(sensor.name)
    for schedule in repository.schedule_defs:
        started.setdefault(schedule.job_name, []).append(schedule.name)
    lines = ["| job | partitions | started by |", "|---|---|---|"]
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            by = ", ".join(f"`{name}`" for name in sorted(started.get(job.name, []))) or "people, commands"
            lines.append(f"| `{job.name}` | {_partitions(job.partitions_def)} | {by} |")
    return lines


def _partitions(definition: "dg.PartitionsDefinition[str] | None") -> str:
    import dagster as dg

    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return f"`{definition.name}`"
    return "days (UTC)" if isinstance(definition, dg.DailyPartitionsDefinition) else "none"


def _assets(defs: "dg.Definitions") -> dict[str, list[str]]:
    """By pipeline, its asset graph, in which assets that are alike in kind and in what is before and after them are one node."""
    graph = defs.resolve_asset_graph()
    by_pipeline: dict[str, list[dg.AssetKey]] = {}
    for key in sorted(graph.get_all_asset_keys()):
        by_pipeline.setdefault(key.path[0], []).append(key)
    drawn = {}
    for pipeline, keys in by_pipeline.items():
        parents = {key: {each for each in graph.get(key).parent_keys if each in keys} for key in keys}
        kinds = {key: (*sorted(graph.get(key).kinds), _partitions(graph.get(key).partitions_def)) for key in keys}
        alike = _alike(kinds, parents)
        number = {key: place for place, group in enumerate(alike) for key in group}
        lines = [_node(place, group, is_ours=graph.get(group[0]).is_materializable) for place, group in enumerate(alike)]
        edges = sorted({(number[parent], number[key]) for key in keys for parent in parents[key]})
        drawn[pipeline] = lines + [f"a{before} --> a{after}" for before, after in edges]
    return drawn


def _alike(kinds: "Mapping[dg.AssetKey, tuple[str, ...]]", parents: "Mapping[dg.AssetKey, set[dg.AssetKey]]") -> "list[list[dg.AssetKey]]":
    """Assets in groups that cannot be told apart by their kinds, nor by how many of which group are before and after them."""
    children = {key: {each for each in kinds if key in parents[each]} for key in kinds}
    group: dict[dg.AssetKey, int] = {}
    signs: Mapping[dg.AssetKey, object] = kinds
    while True:
        numbers: dict[object, int] = {}
        finer = {key: numbers.setdefault(signs[key], len(numbers)) for key in kinds}
        if len(numbers) == len(set(group.values())):
            break
        group = finer
        signs = {key: (group[key], _count(group, parents[key]), _count(group, children[key])) for key in kinds}
    found: dict[int, list[dg.AssetKey]] = {}
    for key, number in group.items():
        found.setdefault(number, []).append(key)
    return list(found.values())


def _count(group: "Mapping[dg.AssetKey, int]", keys: "Iterable[dg.AssetKey]") -> frozenset[tuple[int, int]]:
    return frozenset(Counter(group[key] for key in keys).items())


def _node(number: int, group: "list[dg.AssetKey]", *, is_ours: bool) -> str:
    names = ["/".join(key.path[1:]) for key in group]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return f'a{number}["{shown}"]' if is_ours else f'a{number}(["{shown}"])'


def main() -> None:
    """Write the page."""
    for name in [name for name in os.environ if name.startswith("INGESTION_")]:
        del os.environ[name]
    from ingestion_dagster.engine import embedded_postgres, postgres

    with tempfile.TemporaryDirectory() as folder:
        server = embedded_postgres.start(Path(folder))
        try:
            embedded_postgres.ensure_database(server, "drawn")
            database = postgres.Database.at(server.url("drawn"))
            postgres.upgrade(database)
            with database.connect() as connection:
                PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), connection), encoding="utf-8")
        finally:
            embedded_postgres.stop(Path(folder))
    print(f"{PAGE} written", file=sys.stderr)


if __name__ == "__main__":
    main()
