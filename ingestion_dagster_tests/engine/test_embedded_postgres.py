"""The embedded server, real: started, attached to, crashed and stopped in folders of the test."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database

START = "import sys, pathlib; from ingestion_dagster.engine import embedded_postgres as e; print(e.start(pathlib.Path(sys.argv[1])))"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a name short enough for a socket, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def home(place: Path) -> Iterator[Path]:
    folder = place / "home"
    yield folder
    embedded_postgres.stop(folder)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server has run and was stopped."""
    folder = tmp_path_factory.mktemp("template") / "home"
    embedded_postgres.start(folder)
    assert embedded_postgres.stop(folder)
    return folder


@pytest.fixture
def used_home(home: Path, template: Path) -> Path:
    shutil.copytree(template, home)
    return home


def started_elsewhere(home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", START, str(home)], stdout=subprocess.PIPE, text=True)


def postmaster(server: EmbeddedServer) -> int:
    return int((server.data / "postmaster.pid").read_text().split("\n")[0])


def query(server: EmbeddedServer, statement: str) -> object:
    with psycopg.connect(server.conninfo()) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def crash(server: EmbeddedServer) -> int:
    pid = postmaster(server)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cwd").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return pid


def test_second_start_attaches_instead_of_starting_another(used_home: Path) -> None:
    first = embedded_postgres.start(used_home)
    pid = postmaster(first)
    assert embedded_postgres.start(used_home) == first == embedded_postgres.running(used_home)
    assert postmaster(first) == pid


def test_attaching_starts_no_process(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = embedded_postgres.start(used_home)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert embedded_postgres.start(used_home) == server


def test_two_processes_starting_at_once_get_one_server(home: Path) -> None:
    starters = [started_elsewhere(home) for _ in range(3)]
    assert len({starter.communicate(timeout=50)[0] for starter in starters}) == 1
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert (home / "postgres" / "log").read_text().count("starting PostgreSQL") == 1


def test_server_outlives_a_killed_parent_and_keeps_none_of_its_pipes(used_home: Path) -> None:
    waits = f"{START}; sys.stdout.flush(); import time; time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", waits, str(used_home)], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    assert parent.stdout.read() == b""
    parent.stdout.close()
    server = embedded_postgres.running(used_home)
    assert server is not None
    assert query(server, "SELECT 1") == 1


def test_stop_keeps_committed_rows(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert embedded_postgres.stop(used_home)
    assert embedded_postgres.running(used_home) is None
    assert query(embedded_postgres.start(used_home), "SELECT answer FROM kept") == 42


def test_stop_ends_open_sessions_instead_of_waiting_for_them(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    with psycopg.connect(server.conninfo()) as session:
        session.execute("SELECT 1")
        assert embedded_postgres.stop(used_home)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_stop_with_none_running_does_nothing(home: Path, template: Path) -> None:
    assert not embedded_postgres.stop(home)
    assert not home.exists()
    assert not embedded_postgres.stop(template)


def test_private_home_is_used_as_it_is(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    home = private / "home"
    home.mkdir(mode=0o700)
    before = [(folder.stat().st_mode, folder.stat().st_uid) for folder in (private, home)]
    try:
        server = embedded_postgres.start(home)
        assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in (private, home)] == before
        assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
        assert query(server, "SHOW listen_addresses") == ""
        assert list(home.iterdir()) == [home / "postgres"]
    finally:
        embedded_postgres.stop(home)


@pytest.mark.parametrize("name", ['it\'s "a" $(home) `x` \\ %41 & ü:1', "with,comma"])
def test_punctuation_in_home_does_not_break_commands_or_urls(place: Path, template: Path, name: str) -> None:
    home = place / name
    shutil.copytree(template, home)
    try:
        server = embedded_postgres.start(home)
        embedded_postgres.ensure_database(server, "with space/ü")
        engine = sqlalchemy.create_engine(server.url("with space/ü"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == "with space/ü"
        engine.dispose()
        assert query(server, "SELECT current_user") == "ingestion"
    finally:
        embedded_postgres.stop(home)


def test_too_long_socket_path_goes_to_tcp_and_refuses_a_wrong_password(place: Path) -> None:
    home = place / ("long" * 25)
    try:
        server = embedded_postgres.start(home)
        assert server.host == "127.0.0.1"
        assert server == embedded_postgres.start(home)
        assert query(server, "SHOW listen_addresses") == "127.0.0.1"
        password = server.data / "ingestion.password"
        assert stat.S_IMODE(password.stat().st_mode) == 0o600
        for wrong in ("wrong", ""):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(server.conninfo(), password=wrong)
        engine = sqlalchemy.create_engine(server.url())
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_user")) == "ingestion"
        engine.dispose()
        assert password.read_text() not in repr(server)
        with Database.at(server.url()).connect() as connection:
            found = [connection.execute(f"SHOW tcp_keepalives_{name}").fetchone() for name in ("idle", "interval", "count")]
            assert found == [("60",), ("10",), ("3",)], "a machine that has vanished is given up after a minute and a half"

        embedded_postgres.stop(home)
        assert embedded_postgres.start(home) == server, "a URL handed out before a restart must go on working"
    finally:
        embedded_postgres.stop(home)


def test_copied_home_does_not_attach_to_the_server_it_was_copied_from(place: Path) -> None:
    original, copy = place / ("long" * 25), place / ("copy" * 25)
    try:
        server = embedded_postgres.start(original)
        (copy / "postgres" / "data").mkdir(parents=True)
        for name in ("postmaster.pid", "ingestion.password"):
            shutil.copy(server.data / name, copy / "postgres" / "data" / name)
        assert embedded_postgres.running(copy) is None
        assert not embedded_postgres.stop(copy)
        assert embedded_postgres.running(original) == server
    finally:
        embedded_postgres.stop(original)


def test_killed_server_is_recovered(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(postmaster(server), signal.SIGKILL)
    assert query(embedded_postgres.start(used_home), "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("content", ["recycled", "empty"])
def test_pid_file_left_by_a_crash_does_not_block_the_start_or_harm_the_new_owner(used_home: Path, content: str) -> None:
    server = embedded_postgres.start(used_home)
    pid = crash(server)
    files = [server.data / "postmaster.pid", server.data.parent / ".s.PGSQL.5432.lock"]
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            for file in files:
                file.write_text(file.read_text().replace(str(pid), str(stranger.pid), 1) if content == "recycled" else "")
            assert embedded_postgres.running(used_home) is None
            assert not embedded_postgres.stop(used_home)
            assert query(embedded_postgres.start(used_home), "SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_half_done_initdb_is_done_again(home: Path) -> None:
    data = home / "postgres" / "data"
    (data / "base").mkdir(parents=True)
    (data / "PG_VERSION").touch()
    (home / "postgres" / "data.new-crashed").mkdir()
    server = embedded_postgres.start(home)
    assert query(server, "SHOW server_encoding") == "UTF8"
    kept = sorted(path.name.split("-")[0] for path in (home / "postgres").iterdir() if path.is_dir())
    assert kept == ["data", "data.incomplete"]


def test_data_of_another_major_version_says_what_to_do(used_home: Path) -> None:
    (used_home / "postgres" / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigurationError, match=r"made by Postgres 15, .*Postgres 18.*pg_upgrade"):
        embedded_postgres.start(used_home)


def test_server_that_cannot_start_names_its_log_and_the_reason(used_home: Path) -> None:
    configuration = used_home / "postgres" / "data" / "postgresql.conf"
    configuration.write_text("nonsense = = 1\n")
    with pytest.raises(ConfigurationError) as caught:
        embedded_postgres.start(used_home)
    assert str(used_home / "postgres" / "log") in str(caught.value)
    assert "syntax error" in str(caught.value)


def test_home_that_is_a_file_is_a_configuration_error(home: Path) -> None:
    home.touch()
    with pytest.raises(ConfigurationError, match="INGESTION_HOME"):
        embedded_postgres.start(home)


def test_root_without_user_namespaces_is_told_what_to_do(home: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = place / "programs"
    programs.mkdir()
    unshare = programs / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        patch.setattr(os, "geteuid", lambda: 0)
        with pytest.raises(ConfigurationError, match=r"(?s)Operation not permitted.*INGESTION_DATABASE_URL"):
            embedded_postgres.start(home)
        patch.setenv("PATH", str(place))
        with pytest.raises(ConfigurationError, match="no unshare command"):
            embedded_postgres.start(home)


def test_database_created_by_several_at_once_is_created_once(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: embedded_postgres.ensure_database(server, "dagster"), range(4)))
    assert query(server, "SELECT count(*) FROM pg_database WHERE datname = 'dagster'") == 1


def test_dropped_database_is_made_again(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE ingestion")
    assert query(embedded_postgres.start(used_home), "SELECT current_database()") == "ingestion"


def test_postgres_variables_of_the_user_change_nothing(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "nowhere", "PGUSER": "x", "PGDATABASE": "x", "PGCLIENTENCODING": "LATIN1"}
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        server = embedded_postgres.start(used_home)
    assert query(server, "SHOW client_encoding") == "UTF8"


def test_commits_are_durable(used_home: Path) -> None:
    server = embedded_postgres.start(used_home)
    assert [query(server, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on", "on", "on"]
