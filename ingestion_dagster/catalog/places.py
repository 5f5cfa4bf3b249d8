"""Where the catalogue reads and writes: the ledger's database, upstream, the API's database, and the search engine."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

UPSTREAM_DATABASE, API_DATABASE = "catalog_upstream", "catalog_api"
"""Names of the databases of the embedded server that stand in where no URL is set."""


@dataclass(frozen=True, slots=True)
class Places:
    """The three databases, and how to reach the search engine. Nothing is opened before it is asked for."""

    settings: Settings
    ledger: Database
    upstream: Database
    api: Database

    @classmethod
    def of(cls, settings: Settings) -> "Places":
        """The places that the settings mean; embedded ones are made, upstream with sample rows, if they are not there.

        Raises `ConfigurationError` for one that cannot be used, and in production for one that is not set.
        """
        ledger = postgres.ready(settings)
        return cls(settings, ledger, upstream(settings), api_database(settings))

    def search(self) -> SearchEngine:
        """The search engine; to be closed."""
        return search_engine(self.settings)


def upstream(settings: Settings) -> Database:
    """The database that is copied from. The embedded one is made, with sample rows, if it is not there."""
    if settings.catalog_upstream_url:
        return Database.at(settings.catalog_upstream_url, "INGESTION_CATALOG_UPSTREAM_URL")
    database = _embedded(settings, UPSTREAM_DATABASE, "INGESTION_CATALOG_UPSTREAM_URL")
    from ingestion_dagster.catalog import samples

    samples.fill_upstream(database)
    return database


def api_database(settings: Settings) -> Database:
    """The Postgres whose tables readers see. Unset: a database of the embedded server; raises `ConfigurationError` in production then."""
    if settings.catalog_api_database_url:
        return Database.at(settings.catalog_api_database_url, "INGESTION_CATALOG_API_DATABASE_URL")
    return _embedded(settings, API_DATABASE, "INGESTION_CATALOG_API_DATABASE_URL")


def search_engine(settings: Settings) -> SearchEngine:
    """The search engine that the settings mean. Raises `ConfigurationError` for a URL that names none."""
    url = search_url(settings)
    parts = urlsplit(url)
    if parts.scheme == "file":
        from ingestion_dagster.catalog.embedded_search import EmbeddedSearch

        return EmbeddedSearch.at(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        from ingestion_dagster.catalog.opensearch import OpenSearch

        return OpenSearch.at(
            url,
            bulk_documents=settings.catalog_bulk_documents,
            bulk_bytes=settings.catalog_bulk_bytes,
            patience_seconds=settings.catalog_search_patience_seconds,
        )
    raise ConfigurationError("INGESTION_CATALOG_SEARCH_URL names no search engine; it reads https://host:9200, or file:///folder")


def search_url(settings: Settings) -> str:
    """Its URL; it may hold a password."""
    if settings.catalog_search_url:
        return settings.catalog_search_url
    if settings.environment == "production":
        raise ConfigurationError("production needs a search cluster of its own: set INGESTION_CATALOG_SEARCH_URL")
    return (settings.home_folder / "search").as_uri()


def shown(url: str) -> str:
    """A URL without user and password, and without a query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def record_limit(settings: Settings) -> int | None:
    """How many rows of each table are copied at most; None: all."""
    if settings.catalog_record_limit is not None:
        return settings.catalog_record_limit or None
    return None if settings.environment == "production" else 100_000


def _embedded(settings: Settings, name: str, variable: str) -> Database:
    if settings.environment == "production":
        raise ConfigurationError(f"production needs a database of its own: set {variable}")
    from ingestion_dagster.engine import embedded_postgres

    server = embedded_postgres.start(settings.home_folder)
    embedded_postgres.ensure_database(server, name)
    return Database.at(server.url(name), variable)
