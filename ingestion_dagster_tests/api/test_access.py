"""The door of the private API: closed to whoever has no token, to too much and too many, and to pages of elsewhere."""

import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import SecretStr

from ingestion_dagster.api import access
from ingestion_dagster.api.access import Access, RateLimit, check_binding, is_loopback
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.api.asking import Client, answering

TOKEN = "a token of the test's"  # pragma: allowlist secret
WORD = "zyxwquark"
A_UUID = "11111111-2222-4333-8444-55555555555a"


def behind(token: str | None, limit: RateLimit | None = None) -> FastAPI:
    """An application that says who has asked it what."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(Access, token=SecretStr(token) if token else None, limit=limit or RateLimit(1000))

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, Any]:
        return {"client": request.state.caller.client, "body": len(await request.body())}

    @app.post("/broken")
    def broken() -> None:
        raise ValueError(WORD)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"token": "w"}

    return app


@pytest.fixture(scope="module")
def is_open() -> Iterator[Client]:
    """An API without a token."""
    with answering(behind(None)) as client:
        yield client


@pytest.fixture(scope="module")
def guarded() -> Iterator[Client]:
    """One with a token, that the client has."""
    with answering(behind(TOKEN), TOKEN) as client:
        yield client


def test_who_has_the_token_may_ask_and_is_called_so(guarded: Client):
    assert guarded.ask("POST", "/echo", {}).json == {"client": "token", "body": 2}
    assert guarded.ask("POST", "/echo", {}, Authorization=f"bearer  {TOKEN}").status == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"], ids=range(8)
)
def test_without_the_token_nothing_is_read_or_answered(guarded: Client, given: str):
    answer = guarded.ask("POST", "/broken", {WORD: WORD}, Authorization=given)
    assert (answer.status, answer.headers["www-authenticate"], answer.json["status"]) == (401, "Bearer", 401)
    assert WORD not in str(answer)
    assert guarded.ask("GET", "/nowhere", Authorization=given).status == 401


def test_whether_it_answers_may_be_asked_by_everybody(guarded: Client):
    assert Client(guarded.port).ask("GET", "/healthz").json == {"token": "w"}
    assert Client(guarded.port).ask("GET", "/healthz/").status == 401


def test_without_a_token_a_client_is_called_by_its_address_whatever_it_claims(is_open: Client):
    headers = {"X_Forwarded_For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X_Real_IP": "10.0.0.1"}
    assert is_open.ask("POST", "/echo", {}, **headers).json["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "", "[::2]", "a@127.0.0.1"]
)
def test_a_page_that_has_its_name_lead_to_us_is_refused(is_open: Client, host: str):
    assert is_open.ask("POST", "/echo", {}, Host=host).status == 421
    assert is_open.ask("GET", "/healthz", Host=host).status == 421


def test_a_request_that_names_two_hosts_is_refused(is_open: Client):
    with socket.create_connection(("127.0.0.1", is_open.port), timeout=30) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert plain.recv(100).split(b" ")[1] in (b"421", b"400")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:99", "127.8.0.1:1", "[::1]", "[::1]:8001"])
def test_who_names_this_machine_is_answered(is_open: Client, host: str):
    assert is_open.ask("POST", "/echo", {}, Host=host).status == 200


def test_with_a_token_a_host_may_have_any_name(guarded: Client):
    assert guarded.ask("POST", "/echo", {}, Host="api.example").status == 200


def test_a_large_body_is_refused_whether_its_size_is_told_or_not(is_open: Client):
    most = access.MOST_BODY_BYTES
    assert is_open.ask("POST", "/echo", raw=b"x" * most).json["body"] == most
    assert is_open.ask("POST", "/echo", raw=b"x" * (most + 1)).status == 413
    assert is_open.ask("POST", "/echo", raw=b"", Content_Length=f"{'9' * 400}").status in (400, 413)
    chunks = b"".join(b"2000\r\n" + b"x" * 0x2000 + b"\r\n" for _ in range(9)) + b"0\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", is_open.port), timeout=30) as plain:
        plain.sendall(head + chunks)
        assert plain.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_not_waited_for(is_open: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", is_open.port), timeout=30) as plain:
        plain.sendall(b'POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"id')
        assert plain.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_away_halfway_hinders_nobody(is_open: Client, caplog: pytest.LogCaptureFixture):
    with socket.create_connection(("127.0.0.1", is_open.port), timeout=30) as plain:
        plain.sendall(b'POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"id')
    assert is_open.ask("POST", "/echo", {}).status == 200
    assert caplog.text == ""


def test_what_breaks_is_told_by_its_kind_and_place_alone(is_open: Client, caplog: pytest.LogCaptureFixture):
    answer = is_open.ask("POST", "/broken", {WORD: WORD}, CorrelationID=A_UUID)
    assert (answer.status, answer.json["status"], answer.headers["correlationid"]) == (500, 500, A_UUID)
    assert "ValueError" in caplog.text
    assert A_UUID in caplog.text
    assert WORD not in caplog.text + str(answer)


@pytest.mark.parametrize("name", ["CorrelationID", "X-Correlation-ID", "x-correlation-id"])
def test_a_request_keeps_the_id_that_it_comes_with(is_open: Client, name: str):
    assert is_open.ask("POST", "/echo", {}, **{name: A_UUID.upper()}).headers[name.lower()] == A_UUID


@pytest.mark.parametrize("given", [None, "", WORD, f"{A_UUID}; {WORD}"])
def test_anything_else_is_no_id_and_a_new_one_is_made(is_open: Client, given: str | None):
    headers = {} if given is None else {"CorrelationID": given}
    first, second = (is_open.ask("POST", "/echo", {}, **headers).headers["correlationid"] for _ in range(2))
    assert first == str(uuid.UUID(first)) != second


def test_an_answer_is_kept_by_nobody_on_the_way(is_open: Client):
    answer = is_open.ask("POST", "/echo", {})
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_who_asks_too_much_is_told_when_to_come_again_and_others_are_not():
    with answering(behind(TOKEN, RateLimit(3, clock=lambda: 0.0)), TOKEN) as client:
        assert [client.ask("POST", "/echo", {}).status for _ in range(4)] == [200, 200, 200, 429]
        refused = client.ask("POST", "/echo", {})
        assert int(refused.headers["retry-after"]) >= 1
        stranger = Client(client.port, "no")
        assert [stranger.ask("POST", "/echo", {}).status for _ in range(4)] == [401, 401, 401, 429]
        assert client.ask("GET", "/healthz").status == 200


def test_a_client_may_ask_as_often_as_the_rate_says():
    now = 0.0
    limit = RateLimit(10, clock=lambda: now)
    assert [limit.take("a") > 0 for _ in range(12)] == [False] * 10 + [True, True]
    assert limit.take("b") == 0
    assert limit.take("a") == pytest.approx(0.1)
    now = 0.1
    assert [limit.take("a") > 0 for _ in range(2)] == [False, True]
    now = 1000.0
    assert [limit.take("a") > 0 for _ in range(11)] == [False] * 10 + [True]


def test_a_rate_below_one_a_second_lets_one_through():
    now = 0.0
    limit = RateLimit(0.1, clock=lambda: now)
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(10)
    now = 10.0
    assert limit.take("a") == 0


def test_any_number_of_clients_is_remembered_in_a_bounded_space(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "_MOST_CLIENTS", 3)
    limit = RateLimit(1, clock=lambda: 0.0)
    assert [limit.take(f"{number}") for number in range(100)] == [0.0] * 100
    assert len(limit._full_at) == 3
    assert limit.take("99") > 0


@pytest.mark.parametrize(("host", "is_so"), [
    ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("api.example", False), ("", False), ("127.0.0.1.example", False),
])  # fmt: skip
def test_what_is_loopback(host: str, is_so: bool):
    assert is_loopback(host) is is_so
    if is_so:
        check_binding(Settings(), host)
    else:
        with pytest.raises(ConfigurationError, match="INGESTION_API_TOKEN"):
            check_binding(Settings(), host)
    check_binding(Settings(api_token=SecretStr(TOKEN)), host)


def test_many_at_once_are_each_answered_with_their_own(is_open: Client):
    found: dict[str, str] = {}

    def ask() -> None:
        mine = str(uuid.uuid4())
        found[mine] = is_open.ask("POST", "/echo", {}, CorrelationID=mine).headers["correlationid"]

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(sent == echoed for sent, echoed in found.items())
