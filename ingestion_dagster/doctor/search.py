"""The search engine of the catalogue: its version, its health, and room on its disks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ingestion_dagster.catalog.places import search_url
from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.doctor.storage import place
from ingestion_dagster.settings import Settings

_SECONDS = 4.0
_HIGH, _FLOOD = 90.0, 95.0
"""Percent of a disk in use from which a cluster moves shards away, and from which it takes no writes: its own defaults."""


def engine(settings: Settings) -> Iterator[Said]:
    """The search engine that is meant. Raises `ConfigurationError` for a URL that names none."""
    url = search_url(settings)
    if url.startswith("file://"):
        yield from place(Path(unquote(urlsplit(url).path)).as_uri())
        return
    from ingestion_dagster.catalog.opensearch_calls import Answered, Calls, Failed, Waiting

    calls = Calls.at(url, Waiting(0))
    try:
        yield _version(calls.once("GET", "/", seconds=_SECONDS))
        yield _health(calls.once("GET", "/_cluster/health", seconds=_SECONDS))
        yield from _disks(calls)
    except Failed as error:
        yield problem(error.message, "see to the cluster, and the network on the way there")
    except Answered as error:
        if error.status in (401, 403):
            yield problem(
                f"it does not let us in ({error.status})", "correct user and password in INGESTION_CATALOG_SEARCH_URL, or their role"
            )
        else:
            yield problem(f"it answers {error.status} ({error.kind})", "see to its log")
    finally:
        calls.close()


def _version(root: Any) -> Said:
    version = root.get("version", {})
    number, kind = str(version.get("number", "?")), version.get("distribution", "elasticsearch")
    if not number.split(".", maxsplit=1)[0].isdigit():
        return problem("it does not say which version it is", "see whether the URL leads to a search cluster")
    return ok(f"{kind} {number}")


def _health(health: Any) -> Said:
    status = health.get("status")
    if status == "red":
        return problem("the cluster is red: data are missing", "see to its nodes: GET /_cluster/allocation/explain")
    if status == "yellow" and health.get("number_of_nodes", 1) > 1:
        return warning("the cluster is yellow: copies are missing", "see to its nodes: GET /_cluster/allocation/explain")
    return ok(f"the cluster is {status}, {health.get('number_of_nodes')} nodes")


def _disks(calls: Any) -> Iterator[Said]:
    rows = calls.once("GET", "/_cat/allocation", seconds=_SECONDS, format="json")
    used = {str(row.get("node")): float(row["disk.percent"]) for row in rows if row.get("disk.percent")}
    if not used:
        return
    node, most = max(used.items(), key=lambda each: each[1])
    said = f"the fullest disk, of node {node}, is at {most:.0f} %"
    if most >= _FLOOD:
        yield problem(said, "free some: the cluster takes no writes from here on")
    elif most >= _HIGH:
        yield warning(said, "free some: a refresh needs room for a second copy of each index")
    else:
        yield ok(said)
