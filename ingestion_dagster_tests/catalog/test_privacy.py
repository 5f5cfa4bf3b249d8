"""No secret is told, no sensitive term, and no value of a row by an error: not in logs, Dagster's storage, tables, indexes or messages.

Markers are the passwords of three databases and of the search cluster, the API's token, the keys, and every sensitive term. Rows hold one
of the terms, and a URL twice, which Postgres quotes: both are where rows are, and nowhere else.
"""

import base64
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from dagster._core.execution.plan.active import ActiveExecution
from psycopg import sql

from ingestion_dagster import cli
from ingestion_dagster.api.app import create_app
from ingestion_dagster.catalog import sensitive
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.asking import answering
from ingestion_dagster_tests.api.catalog_scene import until
from ingestion_dagster_tests.api.test_callbacks import listening
from ingestion_dagster_tests.catalog import scene
from ingestion_dagster_tests.catalog.slack_server import slack_server

SECRETS = {
    name: f"zqx{name}word{number}"
    for number, name in enumerate(("ledger", "upstream", "apidb", "search", "token", "callback", "slacktoken", "hook"), 10)
}
TERM, OTHER_TERMS = "zqxterrible", ("zqxawful", "zqxdreadful thing")
VALUE = "zqxquoted"
MARKERS = (*SECRETS.values(), TERM, *OTHER_TERMS, VALUE)
_SEARCH = re.compile(
    b"|".join(
        re.escape(found)
        for marker in MARKERS
        for found in (
            marker.encode(),
            marker.encode().hex().encode(),
            # As base64 has it, wherever it begins.
            *(base64.b64encode(b"\0" * shift + marker.encode())[(0, 2, 3)[shift] : -4] for shift in range(3)),
        )
    ),
    re.IGNORECASE,
)

Call = Callable[..., int]


def found_in(content: bytes | str) -> list[bytes]:
    """The markers that stand in this, with a little of what is around them."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    return [raw[max(0, match.start() - 100) : match.end() + 40] for match in _SEARCH.finditer(raw)]


def leaks(where: Mapping[str, bytes | str]) -> dict[str, list[bytes]]:
    return {place: found[:3] for place, content in where.items() if (found := found_in(content))}


def with_password(database: Database, name: str) -> str:
    """Its URL, with a user and a password: the server asks for none."""
    return database.sqlalchemy_url.replace("://ingestion@", f"://ingestion:{SECRETS[name]}@")


def tables(database: Database, schemas: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What stands in the tables of these schemas, and in what the catalogue of the database says of them."""
    with database.connect() as connection:
        names = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) AND tablename NOT IN ('image', 'audio', 'audioset')"
        for schema, table in connection.execute(names, [list(schemas)]).fetchall():
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(schema, table)))
            yield f"{schema}.{table}", "\n".join(row[0] for row in rows)
        for catalogue in (
            "pg_description",
            "pg_shdescription",
            "pg_user_mappings",
            "pg_foreign_server",
            "pg_proc",
            "pg_attrdef",
            "pg_views",
        ):
            shown = connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(catalogue)))
            yield catalogue, "\n".join(row[0] for row in shown)


def stored(home: Path) -> Iterator[tuple[str, bytes | str]]:
    """Every file below the home."""
    for path in home.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
            if path.suffix == ".db":
                with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as opened:
                    yield f"{path} as text", "\n".join(opened.iterdump())


@pytest.fixture
def secretive(
    catalog_settings: Settings, database: Database, upstream: Database, api: Database, tmp_path: Path
) -> Iterator[pytest.MonkeyPatch]:
    """An installation whose every secret is a marker, with forty images upstream of which four hold a sensitive term."""
    terms = tmp_path / "terms.txt"
    terms.write_text("\n".join((TERM, *OTHER_TERMS)))
    with upstream.connect() as connection:
        scene.upstream_tables(connection)
        scene.put_upstream(connection, "image", scene.rows(range(1, 41)))
        connection.execute("UPDATE image SET title = title || %s WHERE foreign_identifier LIKE '%%-4_'", [f" {TERM}"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INGESTION_DATABASE_URL", with_password(database, "ledger"))
        patched.setenv("INGESTION_CATALOG_UPSTREAM_URL", with_password(upstream, "upstream"))
        patched.setenv("INGESTION_CATALOG_API_DATABASE_URL", with_password(api, "apidb"))
        patched.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", terms.as_uri())
        patched.setenv("INGESTION_API_TOKEN", SECRETS["token"])
        patched.setenv("INGESTION_API_CALLBACK_KEY", SECRETS["callback"])
        patched.setenv("INGESTION_SLACK_CHANNEL", "nobody")
        patched.delenv("DAGSTER_HOME", raising=False)
        # A step that is tried again waits before; what it says is the same.
        patched.setattr(ActiveExecution, "sleep_til_ready", lambda _self: None)
        yield patched


@pytest.fixture
def call(secretive: pytest.MonkeyPatch) -> Call:
    """The command, in this process; its exit code."""

    def called(*arguments: str) -> int:
        secretive.setattr(sys, "argv", ["ingestion", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
        return 0

    return called


def everything(settings: Settings, database: Database, api: Database) -> dict[str, bytes | str]:
    """Every place where a run leaves something."""
    where: dict[str, bytes | str] = {f"ledger: {name}": rows for name, rows in tables(database, ("ledger", "catalog"))}
    where |= {f"api: {name}": rows for name, rows in tables(api, ("catalog_next", "catalog_previous"))}
    where.update(stored(settings.home_folder))
    assert any(place.endswith(".db as text") for place in where), "Dagster has stored something"
    assert where["ledger: ledger.loads"]
    return where


def test_the_search_finds_what_it_looks_for_and_nothing_else() -> None:
    for marker in MARKERS:
        for leak in (f"postgresql://a:{marker}@b", json.dumps([marker.upper()]), marker.encode().hex()):
            assert found_in(leak), leak
        assert found_in(base64.b64encode(f"ingestion:{marker} and more".encode())), marker
    assert not found_in("zqx, harbour lantern 7, https://live.flickr.example/7.jpg")


def test_no_secret_and_no_term_is_told_by_a_refresh(
    secretive: pytest.MonkeyPatch,
    call: Call,
    database: Database,
    api: Database,
    opensearch: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with slack_server() as slack:
        secretive.setenv("INGESTION_SLACK_WEBHOOK_URL", f"{slack.url}/services/{SECRETS['hook']}")
        secretive.setenv("INGESTION_CATALOG_SEARCH_URL", opensearch.replace("://", f"://ingestion:{SECRETS['search']}@"))
        assert call("run", "catalog", "--dataset", "image") == 0
        assert call("status", "catalog", "--loads") == 0
        assert slack.calls, "people were told"
        where: dict[str, bytes | str] = {"slack": json.dumps([content for _, content in slack.calls])}
    for what in ("_mapping", "_settings", "_alias"):
        with urlopen(f"{opensearch}/image*/{what}") as answer:
            where[what] = answer.read()
    where |= {"commands": str(capfd.readouterr()), "log": caplog.text} | everything(current(), database, api)
    assert leaks(where) == {}


def test_what_does_not_answer_is_told_without_its_password_in_one_line(
    secretive: pytest.MonkeyPatch,
    call: Call,
    database: Database,
    api: Database,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    run, search = ("run", "catalog", "--dataset", "image"), ("catalog", "search", "image", "lantern")
    upstream, password = "INGESTION_CATALOG_UPSTREAM_URL", SECRETS["upstream"]  # pragma: allowlist secret
    secretive.setenv("INGESTION_CATALOG_SEARCH_PATIENCE_SECONDS", "0.2")
    commands = ""
    for command, variable, url in (
        (run, upstream, f"postgresql://ingestion:{password}@127.0.0.1:9/nowhere"),
        (run, upstream, f"postgresql://ingestion:{password}@127.0.0.1:port/a"),
        (run, upstream, f"postgresql://ingestion:{password}@127.0.0.1/a?{password}=1"),
        (run, "INGESTION_CATALOG_API_DATABASE_URL", f"mysql://ingestion:{SECRETS['apidb']}@127.0.0.1/a"),
        (run, "INGESTION_DATABASE_URL", f"postgresql://ingestion:{SECRETS['ledger']}@127.0.0.1:9/nowhere"),
        (run, "INGESTION_CATALOG_SEARCH_URL", f"http://ingestion:{SECRETS['search']}@127.0.0.1:9"),
        (("catalog", "count", "image"), "INGESTION_CATALOG_API_DATABASE_URL", f"postgresql://a:{SECRETS['apidb']}@127.0.0.1:9/nowhere"),
        (search, "INGESTION_CATALOG_SEARCH_URL", f"http://ingestion:{SECRETS['search']}@127.0.0.1:9"),
        (search, "INGESTION_CATALOG_SEARCH_URL", f"ftp://ingestion:{SECRETS['search']}@127.0.0.1"),
    ):
        with pytest.MonkeyPatch.context() as away:
            away.setenv(variable, url)
            code = call(*command)
        failed = capfd.readouterr()
        assert code == 1, (command, variable)
        # Before it stands what libraries log, as this test has asked for.
        assert failed.err.splitlines()[-1].startswith("ingestion: "), failed.err
        assert failed.err.count("ingestion: ") == 1, failed.err
        commands += failed.out + failed.err
    for url in (f"ftp://ingestion:{SECRETS['token']}@127.0.0.1/{TERM}", f"http://ingestion:{SECRETS['token']}@127.0.0.1:9/{TERM}"):
        secretive.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", url)
        with pytest.raises((ConfigurationError, Transient)) as raised:
            sensitive.fingerprint_of(current())
        commands += "".join(traceback.format_exception(raised.value))
    assert leaks({"commands": commands, "log": caplog.text} | everything(current(), database, api)) == {}


def test_a_row_that_is_refused_is_not_quoted(
    call: Call, database: Database, upstream: Database, api: Database, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with upstream.connect() as connection:
        connection.execute("ALTER TABLE image DROP CONSTRAINT IF EXISTS image_url_key")
        connection.execute("UPDATE image SET url = %s WHERE foreign_identifier IN ('work-1', 'work-2')", [f"https://a.example/{VALUE}"])
    assert call("run", "catalog", "--dataset", "image") == 2
    with upstream.connect() as connection:
        connection.execute(sql.SQL("ALTER TABLE image ALTER COLUMN width TYPE text USING {}").format(sql.Literal(VALUE)))
    assert call("run", "catalog", "--dataset", "image") == 2
    commands = str(capfd.readouterr())
    assert "duplicate_value" in commands
    assert "type_mismatch" in commands
    assert leaks({"commands": commands, "log": caplog.text} | everything(current(), database, api)) == {}


def test_no_secret_is_told_by_the_api_nor_to_whom_it_calls_back(
    secretive: pytest.MonkeyPatch, call: Call, database: Database, api: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert call("run", "catalog", "--dataset", "image") == 0
    secretive.setenv("INGESTION_CATALOG_UPSTREAM_URL", f"postgresql://ingestion:{SECRETS['upstream']}@127.0.0.1:9/nowhere")
    settings = current()
    answers: list[Any] = []
    with listening(200) as listener, answering(create_app(settings)) as client:
        for token in (None, SECRETS["token"]):
            asking = type(client)(client.port, token)
            for method, path, body in (
                ("GET", "/?check_deps=true", None), ("GET", "/task", None), ("GET", "/stat/image", None),
                ("POST", "/task", {"model": "image", "action": "POINT_ALIAS", "index_suffix": "none", "alias": "image"}),
                ("POST", "/task", {"model": "image", "action": "NONE", "callback_url": f"http://a:{SECRETS['callback']}@b/"}),
            ):  # fmt: skip
                answers.append(asking.ask(method, path, body))
        asking = type(client)(client.port, SECRETS["token"])
        url = f"http://127.0.0.1:{listener.port}/"
        asked = asking.ask("POST", "/task", {"model": "image", "action": "INGEST_UPSTREAM", "index_suffix": "init", "callback_url": url})
        assert asked.status == 202, asked
        until(lambda: listener.got, "the end is told")
        assert b"INGEST_UPSTREAM" in listener.got[0][2]
        answers += [asked, asking.ask("GET", f"/task/{asked.json['task_id']}"), listener.got]
    where = everything(settings, database, api) | {"answers": "\n".join(map(str, answers)), "log": caplog.text}
    assert leaks(where) == {}


def test_a_process_that_fails_at_its_start_prints_no_secret(secretive: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even in a stack trace, or from the validation of settings."""
    for variable, value in (
        ("INGESTION_CATALOG_FIELDS", SECRETS["token"]),
        ("INGESTION_DATABASE_URL", f"postgresql://a:{SECRETS['ledger']}@127.0.0.1:9/b"),
        ("INGESTION_API_PORT", SECRETS["token"]),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", "from ingestion_dagster.cli import main; main()", "run", "catalog"],
            cwd=tmp_path,
            env=os.environ | {variable: value},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        assert variable in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert leaks({variable: ended.stdout + ended.stderr}) == {}


def test_an_error_of_the_database_quotes_the_row_to_begin_with(upstream: Database) -> None:
    """What the search above would find, if anybody passed it on."""
    with upstream.connect() as connection:
        scene.upstream_tables(connection)
        connection.execute("CREATE UNIQUE INDEX ON image (title)")
        scene.put_upstream(connection, "image", [scene.row(1, title=VALUE)])
        with pytest.raises(psycopg.errors.UniqueViolation) as raised:
            scene.put_upstream(connection, "image", [scene.row(2, title=VALUE)])
    assert found_in(str(raised.value))
