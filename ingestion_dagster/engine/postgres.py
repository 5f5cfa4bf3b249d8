"""Postgres: which server is meant, connections to it, and bringing its schema up to date."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import sqlalchemy
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.migrations import HEAD, SERVES
from ingestion_dagster.settings import Settings

Connection = psycopg.Connection[TupleRow]

OLDEST_SERVER = 150_000
"""Postgres 15: the schema uses NULLS NOT DISTINCT and security_invoker views."""

SESSION = " ".join(
    f"-c {setting}" for setting in ("timezone=UTC", "tcp_keepalives_idle=60", "tcp_keepalives_interval=10", "tcp_keepalives_count=3")
)
"""What each session asks of the server. A machine that has vanished keeps its locks for a minute and a half, not for the two hours
that an operating system waits for a silent peer."""

_UPGRADE_LOCK = 0x1A6E5710
_SERVES = "works with revisions from "
_OLDEST_SERVED = "SELECT obj_description('ledger.alembic_version'::regclass, 'pg_class')"


@dataclass(frozen=True, slots=True)
class Database:
    """A Postgres database: how to reach it, and whether it is the embedded one."""

    conninfo: str
    sqlalchemy_url: str
    is_embedded: bool = False
    variable: str = "INGESTION_DATABASE_URL"
    """Which setting names it."""

    @classmethod
    def at(cls, url: str, variable: str = "INGESTION_DATABASE_URL") -> "Database":
        """The database behind a SQLAlchemy or libpq URL. Raises `ConfigurationError` for anything else."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigurationError(f"{variable} is no database URL; it reads postgresql://user@host:5432/database") from None
        if parsed.get_backend_name() not in ("postgresql", "postgres"):
            raise ConfigurationError(f"{variable} names '{parsed.get_backend_name()}'; only postgresql:// is supported")
        parsed = parsed.set(drivername="postgresql+psycopg")
        try:
            # Not the URL itself: libpq reads no space and no `+` as SQLAlchemy writes them.
            _, options = parsed.get_dialect()().create_connect_args(parsed)
            conninfo = make_conninfo("", **options)
        except (ArgumentError, ValueError, TypeError, psycopg.ProgrammingError):
            raise ConfigurationError(f"{variable} has something after the '?' that Postgres does not understand") from None
        return cls(conninfo, parsed.render_as_string(hide_password=False), variable=variable)

    def connect(self) -> Connection:
        """A new connection: UTC, autocommit (several statements that belong together stand in a `transaction()` block).

        Raises `ConfigurationError` if nobody answers there.
        """
        try:
            return psycopg.connect(self.conninfo, autocommit=True, application_name="ingestion", connect_timeout=10, options=SESSION)
        except psycopg.OperationalError as error:
            raise ConfigurationError(f"the database cannot be reached ({self.variable}): {_first_line(error)}") from None


def locate(settings: Settings) -> Database:
    """The database that the settings mean; the embedded server is started or attached to.

    Raises `ConfigurationError` for a URL that is none, and in production without one.
    """
    if settings.database_url:
        return Database.at(settings.database_url)
    if settings.environment == "production":
        raise ConfigurationError("production needs a database of its own: set INGESTION_DATABASE_URL")
    from ingestion_dagster.engine import embedded_postgres

    server = embedded_postgres.start(settings.home_folder)
    located = Database.at(server.url())
    return Database(located.conninfo, located.sqlalchemy_url, is_embedded=True)


def ready(settings: Settings) -> Database:
    """The database with its schema up to date: the embedded one migrates itself.

    Raises `ConfigurationError` for any other that is behind, for one that is ahead (unless what has upgraded it says that this version
    works with it), and as `locate`.
    """
    database = locate(settings)
    found = revision(database)
    if found == HEAD:
        return database
    if found is not None and found > HEAD:
        with database.connect() as connection:
            if serves_us(connection):
                return database
        raise ConfigurationError(f"the database is at schema revision {found}, newer than this version's {HEAD}: install the newer one")
    if not database.is_embedded:
        raise ConfigurationError(
            f"the database is at schema revision {found or 'none'}, this version needs {HEAD}: run 'ingestion db upgrade' once"
        )
    upgrade(database)
    return database


def revision(database: Database) -> str | None:
    """The schema revision of a database; None for one that was never upgraded."""
    with database.connect() as connection:
        if connection.execute("SELECT to_regclass('ledger.alembic_version')").fetchone() == (None,):
            return None
        row = connection.execute("SELECT version_num FROM ledger.alembic_version").fetchone()
        return str(row[0]) if row else None


def serves_us(connection: Connection) -> bool:
    """Whether a schema newer than this version's says that this version works with it: a release was taken back."""
    row = connection.execute(_OLDEST_SERVED).fetchone()
    said = str(row[0]) if row and row[0] else ""
    return said.startswith(_SERVES) and said.removeprefix(_SERVES) <= HEAD


def upgrade(database: Database) -> str:
    """Bring the schema to the newest revision and return it. A no-op when it is, or is newer and works with this version.

    Two at once take turns.
    """
    if (found := revision(database)) is not None and found > HEAD:
        with database.connect() as connection:
            if serves_us(connection):
                return found
    with upgrading(database) as transaction:
        transaction.to_head()
    return HEAD


@dataclass(frozen=True, slots=True)
class UpgradeTransaction:
    """The transaction in which a schema is brought up to date. `connection` is in it: what it executes is kept or lost with the rest."""

    connection: Connection
    _alembic_connection: sqlalchemy.Connection

    def to_head(self) -> None:
        """Run the migrations that are missing. Raises `ConfigurationError` if one fails; nothing of the transaction can be kept then."""
        from alembic import command
        from alembic.config import Config

        self.connection.execute("CREATE SCHEMA IF NOT EXISTS ledger")
        config = Config()
        config.set_main_option("script_location", "ingestion_dagster:migrations")
        config.attributes["connection"] = self._alembic_connection
        try:
            command.upgrade(config, "head")
            self.connection.execute(sql.SQL("COMMENT ON TABLE ledger.alembic_version IS {}").format(sql.Literal(_SERVES + SERVES)))
        except Exception as error:
            raise ConfigurationError(f"the schema could not be upgraded: {_first_line(error)}") from error


@contextmanager
def upgrading(database: Database) -> Iterator[UpgradeTransaction]:
    """One transaction under the upgrade lock, for callers who do more than migrate: committed at the end, undone by any exception.

    Raises `ConfigurationError` for a server that is too old, and if the connection is lost.
    """
    with _upgrade_lock(database) as connection:
        if connection.info.server_version < OLDEST_SERVER:
            raise ConfigurationError("the database server is older than Postgres 15, which the schema needs")
        # Each statement is to see what others have committed while a lock was waited for.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.autocommit = False
        # Alembic runs on the connection that holds the lock, so that the lock lives as long as what it guards.
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
        try:
            with engine.begin() as alembic_connection:
                yield UpgradeTransaction(connection, alembic_connection)
        except sqlalchemy.exc.DBAPIError as error:
            raise ConfigurationError(
                f"the connection to the database was lost ({type(error.orig).__name__}); nothing is half done, try again"
            ) from None


@contextmanager
def _upgrade_lock(database: Database) -> Iterator[Connection]:
    with database.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_UPGRADE_LOCK])
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s)", [_UPGRADE_LOCK])


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
