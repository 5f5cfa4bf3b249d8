"""Sensitive terms: which documents have one, and that nobody gets to see the list."""

import logging
import pickle
import socket
import stat
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ingestion_dagster.catalog import sensitive
from ingestion_dagster.catalog.sensitive import Terms
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.settings import Settings, current


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("bird", "Bird perched", True),
        ("bird", "birds bathing", False),
        ("bird", "a BIRD.", True),
        ("bird", "(bird)", True),
        ("bird", "blackbird", False),
        ("bird", "bird_song", False),
        ("bird", "bird-song", True),
        ("bird", "bird's nest", False),
        ("Bird", "bird", True),
        ("running water", "Running  water", True),
        ("running water", "running, water!", True),
        ("running water", "running\nwater", True),
        ("running water", "running cold water", False),
        ("running water", "water running", False),
        ("running water", "overrunning water", False),
        ("running water", "running waters", False),
        ("running water", "running\0water", False),
        ("one two", "one one two", True),
        ("a b a", "a b a b", True),
        ("straße", "STRASSE", False),
        ("straße", "Straße", True),
        ("über", "U\u0308ber alles", True),
        ("u\u0308ber", "über", True),
        ("wörter", "worter", False),
        ("œuvre", "Œuvre complète", True),
        ("猫", "黒猫だ", True),
        ("бытие", "Бытие.", True),
        ("3.5", "version 3.5 of it", True),
        ("3.5", "version 3 5", False),
        ("it's", "IT'S", True),
        ("rock & roll", "rock roll", True),
        ("hello", "\uff48ello", False),
    ],
)
def test_a_term_is_found_by_its_whole_words(term: str, text: str, found: bool) -> None:
    assert Terms([term]).found_in(text) is found
    assert Terms(["nothing", term, "of this", "zzz"]).found_in(f"before\0{text}\0after") is found


def test_a_term_does_not_span_values() -> None:
    terms = Terms(["running water"])
    assert not terms.found_in("running\0water")
    assert not terms.found_in("a title that is running\0water in its description\0tag")
    assert terms.found_in("dry\0dry\0running water")


def test_every_one_of_many_terms_is_found() -> None:
    words = [f"term{number}" for number in range(3000)] + ["an apple", "an", "apple pie crust"]
    terms = Terms(words)
    assert len(terms) == 3003
    for word in words:
        assert terms.found_in(f"x {word.upper()} y"), word
    assert not terms.found_in("term30000 ana pplepie crust")


def listing(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path.write_bytes(content)
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", path.as_uri())
    return current()


def test_a_list_is_read_whatever_ends_its_lines(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = listing(tmp_path / "a list.txt", "\ufeffRunning Water\r\n\r\n  bird \n# not a comment\nBIRD\nu\u0308ber".encode(), monkeypatch)
    assert sensitive.listed(read) == ("running water", "bird", "# not a comment", "über")
    assert sensitive.load(read).found_in("this is not a comment")


def test_the_list_that_comes_with_the_package_is_harmless(settings: Settings) -> None:
    assert sensitive.listed(settings) == ("running", "water", "bird")


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf", b"!!!\n---\n"])
def test_an_empty_list_is_refused(content: bytes, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="no_sensitive_terms"):
        sensitive.load(listing(tmp_path / "terms", content, monkeypatch))


def test_a_list_that_cannot_be_used_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="sensitive_terms_unreadable"):
        sensitive.load(listing(tmp_path / "terms", b"caf\xe9", monkeypatch))
    with pytest.raises(Refused, match="sensitive_terms_too_large"):
        sensitive.load(listing(tmp_path / "terms", b"word\n" * (sensitive.LARGEST // 5 + 1), monkeypatch))
    monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", (tmp_path / "not there").as_uri())
    with pytest.raises(Refused, match="sensitive_terms_unreadable"):
        sensitive.load(current())
    for url in ("http://lists.example/terms", "ftp://lists.example/terms", "terms.txt", "file://elsewhere/terms"):
        monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", url)
        with pytest.raises(ConfigurationError):
            sensitive.load(current())


@contextmanager
def server_of(status: int, body: bytes, location: str | None = None) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()


def test_a_list_is_fetched_and_no_redirect_is_followed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_of(200, b"marzipan\n") as url:
        monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", f"{url}/terms")
        assert sensitive.listed(current()) == ("marzipan",)
        with server_of(302, b"", f"{url}/terms") as elsewhere:
            monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", f"{elsewhere}/terms")
            with pytest.raises(Transient, match="302"):
                sensitive.listed(current())
    with server_of(500, b"marzipan") as url:
        monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", f"{url}/terms?key=topsecret")
        with pytest.raises(Transient, match="500") as caught:
            sensitive.listed(current())
    assert "topsecret" not in "".join(traceback.format_exception(caught.value))


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that sends just this, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    asking, _ = listening.accept()
                    with asking:
                        asking.recv(10_000)
                        asking.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/terms"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(("answer", "refused"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nmarzipan\nnougat\n", Transient),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nmarzipan\n\r\n", Transient),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nmarzipan\n", Transient),
    (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 9\r\n\r\nmarzipan\n", Transient),
    (b"HTTP/1.0 200 OK\r\n\r\nmarzipan\n", Refused),
    (b"marzipan\nnougat\n", Transient),
    (b"HTTP/1.1 200 OK\r\nContent-Length: marzipan\r\n\r\nmarzipan\n", Refused),
])  # fmt: skip
def test_a_part_of_a_list_is_not_taken_for_the_list_and_nothing_of_it_is_said(
    answer: bytes, refused: type[Exception], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(answer) as url:
        monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", url)
        with pytest.raises(refused) as caught:
            sensitive.load(current())
    assert "marzipan" not in "".join(traceback.format_exception(caught.value))


def test_a_list_in_chunks_is_taken_when_its_end_has_come(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nmarzipan\n\r\n0\r\n\r\n") as url:
        monkeypatch.setenv("INGESTION_CATALOG_SENSITIVE_TERMS_URL", url)
        assert sensitive.listed(current()) == ("marzipan",)


def test_nobody_gets_to_see_the_list(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    read = listing(tmp_path / "terms", b"marzipan\n???\n", monkeypatch)
    terms = sensitive.load(read)
    assert terms.found_in("Marzipan!")
    assert "marzipan" not in repr(terms) + str(terms) + str(vars(terms))
    assert "1 of the sensitive terms" in caplog.text
    with pytest.raises(TypeError):
        pickle.dumps(terms)
    with pytest.raises(Refused) as caught:
        sensitive.load(listing(tmp_path / "terms", b"marzipan \xff", monkeypatch))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "marzipan" not in str(caught.value) + str(caught.value.problems) + caplog.text


def test_a_fingerprint_tells_lists_apart_and_needs_the_key(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sensitive.fingerprint(["b", "a", "a"], "k" * 32)
    assert one == sensitive.fingerprint(["a", "b"], "k" * 32)
    assert one != sensitive.fingerprint(["a", "b"], "l" * 32)
    assert one != sensitive.fingerprint(["a", "c"], "k" * 32)
    before = sensitive.fingerprint_of(settings)
    assert before == sensitive.fingerprint_of(settings)
    key = settings.home_folder / "catalog-terms.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert before != sensitive.fingerprint_of(listing(tmp_path / "terms", b"marzipan\n", monkeypatch))
