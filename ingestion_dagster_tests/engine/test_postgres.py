"""Which database is meant, that it says so when it cannot be used, and that its schema is brought up to date once."""

import logging
import socket
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

from ingestion_dagster.engine import embedded_postgres, postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.migrations import HEAD
from ingestion_dagster.settings import Settings

SECRET = "correct-horse"  # pragma: allowlist secret
ROLE = "metrics_public_reader"
UPGRADE = """
import sys
from ingestion_dagster.engine import postgres
database = postgres.Database.at(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(postgres.upgrade(database))
"""


@pytest.fixture
def empty(server: EmbeddedServer) -> Iterator[Database]:
    """A database that nobody has touched yet."""
    name = f"Empty {uuid.uuid4().hex[:12]}"
    embedded_postgres.ensure_database(server, name)
    yield Database.at(server.url(name))
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    with database.connect() as connection:
        return connection.execute(statement).fetchall()


def printed(error: BaseException) -> str:
    """What a log would show, with everything that led to it."""
    return "".join(traceback.format_exception(error))


def schemas(database: Database) -> set[object]:
    return {name for (name,) in rows(database, "SELECT nspname FROM pg_namespace WHERE nspname IN ('ledger', 'metrics')")}


def upgrade_together(*databases: Database) -> None:
    """One process for each, started, then let loose at once."""
    command = [sys.executable, "-c", UPGRADE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen([*command, database.sqlalchemy_url], text=True, **pipes) for database in databases]  # type: ignore[call-overload]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output.strip()) == (0, HEAD), errors


# Upgrading


def test_the_revision_this_version_asks_for_is_the_one_alembic_makes() -> None:
    config = Config()
    config.set_main_option("script_location", "ingestion_dagster:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_upgrading_again_changes_nothing(empty: Database) -> None:
    assert postgres.revision(empty) is None
    assert postgres.upgrade(empty) == HEAD
    assert postgres.revision(empty) == HEAD
    catalogue = "SELECT oid, relname, relfilenode FROM pg_class WHERE relnamespace IN ('ledger'::regnamespace, 'metrics'::regnamespace)"
    before = sorted(map(str, rows(empty, catalogue)))
    assert postgres.upgrade(empty) == HEAD
    assert sorted(map(str, rows(empty, catalogue))) == before
    assert schemas(empty) == {"ledger", "metrics"}


def test_two_processes_that_upgrade_at_once_both_succeed(empty: Database) -> None:
    upgrade_together(empty, empty)
    assert postgres.revision(empty) == HEAD
    assert rows(empty, "SELECT count(*) FROM ledger.alembic_version") == [(1,)]


def test_a_second_upgrade_waits_for_the_first(empty: Database) -> None:
    with postgres._upgrade_lock(empty), empty.connect() as other:
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT pg_advisory_lock(%s)", [postgres._UPGRADE_LOCK])
    with empty.connect() as other:
        assert other.execute("SELECT pg_try_advisory_lock(%s)", [postgres._UPGRADE_LOCK]).fetchone() == (True,)


def test_a_role_that_is_there_already_is_taken_as_it_is(server: EmbeddedServer, database: Database, empty: Database) -> None:
    """Roles belong to the server: the second database of one finds it, and a new server has none."""
    assert rows(database, f"SELECT count(*) FROM pg_roles WHERE rolname = '{ROLE}'") == [(1,)]
    assert postgres.upgrade(empty) == HEAD
    for at in (database, empty):
        assert rows(at, f"SELECT has_table_privilege('{ROLE}', 'metrics.core_time_series', 'SELECT')") == [(True,)]


def test_a_role_that_was_dropped_is_made_again(tmp_path: Path) -> None:
    """On a server of its own, where nobody else holds on to the role; and by two databases at once."""
    home = tmp_path / "a home"
    fresh = embedded_postgres.start(home)
    try:
        embedded_postgres.ensure_database(fresh, "one")
        embedded_postgres.ensure_database(fresh, "two")
        one, two = (Database.at(fresh.url(name)) for name in ("one", "two"))
        assert rows(one, f"SELECT count(*) FROM pg_roles WHERE rolname = '{ROLE}'") == [(0,)]
        upgrade_together(one, two)
        assert rows(two, f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{ROLE}'") == [(False,)]
        for at in (one, two):
            assert rows(at, f"SELECT has_table_privilege('{ROLE}', 'public.data_apitimeseries', 'SELECT')") == [(True,)]
    finally:
        embedded_postgres.stop(home)


def test_a_database_with_tables_of_that_name_is_refused_and_left_as_it_is(empty: Database) -> None:
    rows_before = "CREATE TABLE public.data_theme (id int); INSERT INTO public.data_theme VALUES (7)"
    with empty.connect() as connection:
        connection.execute(rows_before)
    with pytest.raises(ConfigurationError) as refused:
        postgres.upgrade(empty)
    for said in ("data_theme", "INGESTION_DATABASE_URL", "SET SCHEMA", "ingestion db upgrade", "ingestion adopt metrics"):
        assert said in str(refused.value)
    assert "metrics" not in schemas(empty)
    assert rows(empty, "SELECT id FROM public.data_theme") == [(7,)]
    assert rows(empty, "SELECT to_regclass('ledger.loads')") == [(None,)]
    assert postgres.revision(empty) is None
    with empty.connect() as connection:
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("ALTER TABLE public.data_theme SET SCHEMA theirs")
    assert postgres.upgrade(empty) == HEAD


def test_a_migration_that_fails_releases_its_lock(empty: Database) -> None:
    with empty.connect() as connection:
        connection.execute("CREATE TABLE public.data_age (id int)")
        with pytest.raises(ConfigurationError):
            postgres.upgrade(empty)
        assert connection.execute("SELECT pg_try_advisory_lock(%s)", [postgres._UPGRADE_LOCK]).fetchone() == (True,)


def test_migrations_leave_the_logging_of_the_caller_alone(empty: Database) -> None:
    before = (logging.root.level, list(logging.root.handlers), logging.root.manager.disable)
    postgres.upgrade(empty)
    assert (logging.root.level, list(logging.root.handlers), logging.root.manager.disable) == before


# A database that is behind


def test_an_external_database_that_is_behind_is_refused_with_what_to_run(empty: Database) -> None:
    settings = Settings(database_url=empty.sqlalchemy_url)
    with pytest.raises(ConfigurationError, match="ingestion db upgrade"):
        postgres.ready(settings)
    assert schemas(empty) == set()
    postgres.upgrade(empty)
    assert postgres.ready(settings) == empty
    with empty.connect() as connection:
        connection.execute("UPDATE ledger.alembic_version SET version_num = '0001'")
    with pytest.raises(ConfigurationError, match=f"0001.*{HEAD}.*ingestion db upgrade"):
        postgres.ready(settings)


def test_a_newer_schema_serves_the_version_before_only_if_it_says_so(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is taken back by its images; the schema stays."""
    postgres.upgrade(empty)
    settings = Settings(database_url=empty.sqlalchemy_url)
    assert postgres.ready(settings) == empty
    monkeypatch.setattr(postgres, "HEAD", "0006")
    with pytest.raises(ConfigurationError, match=r"newer than this version's 0006"):
        postgres.ready(settings)
    with empty.connect() as connection:
        connection.execute("COMMENT ON TABLE ledger.alembic_version IS 'works with revisions from 0006'")
    assert postgres.ready(settings) == empty
    assert postgres.upgrade(empty) == HEAD
    with empty.connect() as connection:
        connection.execute("COMMENT ON TABLE ledger.alembic_version IS NULL")
    with pytest.raises(ConfigurationError, match=r"newer than this version's 0006"):
        postgres.ready(settings)


def test_the_embedded_database_migrates_itself(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the session stands for the one of a home."""
    monkeypatch.setattr(embedded_postgres, "start", lambda home: server)
    database = postgres.ready(Settings())
    assert database.is_embedded
    assert postgres.revision(database) == HEAD
    assert postgres.ready(Settings()) == database


# Which database


def test_production_without_a_database_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "start", lambda home: pytest.fail("the embedded server was started"))
    with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL"):
        postgres.ready(Settings(environment="production"))


def test_a_url_given_is_the_one_used(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "start", lambda home: pytest.fail("the embedded server was started"))
    for environment in ("local", "production"):
        located = postgres.locate(Settings(environment=environment, database_url=database.sqlalchemy_url))
        assert located == database
        assert not located.is_embedded


def test_connections_speak_utc_and_commit_each_statement(database: Database) -> None:
    with database.connect() as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone() == ("ingestion",)
        connection.execute("CREATE TABLE kept (n int)")
    assert rows(database, "SELECT * FROM kept") == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        SECRET,
        f"host=localhost password={SECRET}",
        f"mysql://user:{SECRET}@host/db",  # pragma: allowlist secret
        f"sqlite:///{SECRET}",
        f"postgresql://user:secret@host:{SECRET}/db",  # pragma: allowlist secret
        f"postgresql://user:{SECRET}@host:port/db",  # pragma: allowlist secret
        f"postgresql://user:12/{SECRET}@host:x/db",  # pragma: allowlist secret
        f"postgresql://user:{SECRET}@host/db?nonsense=1",  # pragma: allowlist secret
        f"postgresql://user:{SECRET}@host/db?host=a&host=b&port=1",  # pragma: allowlist secret
        f"postgresql://user:{SECRET}@[::1/db",  # pragma: allowlist secret
        f"postgresql://user:pass@host/db?{SECRET}",  # pragma: allowlist secret
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL") as refused:
        Database.at(url).connect()
    assert SECRET not in printed(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_common_spelling_of_the_scheme_is_understood(scheme: str) -> None:
    database = Database.at(f"{scheme}://user@host:5433/db")
    assert conninfo_to_dict(database.conninfo) == {"user": "user", "host": "host", "port": "5433", "dbname": "db"}
    assert database.sqlalchemy_url == "postgresql+psycopg://user@host:5433/db"


@pytest.mark.parametrize("password", ["p@ss/w:rd", "100%", "a b+c", "#?&=", "é😀", "it's\\", "%41"])
def test_a_password_reaches_the_server_as_it_is(password: str) -> None:
    from urllib.parse import quote

    database = Database.at(f"postgresql://user:{quote(password, safe='')}@host/db?sslmode=require&host=/a folder, 'quoted'")
    assert conninfo_to_dict(database.conninfo)["password"] == password
    again = Database.at(database.sqlalchemy_url)
    assert again == database, "what 'ingestion db url' prints means another database"
    assert conninfo_to_dict(again.conninfo)["sslmode"] == "require"


def test_a_server_below_a_folder_with_a_space_is_reached(server: EmbeddedServer, tmp_path: Path) -> None:
    folder = tmp_path / "a folder + more"
    folder.symlink_to(server.host)
    database = Database.at(replace(server, host=str(folder)).url())
    assert conninfo_to_dict(database.conninfo)["host"] == str(folder)
    assert rows(database, "SELECT 1") == [(1,)]
    with create_engine(database.sqlalchemy_url).connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_a_database_whose_name_has_a_space_and_capitals_is_reached_by_both_drivers(empty: Database) -> None:
    name = conninfo_to_dict(empty.conninfo)["dbname"]
    assert str(name).startswith("Empty ")
    assert rows(empty, "SELECT current_database()") == [(name,)]


def test_a_server_that_does_not_answer_is_named_as_a_setting_and_the_password_is_not() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL") as refused:
            Database.at(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db").connect()  # pragma: allowlist secret
    assert SECRET not in printed(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_that_does_not_exist_is_named(server: EmbeddedServer) -> None:
    with pytest.raises(ConfigurationError, match='"nowhere" does not exist'):
        Database.at(server.url("nowhere")).connect()


def test_upgrade_and_ready_name_the_setting_too_when_nobody_answers(tmp_path: Path) -> None:
    unreachable = f"postgresql://user:{SECRET}@/db?host={tmp_path}"  # pragma: allowlist secret
    for call in (lambda: postgres.ready(Settings(database_url=unreachable)), lambda: postgres.upgrade(Database.at(unreachable))):
        with pytest.raises(ConfigurationError, match="INGESTION_DATABASE_URL") as refused:
            call()
        assert SECRET not in printed(refused.value)
