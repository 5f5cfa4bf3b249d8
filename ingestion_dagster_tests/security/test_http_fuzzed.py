"""The private API: every route refuses who has no token, and answers whatever it is sent with a status and a body that are told of."""

import http.client
import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from ingestion_dagster.api import catalog, life_events, metrics
from ingestion_dagster.api.app import create_app
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.asking import Answer, Client, answering
from ingestion_dagster_tests.api.catalog_scene import Scene, module_database
from ingestion_dagster_tests.security.surfaces import OPEN, ROUTES

__all__ = ["module_database"]

TOKEN = "a token of the test's"  # pragma: allowlist secret
WORD = "zyxwquark"
EXPECTED = {200, 202, 400, 401, 404, 405, 409, 410, 413, 415, 422, 503}

PLACES = (
    "../../etc/passwd",
    "..\\..\\x",
    "a\0b",
    "a\r\nX-Evil: 1",
    "'; DROP TABLE x; --",
    "%2e%2e%2f",
    "\U0001d51e" * 200,
    "-rf",
    "*",
    "_all",
    "a" * 5000,
)
TEXTS = (
    "",
    "\0",
    "\ud800",
    "a\r\nb",
    "1e400",
    WORD * 500,
    "' OR 1=1 --",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "../../x",
    "*",
    "image,-audio",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1@evil.example/",
    "gopher://x",
    "http://[::ffff:169.254.169.254]/",
)
VALUES: tuple[object, ...] = (None, True, -1, 10**400, 1.5, float("nan"), [], {}, [[[[]]]], {"a": {"b": [WORD]}}, *TEXTS)
FIELDS = (
    "id",
    "model",
    "action",
    "callback_url",
    "index_suffix",
    "alias",
    "destination_index_suffix",
    "since_date",
    "force_delete",
    "$where",
    "__proto__",
)
RAW = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"[" * 20_000,
    b'{"a":' * 5_000,
    b'{"id": NaN}',
    b'{"id":"\xed\xa0\x80"}',
    b'{"id":1e999}',
    b'{"id":"a","id":"b"}',
    b"\xef\xbb\xbf{}",
    b'{"model":"image","action":"REINDEX"',
    b"<a/>",
    b"a=b&c=d",
    b"9" * 60_000,
)
HEADERS = (
    {"Content_Type": "text/plain"},
    {"Content_Type": "application/json; charset=utf-16"},
    {"Idempotency_Key": "a" * 300},
    {"Idempotency_Key": "\xe9"},
    {"X_Forwarded_For": "127.0.0.1"},
    {"X_HTTP_Method_Override": "DELETE"},
    {"Content_Encoding": "gzip"},
    {"Accept": "*/*" * 1000},
    {"CorrelationID": "${jndi:ldap://x}"},
    {"Authorization": f"Bearer {TOKEN}\t"},
    {"Range": "bytes=0-1"},
    {"Transfer_Encoding": "identity"},
)


@pytest.fixture(scope="module")
def client(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        url = module_database.sqlalchemy_url
        for name in ("DATABASE_URL", "CATALOG_UPSTREAM_URL", "CATALOG_API_DATABASE_URL"):
            patch.setenv(f"INGESTION_{name}", url)
        patch.setenv("INGESTION_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("INGESTION_API_TOKEN", TOKEN)
        patch.setenv("INGESTION_API_REQUESTS_PER_SECOND", "100000")
        scene = Scene(current())
        scene.index("image-a", "image")
        scene.launcher.holds = True
        with answering(create_app(scene.settings, catalog_desk=scene.desk()), TOKEN) as client:
            yield client


def routes_of(settings: Settings) -> set[tuple[str, str]]:
    made = [*create_app(settings).routes, *catalog.router.routes, *life_events.router.routes, *metrics.router.routes]
    found = [(route.path, route.methods or set()) for route in made if isinstance(route, (Route, APIRoute))]
    return {(method, path) for path, methods in found for method in methods - {"HEAD"}}


def test_every_route_is_in_the_list(settings: Settings) -> None:
    assert routes_of(settings) == ROUTES


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_who_has_no_token_is_told_nothing(client: Client, method: str, path: str) -> None:
    stranger, expected = Client(client.port), 200 if (method, path) in OPEN else 401
    assert stranger.ask(method, path, {}).status == expected
    for token in (f"{TOKEN}x", TOKEN[:-1], TOKEN.upper(), f"x {TOKEN}", "null", "undefined"):
        assert stranger.ask(method, path, {}, Authorization=f"Bearer {token}").status == expected
    assert stranger.ask(method, f"{path}?token={quote(TOKEN)}&access_token={quote(TOKEN)}", {}, Cookie=f"token={TOKEN}").status == expected


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_no_body_query_path_or_header_is_more_than_a_refusal(client: Client, method: str, path: str) -> None:
    asked = 0
    for place in PLACES:
        quoted = quote(place, safe="")
        for inside in (path.replace("{name}", quoted).replace("{task_id}", quoted), f"{path}?check_deps={quoted}"):
            sound(client.ask(method, inside, {}))
            asked += 1
    if method == "POST":
        for field in FIELDS:
            for value in VALUES:
                body = {"model": "image", "action": "DELETE_INDEX", "index_suffix": "b", field: value}
                sound(client.ask(method, path, raw=json.dumps(body).encode("utf-8", "surrogatepass")))
    for raw in RAW:
        sound(client.ask(method, path, raw=raw))
    for headers in HEADERS:
        sound(client.ask(method, path, {"id": WORD}, **headers))
    assert asked == 2 * len(PLACES)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "OPTIONS", "CONNECT", "PROPFIND"])
def test_no_other_method_does_anything(client: Client, method: str) -> None:
    for _, path in sorted(ROUTES):
        assert client.ask(method, path.replace("{", "").replace("}", "")).status in (400, 404, 405)


def test_a_request_that_is_none_is_closed(client: Client) -> None:
    for line in (b"GET / HTTP/9.9", b"\0\0\0\0", b"GET " + b"a" * 100_000 + b" HTTP/1.1", b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
        try:
            connection.connect()
            connection.sock.sendall(line + b"\r\n\r\n")
            assert connection.sock.recv(100)[:10] in (b"HTTP/1.1 4", b"")
        except (ConnectionResetError, BrokenPipeError):
            pass
        finally:
            connection.close()
    assert client.ask("GET", "/healthz").status == 200


def sound(answer: Answer) -> None:
    """Nobody's fault but the caller's; nothing of what was sent is said again in a header, and no trace of ours."""
    assert answer.status in EXPECTED, str(answer)
    assert "x-evil" not in answer.headers
    assert WORD not in str(answer.headers)
    assert b"Traceback" not in answer.body
    assert b"psycopg" not in answer.body
    if answer.headers["content-type"] == "application/json":
        assert answer.body == b"" or answer.json is not None
