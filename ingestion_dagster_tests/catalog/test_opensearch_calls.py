"""The way to the cluster: keys, certificates, addresses and health; no secret is shown."""

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog.faulty_proxy import Exchange, FaultyProxy
from ingestion_dagster_tests.catalog.opensearch_scene import DOCUMENTS, VirtualTime, engine, index, proxy, time

__all__ = ["engine", "index", "proxy", "time"]

CALLS: list[Callable[[OpenSearch], object]] = [
    lambda engine: engine.bulk("image", DOCUMENTS),
    lambda engine: engine.count("image"),
    lambda engine: engine.switch([AliasMove("image", "image-a")]),
    lambda engine: engine.delete_index("image-a"),
    lambda engine: engine.create("image-a", mapping.AUDIO.definition({})),
]


@pytest.mark.parametrize("call", CALLS)
def test_no_password_is_shown(call: Callable[[OpenSearch], object], time: VirtualTime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = OpenSearch.at("http://someone:pass%2Fword@127.0.0.1:1", waiting=time.waiting(1))  # pragma: allowlist secret
    with pytest.raises(Transient) as failed:
        call(engine)
    assert failed.value.code == "search_unavailable"
    assert failed.value.__cause__ is None
    shown = f"{failed.value} {caplog.text} {engine!r} {engine.__dict__!r} {engine.problems()}"
    assert "pass" not in shown
    assert "someone" not in shown
    engine.close()


def test_keys_that_are_not_taken_are_said_at_once(proxy: FaultyProxy, engine: OpenSearch, time: VirtualTime) -> None:
    def closed(exchange: Exchange) -> bool:
        faulty_proxy.status(401, "security_exception")(exchange)
        return True

    proxy.before = closed
    with pytest.raises(ConfigurationError, match="INGESTION_CATALOG_SEARCH_URL"):
        engine.count("image")
    assert time.pauses == []


def test_user_and_password_of_the_url_are_sent(proxy: FaultyProxy) -> None:
    seen: list[str | None] = []

    def look(exchange: Exchange) -> bool:
        seen.append(exchange.handler.headers["Authorization"])
        return False

    proxy.before = look
    engine = OpenSearch.at(proxy.url.replace("//", "//a%40b:c%3Ad@"))  # pragma: allowlist secret
    assert not engine.exists("nowhere-at-all")
    engine.close()
    assert seen == ["Basic YUBiOmM6ZA=="]  # pragma: allowlist secret


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "https://host:9200/?a=b", "host:9200", ""])
def test_an_address_of_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_CATALOG_SEARCH_URL"):
        OpenSearch.at(url)


def test_what_is_wrong_with_the_cluster_is_told(proxy: FaultyProxy, engine: OpenSearch, time: VirtualTime) -> None:
    def red(exchange: Exchange) -> bool:
        exchange.answer(200, b'{"status":"red"}')
        return True

    proxy.before = red
    assert engine.problems() == ("the search cluster is red",)

    def gone(exchange: Exchange) -> bool:
        exchange.drop()
        return True

    proxy.before = gone
    (problem,) = engine.problems()
    assert "could not be reached" in problem
    assert time.pauses == [], "health is asked once"


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[str]:
    """The address of a server by TLS whose certificate nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, made, datetime(2100, 1, 1, tzinfo=UTC)).sign(key, SHA256())
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "both.pem").write_bytes(plain + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError), listening.accept()[0] as taken, context.wrap_socket(taken, server_side=True) as secure:
                secure.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}"
        thread.join()


def test_a_certificate_that_nobody_has_signed_is_said_at_once(impostor: str, time: VirtualTime) -> None:
    engine = OpenSearch.at(impostor, waiting=time.waiting(120))
    with pytest.raises(ConfigurationError, match="certificate"):
        engine.count("image")
    assert time.pauses == []
    engine.close()
