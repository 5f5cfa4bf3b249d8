"""The search cluster on a bad day: what is sent again, what is given up, and that nothing is lost or shown."""

import logging
import socket
import ssl
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.bulk import bodies, indexed
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.opensearch_calls import Waiting
from ingestion_dagster.catalog.search import AliasMove
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster_tests.catalog import faulty_proxy
from ingestion_dagster_tests.catalog.faulty_proxy import Exchange, Fault, FaultyProxy


class VirtualTime:
    """A clock that only pauses move; every pause is as long as it may be."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds

    def waiting(self, patience: float) -> Waiting:
        """So patient in this time."""
        return Waiting(patience, lambda: self.now, self.sleep, lambda: 1.0)


@pytest.fixture
def proxy(opensearch: str) -> Iterator[FaultyProxy]:
    """A proxy before the session's node."""
    with faulty_proxy.faulty_proxy(opensearch) as started:
        yield started


@pytest.fixture
def time() -> VirtualTime:
    """The time of the test."""
    return VirtualTime()


@pytest.fixture
def engine(proxy: FaultyProxy, time: VirtualTime) -> Iterator[OpenSearch]:
    """The node behind the proxy, in virtual time."""
    made = OpenSearch.at(proxy.url, bulk_documents=10, waiting=time.waiting(120))
    yield made
    made.close()


@pytest.fixture
def index(engine: OpenSearch) -> str:
    """An empty index."""
    name = f"faults-{uuid.uuid4().hex[:10]}"
    engine.create(name, mapping.AUDIO.definition({"refresh": "one"}))
    return name


DOCUMENTS = [(number, b'{"id":%d}' % number) for number in range(30)]
IDS = [number for number, _ in DOCUMENTS]


def ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """An answer of the node itself."""
    data = None if body is None else orjson.dumps(body)
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return orjson.loads(answer.read())


def in_index(engine: OpenSearch, index: str) -> int:
    """How many documents there are."""
    engine.refresh(index)
    return engine.count(index)


PASSING: list[Fault] = [
    *(faulty_proxy.status(code) for code in (408, 429, 500, 502, 503, 504)),
    *(faulty_proxy.dropped, faulty_proxy.lost, faulty_proxy.cut, faulty_proxy.page, faulty_proxy.short),
]


def test_what_may_pass_is_sent_again_and_counted_once(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.faults = [answer for fault in PASSING for answer in (fault, fault, faulty_proxy.passes)]
    result = engine.bulk(index, [(number, b"{}") for number in range(10 * len(PASSING))])
    assert (result.accepted, result.rejected, result.retries) == (10 * len(PASSING), (), 2 * len(PASSING))
    assert proxy.bulks == [list(range(first, first + 10)) for first in range(0, 10 * len(PASSING), 10) for _ in range(3)]
    assert time.pauses == [0.25, 0.5] * len(PASSING)
    assert in_index(engine, index) == 10 * len(PASSING)


def test_only_the_items_that_were_not_taken_are_sent_again(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    proxy.faults = [faulty_proxy.overloaded(lambda id_: id_ % 3 == 0), faulty_proxy.overloaded(lambda id_: id_ % 2 == 0, 503)]
    result = engine.bulk(index, DOCUMENTS[:10])
    assert proxy.bulks == [IDS[:10], [1, 2, 4, 5, 7, 8], [1, 5, 7]]
    assert (result.accepted, result.retries, in_index(engine, index)) == (10, 2, 10)


def test_a_storm_of_refusals_ends_when_nothing_gets_done(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.otherwise = faulty_proxy.status(429)
    with pytest.raises(Transient) as failed:
        engine.bulk(index, DOCUMENTS)
    assert failed.value.code == "search_overloaded"
    assert 90 < time.now <= 120
    assert max(time.pauses) == 20
    assert "secret" not in str(failed.value)


def test_slow_progress_is_progress(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    def later(exchange: Exchange) -> None:
        time.now += 100
        faulty_proxy.overloaded(lambda id_: id_ == exchange.ids[0])(exchange)

    proxy.otherwise = later
    assert engine.bulk(index, DOCUMENTS[:5]).accepted == 5
    assert time.now > 480
    assert in_index(engine, index) == 5


def test_an_outage_of_a_minute_loses_nothing(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    def down(exchange: Exchange) -> bool:
        if time.now < 60:
            exchange.drop()
        return time.now < 60

    proxy.before = down
    result = engine.bulk(index, DOCUMENTS)
    assert (result.accepted, in_index(engine, index)) == (30, 30)
    assert 60 <= time.now < 100


def test_an_outage_longer_than_the_patience_ends_the_call(index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    proxy.otherwise = faulty_proxy.status(503)
    engine = OpenSearch.at(proxy.url, waiting=time.waiting(30))
    with pytest.raises(Transient, match="search_unavailable"):
        engine.bulk(index, DOCUMENTS)
    assert time.now <= 30
    engine.close()


def test_a_poison_document_costs_no_pause(engine: OpenSearch, index: str, proxy: FaultyProxy, time: VirtualTime) -> None:
    documents = [(number, b'{"max_boost":-5}' if number == 14 else source) for number, source in DOCUMENTS]
    result = engine.bulk(index, documents)
    assert ([rejected.id for rejected in result.rejected], result.accepted, time.pauses) == ([14], 29, [])
    assert proxy.bulks == [IDS[:10], IDS[10:20], IDS[20:]], "something was sent twice"
    assert in_index(engine, index) == 29


@pytest.mark.parametrize("block", ["read_only_allow_delete", "read_only", "write"])
def test_a_full_disk_is_said_soon(engine: OpenSearch, index: str, opensearch: str, time: VirtualTime, block: str) -> None:
    engine.bulk(index, DOCUMENTS[:10])
    ask(opensearch, "PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
    with pytest.raises(Transient, match="free disk space") as failed:
        engine.bulk(index, DOCUMENTS)
    assert (failed.value.code, time.pauses) == ("index_read_only", [])
    ask(opensearch, "PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})
    assert engine.bulk(index, DOCUMENTS).accepted == 30
    assert in_index(engine, index) == 30


def test_a_body_too_large_is_halved_until_the_cluster_takes_it(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def limited(exchange: Exchange) -> None:
        answer = faulty_proxy.status(413) if len(exchange.body) > 300 else faulty_proxy.passes
        answer(exchange)

    proxy.otherwise = limited
    documents = [(number, b'{"url":"%s"}' % (b"x" * (400 if number == 3 else 50))) for number in range(8)]
    result = engine.bulk(index, documents)
    assert [(rejected.id, rejected.code) for rejected in result.rejected] == [(3, "document_too_large")]
    assert (result.accepted, in_index(engine, index)) == (7, 7)
    sent = [id_ for ids in proxy.bulks for id_ in ids]
    assert sorted(set(sent)) == list(range(8))


@pytest.mark.parametrize(("most", "most_bytes"), [(1, 10), (3, 10**9), (1000, 100), (7, 150), (1000, 10**9)])
def test_bodies_are_bounded_and_leave_nothing_out(most: int, most_bytes: int) -> None:
    items = [indexed(number, b"{}" + b" " * (number * 37 % 90)) for number in range(200)]
    parts = list(bodies(items, most, most_bytes))
    assert [item for part in parts for item in part] == items
    assert all(len(part) <= most for part in parts)
    assert all(len(part) == 1 or sum(len(item.lines) for item in part) <= most_bytes for part in parts)
    for part, following in pairwise(parts):
        assert len(part) == most or sum(len(item.lines) for item in [*part, following[0]]) > most_bytes, "a body could have had more"


def test_an_index_deleted_midway_is_not_made_by_what_is_sent_to_it(
    opensearch: str, engine: OpenSearch, index: str, proxy: FaultyProxy
) -> None:
    def deleted(exchange: Exchange) -> None:
        ask(opensearch, "DELETE", f"/{index}")
        faulty_proxy.passes(exchange)

    proxy.faults = [faulty_proxy.passes, deleted]
    with pytest.raises(Refused, match="no_such_index"):
        engine.bulk(index, DOCUMENTS)
    assert not engine.exists(index)


@pytest.mark.parametrize("same", [True, False])
def test_an_index_whose_making_was_answered_in_vain_is_known_again(
    engine: OpenSearch, proxy: FaultyProxy, opensearch: str, same: bool
) -> None:
    name = f"faults-{uuid.uuid4().hex[:10]}"
    definition = mapping.AUDIO.definition({"run": "mine"})

    def once(exchange: Exchange) -> bool:
        if exchange.method != "PUT":
            return False
        proxy.before = lambda exchange: False
        if same:
            exchange.forward()
        else:
            ask(opensearch, "PUT", f"/{name}", {"mappings": {"_meta": {"run": "another"}}})
        exchange.drop()
        return True

    proxy.before = once
    if same:
        engine.create(name, definition)
        assert engine.label(name)["run"] == "mine"
    else:
        with pytest.raises(Refused, match="index_exists"):
            engine.create(name, definition)


def test_an_alias_that_leads_to_two_indexes_leads_to_one_afterwards(engine: OpenSearch, index: str, opensearch: str) -> None:
    other, alias = f"{index}-other", f"{index}-alias"
    engine.create(other, mapping.AUDIO.definition({}))
    ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"indices": [index, other], "alias": alias}}]})
    assert engine.behind(alias) == (index, other)
    engine.bulk(index, DOCUMENTS)
    engine.refresh(index)
    assert engine.count(alias) == 30
    engine.switch([AliasMove(alias, other)])
    assert (engine.behind(alias), engine.count(alias)) == ((other,), 0)


def test_a_switch_whose_answer_is_lost_is_verified(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    posts: list[str] = []

    def once(exchange: Exchange) -> bool:
        if exchange.path.startswith("/_aliases"):
            posts.append(exchange.path)
            if len(posts) == 1:
                faulty_proxy.lost(exchange)
                return True
        return False

    proxy.before = once
    engine.switch([AliasMove(f"{index}-alias", index)])
    assert engine.behind(f"{index}-alias") == (index,)


def test_others_that_move_the_alias_back_are_noticed(engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str) -> None:
    other, alias = f"{index}-other", f"{index}-alias"
    engine.create(other, mapping.AUDIO.definition({}))

    def back(exchange: Exchange) -> bool:
        if not exchange.path.startswith("/_aliases"):
            return False
        answer = exchange.forward()
        actions = [{"remove": {"index": "*", "alias": alias}}, {"add": {"index": other, "alias": alias}}]
        ask(opensearch, "POST", "/_aliases", {"actions": actions})
        exchange.answer(*answer)
        return True

    proxy.before = back
    with pytest.raises(Transient, match="somebody else"):
        engine.switch([AliasMove(alias, index)])


def test_an_alias_that_comes_while_its_index_is_deleted_saves_it(
    engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str
) -> None:
    alias = f"{index}-alias"

    def meanwhile(exchange: Exchange) -> bool:
        if exchange.method == "PUT" and exchange.path.startswith(f"/{index}/_settings"):
            proxy.before = lambda exchange: False
            ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": alias}}]})
        return False

    proxy.before = meanwhile
    with pytest.raises(Refused, match="index_has_aliases"):
        engine.delete_index(index)
    assert engine.behind(alias) == (index,)
    assert engine.bulk(index, DOCUMENTS).accepted == 30, "the block has stayed"


def test_no_alias_can_come_between_the_last_look_and_the_deletion(
    engine: OpenSearch, index: str, proxy: FaultyProxy, opensearch: str
) -> None:
    refused: list[int] = []

    def meanwhile(exchange: Exchange) -> bool:
        if exchange.method == "DELETE":
            try:
                ask(opensearch, "POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": f"{index}-alias"}}]})
            except urllib.error.HTTPError as error:
                refused.append(error.code)
                error.close()
        return False

    proxy.before = meanwhile
    assert engine.delete_index(index)
    assert refused == [429]


def test_a_deletion_whose_answer_is_lost_is_done(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def once(exchange: Exchange) -> bool:
        if exchange.method != "DELETE":
            return False
        proxy.before = lambda exchange: False
        faulty_proxy.lost(exchange)
        return True

    proxy.before = once
    assert engine.delete_index(index)
    assert not engine.exists(index)


def test_finish_sets_replicas_and_leaves_refreshing_off(engine: OpenSearch, index: str, opensearch: str) -> None:
    engine.finish(index, replicas=1)
    settings = ask(opensearch, "GET", f"/{index}/_settings")[index]["settings"]["index"]
    assert (settings["number_of_replicas"], settings["refresh_interval"]) == ("1", "-1")
    assert engine.wait_ready(index, 10), "a single node cannot hold the replica, and need not"


def test_shards_that_do_not_answer_are_no_answer(engine: OpenSearch, index: str, proxy: FaultyProxy) -> None:
    def some(exchange: Exchange) -> bool:
        if "/_count" in exchange.path:
            exchange.answer(200, b'{"count":5,"_shards":{"total":2,"successful":1,"failed":1}}')
        return "/_count" in exchange.path

    proxy.before = some
    with pytest.raises(Transient, match="not all shards"):
        engine.count(index)


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
