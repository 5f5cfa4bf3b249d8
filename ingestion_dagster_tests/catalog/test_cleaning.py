"""Cleaning: what the rules change, and that the quick look misses nothing that they would."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_dagster.catalog import cleaning, tag_scan, tags, titles, urls
from ingestion_dagster.catalog.cleaning import Fix, Rules, clean_row, optional_rules
from ingestion_dagster.catalog.row_stream import Sieve, heads
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings

TLS = Rules(is_tls=lambda host: host == "flickr.com")


def as_row(values: Sequence[bytes | None]) -> bytes:
    """A row as binary COPY has it."""
    parts = [b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return len(values).to_bytes(2, "big") + b"".join(parts)


def kept(*given_tags: object) -> list[Any]:
    return clean_row({"tags": list(given_tags)}, Rules())[0]["tags"]


def test_tags_that_say_nothing_are_left_out() -> None:
    valid, bare = {"name": "valid", "accuracy": 0.99}, {"name": "valid_no_accuracy"}
    assert kept({"name": "cc0"}, {"name": " cc0"}, valid, bare, {"name": "garbage:=metacrap", "accuracy": 0.99}) == [valid, bare]


def test_a_row_that_needs_nothing_has_no_fix() -> None:
    row = {"tags": [{"name": "cat", "accuracy": 0.92}], "url": "https://a.example/x", "title": None}
    assert clean_row(row, TLS) == (row, ())


@pytest.mark.parametrize(
    ("accuracy", "stays"),
    [
        (0.5, False),
        (0.999, True),
        (0.90, True),
        ("0.5", False),
        ("0.90", True),
        (" 0.1 ", False),
        ("high", True),
        (None, True),
    ],
)
def test_accuracy_is_a_number_whether_text_or_not(accuracy: object, stays: bool) -> None:
    assert (kept({"name": "cat", "accuracy": accuracy}) != []) is stays


def test_tags_of_an_unvetted_provider_are_left_out() -> None:
    vetted = {"name": "cat", "provider": "provider1"}
    assert kept({"name": "cat", "provider": "rekognition"}, vetted) == [vetted]


def test_a_row_whose_tags_are_all_bad_gets_none() -> None:
    row, fixes = clean_row({"tags": [{"name": "cc0"}, {"name": None}, {"name": "x", "accuracy": 0.1}]}, Rules())
    assert row["tags"] == []
    assert [fix.rule for fix in fixes] == ["excluded_part_of_tag", "malformed_tag", "inaccurate_tag"]


@pytest.mark.parametrize("name", ["baby", "ruby", "Byzantine", "nearby", "BY the sea"])
def test_words_that_hold_by_stay(name: str) -> None:
    assert kept({"name": name}) == [{"name": name}]


@pytest.mark.parametrize("name", ["by", "BY", "No Person", "by-nc-sa", "geo:lat=5", "PDM", "Uploaded", "flic\u212ariosapp"])
def test_names_are_compared_in_small_letters(name: str) -> None:
    assert kept({"name": name}) == []


@pytest.mark.parametrize("malformed", ["cat", 1, None, [], {}, {"accuracy": 1}, {"name": 5}])
def test_what_is_no_tag_is_left_out(malformed: object) -> None:
    assert kept(malformed, {"name": "cat"}) == [{"name": "cat"}]


@pytest.mark.parametrize(
    ("value", "new"),
    [
        ("flickr.com", "https://flickr.com"),
        ("neverssl.example", "http://neverssl.example"),
        ("//flickr.com/a", "https://flickr.com/a"),
        ('flickr.com/it\'s "quoted"', 'https://flickr.com/it\'s "quoted"'),
        ("host:8080/x", "http://host:8080/x"),
        ("a.example:8080/x?y#z", "http://a.example:8080/x?y#z"),
        ("[2001:db8::1]:80/x", "http://[2001:db8::1]:80/x"),
        ("münchen.example/ä", "http://münchen.example/ä"),
        (" flickr.com/a ", "https://flickr.com/a"),
    ],
)
def test_addresses_without_a_scheme_get_one(value: str, new: str) -> None:
    row, fixes = clean_row({"creator_url": value}, TLS)
    assert row["creator_url"] == new
    assert fixes == (Fix("creator_url", value, new, "scheme_https" if new.startswith("https") else "scheme_http"),)


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        "http://flickr.com",
        "HTTPS://flickr.com",
        "data:image/png;base64,AA==",
        "mailto:a@b.example",
        "tel:8080",
        "ftp://x",
        "/path",
        "unknown",
        "a@b.example",
        "?",
        "user:secret@host/x",
        "two words.example",
    ],
)
def test_addresses_with_a_scheme_or_without_a_host_stay(value: str | None) -> None:
    assert clean_row({"url": value}, TLS) == ({"url": value}, ())


def test_optional_rules_are_off_unless_asked_for() -> None:
    row = {"tags": [{"name": "caf\\u00e9"}], "title": "File:A <b>cat</b>.jpg", "provider": "wikimedia"}
    assert clean_row(row, Rules()) == (row, ())
    cleaned, fixes = clean_row(row, Rules(optional=frozenset(cleaning.OPTIONAL)))
    assert (cleaned["tags"], cleaned["title"]) == ([{"name": "café"}], "A cat")
    assert [fix.rule for fix in fixes] == ["unescape_tags", "html_titles", "wikimedia_titles"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("caf\\xc3\\xa9", "café"),
        ("caf\\xe9", "café"),
        ("cafu00e9", "café"),
        ("caf%C3%A9", "café"),
        ("50%off", "50%off"),
        ("x\\u0000", None),
        ("\\ud83d", None),
        ("%ff", "%ff"),
        ("plain", "plain"),
    ],
)
def test_escapes_are_resolved_only_to_what_can_be_stored(name: str, plain: str | None) -> None:
    changed = tags.unescaped([{"name": name}])
    assert (changed[0]["name"] if changed else name) == (plain or name)


def test_tags_that_become_the_same_are_one() -> None:
    assert tags.unescaped([{"name": "caf%C3%A9"}, {"name": "café"}, {"name": "x"}]) == [{"name": "café"}, {"name": "x"}]


def test_titles_lose_markup_and_file_names_only() -> None:
    assert titles.without_markup("a < b & c") == "a < b & c"
    assert titles.without_markup("<p>Tom &amp; <i>Jerry</i></p>") == "Tom & Jerry"
    assert titles.without_file_name("File:Cat.jpg", "flickr") == "File:Cat.jpg"
    assert titles.without_file_name("Version 1.5", "wikimedia") == "Version 1.5"
    assert titles.without_file_name("File:.jpg", "wikimedia") == "File:.jpg"


def test_an_unknown_optional_rule_is_refused() -> None:
    assert optional_rules(Settings(catalog_rules="html_titles, unescape_tags")) == {"html_titles", "unescape_tags"}
    with pytest.raises(ConfigurationError, match="no rule nonsense"):
        optional_rules(Settings(catalog_rules="nonsense"))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8])
def test_every_row_of_a_batch_is_cleaned(count: int) -> None:
    sieve = Sieve(("identifier", "url", "tags"), Rules())
    rows = [as_row([uuid.uuid4().bytes, f"a{n}.example".encode(), b'\x01[{"name": "cc0"}]']) for n in range(count)]
    assert sieve.suspects(rows) == list(range(count))
    for row in rows:
        cleaned, fixes, identifier = sieve.clean(row)
        assert cleaned.endswith(b"\x01[]")
        assert b"http://a" in cleaned
        assert (len(fixes), identifier) == (2, uuid.UUID(bytes=row[6:22]))
        assert clean_row({"url": "a.example"}, Rules())[0] == {"url": "http://a.example"}


WORDS = st.sampled_from(
    [
        "cat",
        "by",
        "BY",
        "cc0",
        "by-nc",
        "a:b",
        ": x",
        '": "',
        "x=",
        "no person",
        "{",
        "}, 5",
        "[{",
        "\\",
        '"',
        "\u212a",
        "\u0130",
        "pdm",
        "\n",
    ]
)
NAMES = st.one_of(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12), st.lists(WORDS).map("".join))
ACCURACIES = st.one_of(st.floats(-2, 2), st.integers(-2, 2), st.sampled_from(["0.5", "0.95", "x", True, None, 0.9, 0.90000001, 0.89999]))
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(NAMES, st.none(), st.integers(), st.booleans(), st.lists(st.none(), max_size=1)),
            "accuracy": ACCURACIES,
            "provider": st.one_of(NAMES, st.just("rekognition"), st.none()),
            "id": st.integers(),
            "extra": st.dictionaries(NAMES, NAMES, max_size=2),
        },
    ),
    NAMES,
    st.integers(),
    st.none(),
    st.lists(NAMES, max_size=2),
)
TAGS = st.one_of(st.lists(ENTRIES, max_size=4), st.none(), NAMES, st.dictionaries(NAMES, NAMES, max_size=2))


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer):
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as opened:
        yield opened


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(TAGS, min_size=1, max_size=30))
def test_the_quick_look_misses_no_tag_that_a_rule_leaves_out(connection: psycopg.Connection, batch: list[Any]) -> None:
    statement = "SELECT value::jsonb::text FROM unnest(%s::text[]) WITH ORDINALITY AS given (value, place) ORDER BY place"
    texts = [row[0].encode() for row in connection.execute(statement, [[json.dumps(value) for value in batch]])]
    found = tag_scan.suspects([text.lower() for text in texts])
    for place, text in enumerate(texts):
        _, fixes = clean_row({"tags": orjson.loads(text)}, Rules())
        assert not fixes or place in found, text


ADDRESSES = st.one_of(
    st.none(),
    st.sampled_from(["", "http://a.example", "https://", "HTTP://x", "flickr.com", "h:80", " http://x", "[::1]/x", "http:/a", "://a.b"]),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.tuples(ADDRESSES, ADDRESSES), identifier=st.booleans(), tagged=st.sampled_from([None, b'\x01[{"name": "cat"}]', b"\x01{}"])
)
def test_the_quick_look_misses_no_address_that_is_repaired(values: tuple[str | None, ...], identifier: bool, tagged: bytes | None) -> None:
    encoded = [None if value is None else value.encode() for value in values]
    row = as_row([b"i" * 16 if identifier else None, *encoded, b"in the middle", None, tagged])
    sieve = Sieve(("identifier", "url", "creator_url", "source", "category", "tags"), TLS)
    cleaned, fixes, _ = sieve.clean(row)
    assert not fixes or sieve.suspects([row]) == [0]
    named = dict(zip(("url", "creator_url"), values, strict=True))
    expected = clean_row(named, TLS)[0]
    assert [field[4:].decode() for field in heads(cleaned, 3)[1:]] == [expected[name] or "" for name in named]
    assert cleaned.endswith(as_row([b"in the middle", None, tagged])[2:])


@settings(max_examples=300, deadline=None)
@given(value=st.text(max_size=30))
def test_a_repaired_address_is_not_repaired_again(value: str) -> None:
    new = urls.repaired(value, lambda host: True)
    assert new is None or urls.repaired(new, lambda host: True) is None
