"""The sandbox's events platform: its tokens, its switches, and that it is the same after it was killed."""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ingestion_dagster.sandbox.events_platform_parties import ACQUIRER, ADMINISTRATOR, PUBLISHER
from ingestion_dagster.sandbox.events_platform_switches import KINDS, STATUSES
from ingestion_dagster_tests.sandbox.platform_asking import Client, Everybody, answering, platform

CUT = (ConnectionError, http.client.HTTPException)
FORM = {"grant_type": "client_credentials", "client_id": PUBLISHER[0], "client_secret": PUBLISHER[1]}


class Clock:
    now = 1_927_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def they(clock: Clock) -> Iterator[Everybody]:
    with answering(platform(clock=clock)) as they:
        yield they


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def basic(client_id: str, secret: str, scheme: str = "Basic") -> dict[str, str]:
    return {"Authorization": f"{scheme} {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"}


def test_a_token_is_a_jwt_of_one_hour_that_the_published_key_verifies(they: Everybody, clock: Clock):
    answer = they.nobody.form(**FORM)
    assert answer.status == 200
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 3600)
    head, body, signature = answer.json["access_token"].split(".")
    claims = json.loads(decoded(body))
    assert (claims["sub"], claims["scope"], claims["exp"] - clock.now) == (PUBLISHER[0], "events/publish", 3600)
    header = json.loads(decoded(head))
    [key] = they.nobody.get("/.well-known/jwks.json")["keys"]
    assert (header["alg"], header["kid"]) == ("RS256", key["kid"])
    public = rsa.RSAPublicNumbers(int.from_bytes(decoded(key["e"])), int.from_bytes(decoded(key["n"]))).public_key()
    public.verify(decoded(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidSignature):
        public.verify(decoded(signature), f"{head}.{body}x".encode(), padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_secret": "wrong"}, "invalid_client"),  # pragma: allowlist secret
        ({"client_secret": ""}, "invalid_client"),
        ({"client_secret": ACQUIRER[1]}, "invalid_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": "nobody", "client_secret": "-"}, "invalid_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"scope": "events/consume"}, "invalid_scope"),
    ],
    ids=str,
)
def test_a_request_for_a_token_is_refused_by_oauths_names(they: Everybody, change: dict[str, str], error: str):
    answer = they.nobody.form(**{name: value for name, value in (FORM | change).items() if value})
    assert (answer.status, answer.json) == (400, {"error": error})


def test_a_form_is_what_is_read(they: Everybody):
    assert they.nobody.ask("POST", "/oauth2/token", FORM).json == {"error": "invalid_request"}
    assert they.nobody.send("POST", "/oauth2/token", b"\xff", {"Content-Type": "application/x-www-form-urlencoded"}).status == 400
    assert they.nobody.form(**FORM, scope="events/publish").status == 200


def test_a_client_may_come_by_http_basic(they: Everybody):
    grant = {"grant_type": "client_credentials"}
    assert they.nobody.form(basic(*PUBLISHER), **grant).status == 200
    for wrong in (basic(PUBLISHER[0], "wrong"), basic(*PUBLISHER, "Bearer"), {"Authorization": "Basic !"}, {"Authorization": "Basic"}):
        assert they.nobody.form(wrong, **grant).json == {"error": "invalid_client"}, wrong


@pytest.mark.parametrize("client", [PUBLISHER, ACQUIRER, ADMINISTRATOR], ids=lambda client: client[0])
def test_a_token_has_all_scopes_of_its_client(they: Everybody, client: tuple[str, str]):
    claims = json.loads(decoded(they.nobody.as_(client).login().split(".")[1]))
    assert claims["scope"] == {PUBLISHER: "events/publish", ACQUIRER: "events/consume", ADMINISTRATOR: "events/admin"}[client]


def test_a_token_expires_when_its_time_is_up(they: Everybody, clock: Clock):
    assert they.publisher.publish("h1").status == 201
    clock.now += 3599
    assert they.publisher.publish("h2").status == 201
    clock.now += 1
    assert they.publisher.publish("h3").status == 401
    they.nobody.switch("settings", {"token_seconds": 5})
    they.publisher.token = they.publisher.login()
    assert they.nobody.form(**FORM).json["expires_in"] == 5
    assert they.publisher.publish("h4").status == 201
    clock.now += 5
    assert they.publisher.publish("h5").status == 401


def test_all_tokens_end_at_once_and_new_ones_do_not(they: Everybody):
    assert they.publisher.publish("h1").status == 201
    they.nobody.switch("tokens/expire")
    assert they.publisher.publish("h2").status == 401
    they.publisher.token = they.publisher.login()
    assert they.publisher.publish("h2").status == 201


@pytest.mark.parametrize("kind", sorted(STATUSES))
def test_a_status_in_place_of_the_answer_and_nothing_is_done(they: Everybody, kind: str):
    they.publisher.token = they.publisher.login()
    they.nobody.fault(kind, "publish", times=2, retry_after="7")
    for _ in range(2):
        answer = they.publisher.publish("h1")
        assert (answer.status, answer.json["status"], answer.headers["Retry-After"]) == (int(kind), int(kind), "7")
    assert they.nobody.state()["posts"] == 0
    assert they.publisher.publish("h1").status == 201


def test_the_token_endpoint_is_down_and_the_rest_is_not(they: Everybody):
    assert they.publisher.publish("h1").status == 201
    they.nobody.fault("503", "token", until=True)
    for _ in range(3):
        answer = they.nobody.form(**FORM)
        assert (answer.status, answer.json) == (503, {"error": "server_error"})
    assert they.publisher.publish("h2").status == 201
    they.nobody.switch("faults", method="DELETE")
    assert they.nobody.form(**FORM).status == 200


def test_a_lost_reply_is_of_something_that_was_done(they: Everybody):
    they.publisher.token = they.publisher.login()
    they.nobody.fault("lost", "publish")
    with pytest.raises(CUT):
        they.publisher.publish("h1")
    assert they.nobody.state()["supplier_events"] == 1
    assert they.publisher.publish("h1").status == 201
    assert they.nobody.state()["duplicate_posts"] == 1
    [event] = they.acquirer.ids()
    they.nobody.fault("lost", "consume")
    with pytest.raises(CUT):
        they.acquirer.ask("DELETE", f"/events/{event}")
    assert they.acquirer.ask("DELETE", f"/events/{event}").status == 404


def test_a_reset_is_of_something_that_was_not_done(they: Everybody):
    they.publisher.token = they.publisher.login()
    they.nobody.fault("reset", "publish", skip=1)
    assert they.publisher.publish("h1").status == 201
    with pytest.raises(CUT):
        they.publisher.publish("h2")
    assert they.nobody.state()["posts"] == 1


def test_slow_and_garbled_answers(they: Everybody):
    assert they.acquirer.ids() == []
    they.nobody.fault("slow_then_ok", "list", seconds=0.3)
    began = time.monotonic()
    assert they.acquirer.ids() == []
    assert time.monotonic() - began >= 0.3
    they.nobody.fault("html", "list")
    assert they.acquirer.ask("GET", "/events").headers["Content-Type"].startswith("text/html")
    they.nobody.fault("bad_json", "list")
    with pytest.raises(json.JSONDecodeError):
        json.loads(they.acquirer.ask("GET", "/events").body)
    assert they.acquirer.ids() == []
    they.nobody.switch("settings", {"latency_ms": 200})
    began = time.monotonic()
    they.acquirer.ids()
    assert time.monotonic() - began >= 0.2


def test_a_call_that_hangs_holds_up_no_other(they: Everybody):
    they.publisher.token = they.publisher.login()
    they.nobody.fault("hang", "publish")
    connection = http.client.HTTPConnection(they.nobody.url.removeprefix("http://"), timeout=0.3)
    try:
        connection.request("POST", "/events", b"{}", {"Authorization": f"Bearer {they.publisher.token}"})
        with pytest.raises(TimeoutError):
            connection.getresponse()
        assert they.publisher.publish("h1").status == 201
    finally:
        connection.close()


def test_more_than_the_rate_is_turned_away(they: Everybody):
    they.publisher.token = they.publisher.login()
    they.nobody.switch("settings", {"rate": 0.001, "burst": 2})
    statuses = [they.publisher.publish(f"h{number}").status for number in range(3)]
    assert statuses == [201, 201, 429]
    told = they.nobody.switch("requests", method="GET")
    assert (told["operations"]["publish"], told["throttled"]) == ({"201": 2, "429": 1}, 1)


def test_what_is_no_switch_is_refused(they: Everybody):
    for path, body in [
        ("faults", {"kind": "strange"}),
        ("faults", {"kind": "500", "op": "strange"}),
        ("faults", {"kind": "500", "strange": 1}),
        ("faults", {}),
        ("settings", {"strange": 1}),
        ("settings", {"rate": -1}),
        ("settings", {"rate": "x"}),
        ("settings", [1]),
    ]:
        assert they.nobody.ask("POST", f"/sandbox/{path}", body).status == 400, body
    assert they.nobody.ask("GET", "/sandbox/events?deleted=perhaps").status == 400
    assert they.nobody.switch("faults", method="GET") == []
    kinds = frozenset[str]().union(*KINDS.values())
    for kind in sorted(kinds):
        they.nobody.fault(kind)
    assert len(they.nobody.switch("faults", method="GET")) == len(kinds)
    assert they.nobody.switch("settings", method="GET")["rate"] == 0


def test_reset_forgets_all_but_tokens(they: Everybody):
    they.publisher.publish("h1")
    they.admin.ask("POST", "/admin/acquirer", {"acquirerName": "another", "eventType": "LIFE_EVENT", "enrichmentFields": []})
    they.nobody.switch("callbacks", {"url": "http://127.0.0.1:9"}, "PUT")
    they.nobody.fault("500")
    they.nobody.switch("reset")
    state = they.nobody.state()
    assert {name: state[name] for name in ("supplier_events", "acquirer_events", "posts")} == dict.fromkeys(
        ("supplier_events", "acquirer_events", "posts"), 0
    )
    assert they.nobody.switch("callbacks", method="GET") == {"url": None}
    assert they.publisher.publish("h1").status == 201
    assert len(they.admin.get("/acquirers")) == 1


@contextmanager
def process(folder: Path) -> Iterator[tuple[Client, "subprocess.Popen[bytes]"]]:
    """The server as the sandbox runs it."""
    file = folder / "sandbox" / "events_platform.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ingestion_dagster.sandbox.events_platform", str(file), "--token", "word", "--delete-seconds", "0"]
    with subprocess.Popen(command) as server:
        try:
            deadline = time.monotonic() + 30
            while not file.exists() and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            yield Client(json.loads(file.read_text(encoding="utf-8"))["url"]), server
        finally:
            server.kill()


def test_what_was_answered_is_there_after_a_kill_and_so_are_tokens(tmp_path: Path):
    with process(tmp_path) as (nobody, server):
        assert nobody.get("/healthz") == {"token": "word"}
        publisher, acquirer = nobody.as_(PUBLISHER), nobody.as_(ACQUIRER)
        for number in range(20):
            assert publisher.publish(f"h{number}").status == 201
        events = acquirer.ids()
        assert acquirer.ask("DELETE", f"/events/{events[0]}").status == 204
        nobody.switch("callbacks", {"url": "http://127.0.0.1:9", "token": "t"}, "PUT")
        nobody.switch("tokens/expire")
        ended, publisher.token = publisher.token, publisher.login()
        acquirer.token = acquirer.login()
        before = nobody.state()
        os.kill(server.pid, signal.SIGKILL)
        server.wait(timeout=10)
    with process(tmp_path) as (nobody, server):
        publisher.url = acquirer.url = nobody.url
        assert nobody.state() == before
        assert acquirer.ids() == events[1:]
        assert nobody.switch("callbacks", method="GET") == {"url": "http://127.0.0.1:9"}
        assert publisher.publish("h0").status == 201
        assert nobody.state()["duplicate_posts"] == 1
        assert Client(nobody.url, PUBLISHER, ended).publish("h1").status == 401
        assert len(nobody.as_(ADMINISTRATOR).get("/acquirers")) == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=10) == 0
    kept = tmp_path / "sandbox" / "events_platform.sqlite3"
    assert kept.stat().st_mode & 0o077 == 0
