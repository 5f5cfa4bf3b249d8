"""What every search engine refuses, in the same words: names that are none, indexes that are not there, documents that no index takes."""

from ingestion_dagster.catalog.search import Query
from ingestion_dagster.engine.errors import Problem, Refused

DOCUMENT_REFUSED, DOCUMENT_TOO_LARGE = "document_refused", "document_too_large"
"""Codes of `Rejected`: the mapping does not take it; the engine does not take anything of this size."""

LONGEST_NAME = 255
"""Bytes of an index's name."""

MOST_HITS = 10_000
"""Documents that one search may return."""

_FORBIDDEN = frozenset('\\/*?"<>| ,#:%')


def is_name(name: str) -> bool:
    """Whether an index or alias may have this name: OpenSearch's rules, and nothing that an address would need to quote as well."""
    return (
        bool(name)
        and name not in (".", "..")
        and name == name.lower()
        and name[0] not in "-_+"
        and len(name.encode()) <= LONGEST_NAME
        and name.isprintable()
        and not _FORBIDDEN.intersection(name)
    )


def check_name(name: str) -> None:
    """Raises `Refused` (`bad_index_name`) for what no index or alias can be called."""
    if not is_name(name):
        message = "a name has lower-case letters, digits, '-', '_', '+' and '.', begins with none of '-_+', and has 255 bytes at most"
        raise Refused(Problem("bad_index_name", "index", message))


def check_limit(query: Query) -> None:
    """Raises `Refused` (`limit_too_large`) for a query that wants more documents than one search may return, or fewer than none."""
    if not 0 <= query.limit <= MOST_HITS:
        raise Refused(Problem("limit_too_large", "limit", f"one search returns 0 to {MOST_HITS} documents"))


def no_such_index(name: str) -> Refused:
    """There is no index, nor alias, of this name."""
    return Refused(Problem("no_such_index", f"index {name}", "there is none of this name; list those that are there"))


def index_exists(name: str) -> Refused:
    """The name is taken, by an index or an alias."""
    return Refused(Problem("index_exists", f"index {name}", "the name is taken; refresh under another suffix, or delete the index first"))


def mapping_refused(name: str, reason: str) -> Refused:
    """The engine does not take these settings and mappings."""
    return Refused(Problem("mapping_refused", f"index {name}", f"the engine does not take its settings or mappings: {reason}"))


def alias_is_index(name: str) -> Refused:
    """What is to be an alias is an index."""
    return Refused(Problem("alias_is_index", f"alias {name}", "an index has this name; delete the index, or choose another alias"))


def index_has_aliases(name: str, aliases: tuple[str, ...]) -> Refused:
    """Readers may be using the index."""
    message = f"{', '.join(aliases)} lead to it; move or remove them first"
    return Refused(Problem("index_has_aliases", f"index {name}", message))
