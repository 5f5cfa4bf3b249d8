"""Probing: a host is asked once, at a public address only, and no answer fails anything."""

import asyncio
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import sql

from ingestion_dagster.catalog import host_probe, hosts
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.public_addresses import is_public
from ingestion_dagster.settings import Settings


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "::",
        "2001:0:a00:1::",
        "not an address",
    ],
)
def test_addresses_that_are_not_public_are_never_asked(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_public_addresses_may_be_asked(address: str) -> None:
    assert is_public(address)


class _Handler(BaseHTTPRequestHandler):
    seen: list[str]
    status: int

    def do_HEAD(self) -> None:
        self.seen.append(f"{self.command} {self.path}")
        self.send_response(self.status)
        self.send_header("Location", "https://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """An HTTPS server on loopback for the name localhost."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        start = datetime(2020, 1, 1, tzinfo=UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=36500))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        file = folder / "site.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        self.seen: list[str] = []
        self.handler = type("Handler", (_Handler,), {"seen": self.seen, "status": 200})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.client_context = ssl.create_default_context(cafile=str(file))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def ask(self, *names: str, seconds: float = 5, total_seconds: float = 10) -> dict[str, tuple[bool, str]]:
        return host_probe.probe(
            names,
            seconds,
            port=self.server.server_port,
            is_allowed=lambda address: address in ("127.0.0.1", "::1"),
            context=self.client_context,
            total_seconds=total_seconds,
        )

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    started = Site(tmp_path)
    try:
        yield started
    finally:
        started.close()


@pytest.mark.parametrize(("status", "is_tls"), [(200, True), (301, True), (404, True), (500, False), (503, False)])
def test_a_host_that_answers_speaks_tls_unless_it_fails(site: Site, status: int, is_tls: bool) -> None:
    site.handler.status = status  # type: ignore[attr-defined]
    assert site.ask("localhost") == {"localhost": (is_tls, f"status {status}")}
    assert site.seen == ["HEAD /"], "one request, to the root, and no redirect followed"


def test_a_host_whose_certificate_is_of_another_does_not_count(site: Site) -> None:
    assert site.ask("127.0.0.1")["127.0.0.1"][0] is False


def test_a_name_that_leads_to_loopback_is_not_asked(site: Site) -> None:
    answers = host_probe.probe(["localhost", "127.0.0.1", "[::1]"], 5, port=site.server.server_port, context=site.client_context)
    assert set(answers.values()) == {(False, "address is not public")}
    assert site.seen == []


def test_a_host_that_says_nothing_costs_no_more_than_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: object) -> tuple[bool, str]:
        await asyncio.sleep(60)
        return True, "never"

    monkeypatch.setattr(host_probe, "_ask", silent)
    names = ("a.example", "b.example")
    assert site.ask(*names, total_seconds=0.05) == dict.fromkeys(names, (False, "not asked in time"))


class Asked:
    """A prober that notes whom it was told to ask."""

    def __init__(self, **answers: bool) -> None:
        self.hosts: list[str] = []
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}

    def __call__(self, names: Sequence[str], seconds: float) -> dict[str, tuple[bool, str]]:
        self.hosts += names
        return {name: (self.answers.get(name, False), "asked") for name in names}


ADDRESSES = sql.SQL("SELECT value FROM addresses").format()


@pytest.fixture
def addresses(upstream: Database) -> Database:
    with upstream.connect() as connection:
        connection.execute("CREATE TABLE addresses (value text)")
        values = ["rare.example/1"] + ["Often.example/x"] * 3 + ["often.example:81", "www.flickr.com/a", "https://known.example"]
        connection.cursor().executemany(
            "INSERT INTO addresses VALUES (%s)", [[value] for value in [*values, None, "", "/path", "mailto:a@b.example"]]
        )
    return upstream


def test_unknown_hosts_are_asked_once_and_remembered(addresses: Database, database: Database) -> None:
    settings, asked = Settings(catalog_probe_seconds=1), Asked(often_example=True)
    with addresses.connect() as upstream, database.connect() as ledger:
        is_tls = hosts.answers(settings, ledger, upstream, [ADDRESSES], asked)
        assert asked.hosts == ["often.example", "rare.example"], "the most frequent first, known ones and other schemes not at all"
        assert [is_tls(host) for host in ("often.example", "rare.example", "www.flickr.com", "new.example")] == [True, False, True, False]
        again = hosts.answers(settings, ledger, upstream, [ADDRESSES], asked)
        assert len(asked.hosts) == 2
        assert again("often.example")
        ledger.execute("UPDATE catalog.hosts SET probed_at = probed_at - interval '31 days' WHERE host = 'rare.example'")
        hosts.answers(settings, ledger, upstream, [ADDRESSES], asked)
        assert asked.hosts[2:] == ["rare.example"]


@pytest.mark.parametrize("settings", [Settings(catalog_probe_seconds=0), Settings(catalog_probe_hosts=0)])
def test_nobody_is_asked_if_probing_is_off(addresses: Database, database: Database, settings: Settings) -> None:
    asked = Asked()
    with addresses.connect() as upstream, database.connect() as ledger:
        assert hosts.answers(settings, ledger, upstream, [ADDRESSES], asked)("www.flickr.com")
    assert asked.hosts == []


def test_no_more_hosts_are_asked_than_allowed(addresses: Database, database: Database) -> None:
    asked = Asked()
    with addresses.connect() as upstream, database.connect() as ledger:
        hosts.answers(Settings(catalog_probe_seconds=1, catalog_probe_hosts=1), ledger, upstream, [ADDRESSES], asked)
    assert asked.hosts == ["often.example"]
