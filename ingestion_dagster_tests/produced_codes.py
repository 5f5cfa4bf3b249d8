"""Every reason code that the package can produce, by whose code makes it: read from the source, no list of anybody's."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import ingestion_dagster
from ingestion_dagster.catalog import copy_errors, staging
from ingestion_dagster.cubic import casts, columns
from ingestion_dagster.life_events import problems
from ingestion_dagster.metrics.problems import Code

PACKAGE = Path(ingestion_dagster.__file__).parent
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

CALLS = {
    "Problem": 0, "Transient": 0, "Lost": 0, "NotThisTime": 0, "Undeliverable": 0, "Failed": 0, "_Failed": 0, "_Bad": 1,
    "Gate": 0, "BadDate": 0, "warn": 0, "refuse": 0, "skipped": 0, "_tell": 0, "_give_up": 1, "_leave": 1, "RowReport": 3, "bury": 2,
}  # fmt: skip
"""What is called with a code, and which argument that is."""
KEYWORDS = {"code", "reason_code"}
PIPELINES = ("metrics", "cubic", "residents", "life_events", "catalog")


class Source(NamedTuple):
    """A module of the package: whose it is, its tree, its text constants, and what it imports by name (the module, the name there)."""

    owner: str
    tree: ast.Module
    constants: dict[str, str]
    imports: dict[str, tuple[str, str]]


@cache
def sources() -> dict[str, Source]:
    """Every module that may produce a code, by its dotted name: not the stand-ins of the sandbox, not the migrations."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        if inside[0] in ("sandbox", "migrations"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owner = inside[0] if inside[0] in PIPELINES else "engine"
        found[".".join((PACKAGE.name, *inside))] = Source(owner, tree, dict(_constants(tree)), dict(_imports(tree)))
    return found


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((each.asname or each.name, (node.module, each.name)) for each in node.names)


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [value]
            for name, each in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield name.id, each.value


@cache
def produced() -> dict[str, frozenset[str]]:
    """Codes by owner: a pipeline, or `engine` for what is shared."""
    found = _of_registries()
    for source in sources().values():
        for node in ast.walk(source.tree):
            for expression in _codes_of(node):
                found[source.owner] |= _values(expression, source)
    return {owner: frozenset(code for code in codes if CODE.fullmatch(code)) for owner, codes in found.items()}


def _codes_of(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a call that are codes."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name == "Rejected":  # of the search engine its second argument, of the API its first
        yield from node.args[:2]
    elif len(node.args) > CALLS.get(name, 99):
        yield node.args[CALLS[name]]
    yield from (keyword.value for keyword in node.keywords if keyword.arg in KEYWORDS)


def _values(expression: ast.expr, source: Source) -> set[str]:
    """The texts that an expression can be, as far as the source tells."""
    match expression:
        case ast.Constant(value=str() as text):
            return {text}
        case ast.IfExp(body=one, orelse=other):
            return _values(one, source) | _values(other, source)
        case ast.BoolOp(values=parts):
            return set().union(*(_values(part, source) for part in parts))
        case ast.Name(id=name):
            module, there = source.imports.get(name, ("", name))
            home = sources().get(module, source)
        case ast.Attribute(value=ast.Name(id=alias), attr=there):
            home = sources().get(".".join(source.imports.get(alias, ("", ""))), source)
        case _:
            return set()
    return {home.constants[there]} if there in home.constants else set()


def _of_registries() -> dict[str, set[str]]:
    """Codes that are made of parts, or stand in tables."""
    return {
        "engine": set(),
        "residents": set(),
        "metrics": set(map(str, Code)),
        "cubic": {casts.code(kind) for kind in (*columns._WORDS, "decimal(1,0)")}
        | {"field_count"}
        | _literals("ingestion_dagster.cubic.envelopes", "record_")
        | {f"record_without_{part}" for part in ("topic", "partition", "offset")},
        "life_events": set(problems.CODES) | {"platform_400"},
        "catalog": {code for _, code, _ in copy_errors._TRANSIENT}
        | {code for code, _ in copy_errors._VALUES.values()}
        | {f"missing_{facet}" for facet in (*staging.COMPARED, "index", "constraint")}
        | {f"sensitive_terms_{kind}" for kind in ("too_large", "unreadable", "unavailable")},
    }


def _literals(module: str, beginning: str) -> set[str]:
    """The texts in a module that begin so."""
    texts = (node.value for node in ast.walk(sources()[module].tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if text.startswith(beginning)}
