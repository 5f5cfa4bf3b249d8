"""A current table as a Delta table: where it is, opening it, its upkeep, and what goes wrong with it in this project's words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ingestion_dagster.cubic import places
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.registry import CubicTable
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_UNWRITABLE = frozenset("[]%?^|")  # deltalake 1.6 panics, or takes another folder
_RETENTION_HOURS = 7 * 24
_PERMANENT_CREDENTIALS = {"env", "explicit", "shared-credentials-file", "config-file", "custom-process", "assume-role", "sso", "login"}


def location(settings: Settings, table: CubicTable) -> str:
    """URL of a table's current table."""
    return f"{places.current(settings).url}/{table.name}"


def open_delta(settings: Settings, table: CubicTable) -> "DeltaTable | None":
    """A table's current table as it stands now; None if there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    place, options = delta_place(settings, table)
    if options is None and not Path(place).is_dir():
        return None
    try:
        return DeltaTable(place, storage_options=options)
    except TableNotFoundError:
        return None


def delta_place(settings: Settings, table: CubicTable) -> tuple[str, dict[str, str] | None]:
    """A current table as Delta's library takes it: a path, or a URL and its storage options. Raises `ConfigurationError`."""
    url = location(settings, table)
    if url.startswith("file://"):
        path = unquote(urlsplit(url).path)
        if not _UNWRITABLE.isdisjoint(path):
            raise ConfigurationError(f"Delta cannot write below {path}: choose an INGESTION_CUBIC_CURRENT_URL without []%?^| in it")
        return path, None
    return url, storage_options()


def storage_options() -> dict[str, str]:
    """S3 for Delta's library: endpoint, region and credentials of boto3's default chain.

    Credentials that expire by the hour (of a task or instance role) are left to the library, which renews them.
    """
    from ingestion_dagster.engine import aws

    session = aws.session()
    client = session.client("s3", region_name=session.region_name or aws.DEFAULT_REGION)
    endpoint = client.meta.endpoint_url
    options = {"aws_region": client.meta.region_name, "conditional_put": "etag"}
    if "amazonaws.com" not in endpoint:
        options |= {"aws_endpoint": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    credentials = session.get_credentials()
    if credentials is not None and credentials.method in _PERMANENT_CREDENTIALS:
        frozen = credentials.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key or "", "aws_secret_access_key": frozen.secret_key or ""}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options


def compact(settings: Settings, table: CubicTable) -> dict[str, int]:
    """Write small files of a current table together, in a commit that changes no row: files added and removed."""
    with delta_faults(table):
        delta = open_delta(settings, table)
        if delta is None:
            return {"files_added": 0, "files_removed": 0}
        metrics = delta.optimize.compact()
        return {"files_added": int(metrics["numFilesAdded"]), "files_removed": int(metrics["numFilesRemoved"])}


def vacuum(settings: Settings, table: CubicTable, retention_hours: int = _RETENTION_HOURS) -> int:
    """Delete files that no version of the last `retention_hours` needs, so that a reader that has begun can end; how many."""
    with delta_faults(table):
        delta = open_delta(settings, table)
        if delta is None:
            return 0
        return len(delta.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False, full=True))


def delta_schema(columns: Sequence[Column]) -> "pa.Schema":
    """A current table's columns as Delta stores them. It knows no time of day: such a column is text there (`13:45:00.5`)."""
    import pyarrow as pa

    from ingestion_dagster.cubic.columns import arrow_type

    return pa.schema([pa.field(column.name, arrow_type("string" if column.type == "time" else column.type)) for column in columns])


@contextmanager
def delta_faults(table: CubicTable) -> Iterator[None]:
    """Turns what Delta and DuckDB say into what this project says. Without the original: it may hold values, and a bucket's answers."""
    import duckdb
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise Transient("current_out_of_memory", f"the current table {table.name} needs more memory or disk to be built") from None
    except (DeltaError, duckdb.Error, pa.ArrowException, OSError) as error:
        raise Transient("current_unavailable", f"{table.name}: its current table could not be worked on ({type(error).__name__})") from None
