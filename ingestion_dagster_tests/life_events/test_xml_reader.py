"""Reading files: what is refused and why, what a bad record costs its neighbours, and that no file makes us hold much of it."""

import hashlib
import sys
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.life_events import record
from ingestion_dagster.life_events.elements import NAMESPACES
from ingestion_dagster.life_events.problems import CODES, FILE_MESSAGES, RECORD_MESSAGES
from ingestion_dagster.life_events.xml_reader import BLOCK, Limits, Reader
from ingestion_dagster_tests.life_events.registrations import (
    ID,
    NAMESPACED,
    SAMPLES,
    codes,
    group,
    identity,
    judged,
    only,
    problems,
    read,
    registration,
)

GOOD = registration()
opened: list[str] = []


def sample(name: str) -> bytes:
    [path] = SAMPLES.glob(f"{name}_*.xml")
    return path.read_bytes()


# The samples


@pytest.mark.parametrize(("name", "count"), [("01", 4), ("02", 1), ("03", 3)])
def test_a_valid_sample_is_read_whole(name: str, count: int) -> None:
    reader = Reader()
    found = [each for batch in reader.read([sample(name)]) for each in batch]
    assert [each.ordinal for each in found] == list(range(1, count + 1))
    assert (reader.records, reader.record_count, reader.bytes) == (count, count, len(sample(name)))
    assert [record.judge(each) for each in found] == [()] * count
    for each in found:
        assert sample(name)[each.offset :].startswith(b"<DeathRegistration>")


def test_the_same_record_twice_has_one_identity() -> None:
    first, second, third = (record.canonical(found.fields) for found in read(sample("03")))
    assert first == third != second


def test_one_bad_record_leaves_its_neighbours_good() -> None:
    bad = [[problem.code for problem in record.judge(found)] for found in read(sample("04"))]
    assert bad == [[], ["missing_timestamp"], []]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("06", "record_count_mismatch"),
        ("07", "not_well_formed"),
        ("09", "empty"),
        ("12", "doctype_forbidden"),
        ("14", "doctype_forbidden"),
        ("16", "bad_encoding"),
        ("20", "wrong_root"),
    ],
)
def test_a_bad_sample_is_refused(name: str, code: str) -> None:
    assert codes(sample(name)) == [code]


def test_the_problems_of_the_samples_say_where() -> None:
    [mismatch] = problems(sample("06"))
    assert "expected 3 records, found 2" in mismatch.message
    assert problems(sample("07"))[0].place == f"byte {len(sample('07'))}"
    at = sample("16").index(b"\xeb")
    assert problems(sample("16"))[0].place == f"line 6, byte {at}"


# What would be expanded or fetched


def test_an_entity_bomb_costs_nothing() -> None:
    started = time.process_time()
    tracemalloc.start()
    assert codes(sample("12")) == ["doctype_forbidden"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - started < 0.05
    assert peak < 2_000_000


@pytest.mark.parametrize("before", ["", "<?xml version='1.0'?>" + " " * 5000])
def test_what_a_doctype_declares_is_not_even_looked_at(before: str) -> None:
    bomb = f'{before}<!DOCTYPE g [<!ENTITY x "{"x" * 20_000}">]><g>{"&x;" * 10_000}</g>'
    started = time.process_time()
    assert codes(bomb.encode()) == ["doctype_forbidden"]
    assert time.process_time() - started < 0.01


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event in {"open", "socket.connect", "socket.getaddrinfo"}:
        opened.append(str(arguments[0]))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE DeathRegistrationGroup SYSTEM "file:///etc/hostname">',
        '<!DOCTYPE DeathRegistrationGroup PUBLIC "-//Mock//EN" "http://mock.invalid/a.dtd">',
        '<!DOCTYPE g [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>',
        '<!DOCTYPE g [<!ENTITY x "' + "x" * 1000 + '">]>',
        "<!DOCTYPE g>",
    ],
    ids=["system", "public", "parameter", "quadratic", "bare"],
)
def test_a_doctype_is_refused_and_nothing_is_fetched(doctype: str) -> None:
    raw = doctype.encode() + group(registration("<QualifierText>" + "&x;" * 1000 + "</QualifierText>"))
    assert codes(raw) == ["doctype_forbidden"]  # Whatever is imported on the way is imported by now.
    sys.addaudithook(_note_opened)
    opened.clear()
    assert codes(raw) == ["doctype_forbidden"]
    assert opened == []


def test_an_entity_that_nobody_declared_is_not_passed_over() -> None:
    assert codes(group(registration("<QualifierText>&x;</QualifierText>"))) == ["not_well_formed"]


def test_a_schema_that_a_file_names_is_not_fetched() -> None:
    start = NAMESPACED.replace(
        ">", ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://mock.invalid OGDDeathExtractDWP-v1-1.xsd">'
    )
    assert len(read(group(GOOD, start=start))) == 1


# Encodings


def named(name: bytes, declared: str = "") -> bytes:
    return group(registration("<QualifierText>MARK</QualifierText>"), start=f"{declared}<DeathRegistrationGroup>").replace(b"MARK", name)


@pytest.mark.parametrize(
    "raw",
    [
        named(b"Zo\xeb"),
        named(b"\xc0\xaf"),
        named(b"\xe0\x80\xaf"),
        named(b"\xed\xa0\x80"),
        named(b"\xf8\x88\x80\x80\x80"),
        named(b"\xff"),
        named(b"\xe2\x28\xa1"),
        named(b"Zo\xeb", '<?xml version="1.0" encoding="ISO-8859-1"?>'),
        named(b"Zoe", '<?xml version="1.0" encoding="utf-7"?>'),
        named(b"Zoe", '<?xml version="1.0" encoding="no-such-thing"?>'),
        named(b"Zoe", '<?xml version="1.0" encoding="UTF-16"?>'),
        b"\xff\xfe" + named(b"Zoe").decode().encode("utf-16-le"),
        b"\xfe\xff" + named(b"Zoe").decode().encode("utf-16-be"),
        named(b"Zoe").decode().encode("utf-16-le"),
        named(b"Zoe").decode().encode("utf-16-be"),
        named(b"Zoe").decode().encode("utf-32"),
    ],
    ids=[
        "latin1",
        "overlong2",
        "overlong3",
        "surrogate",
        "five",
        "ff",
        "broken",
        "declared_latin1",
        "utf7",
        "unknown",
        "said_utf16",
        "utf16le_bom",
        "utf16be_bom",
        "utf16le",
        "utf16be",
        "utf32",
    ],
)
def test_bytes_that_are_not_utf_8_are_refused_and_never_replaced(raw: bytes) -> None:
    assert codes(raw) == ["bad_encoding"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_bad_byte_where_blocks_meet_is_told_as_what_it_is(cut: int) -> None:
    head = b"<DeathRegistrationGroup><DeathRegistration>"
    raw = head + b" " * (BLOCK - len(head) - len("<QualifierText>") - cut) + b"<QualifierText>Zo\xebz</QualifierText>"
    assert codes(raw) == ["bad_encoding"]
    assert problems(raw)[0].place == f"line 1, byte {raw.index(0xEB)}"


@pytest.mark.parametrize(
    "raw",
    [
        named(b"a\x00b"),
        named(b"a\x0bb"),
        named(b"a\xef\xbf\xbeb"),
        named(b"&#x1;"),
        named(b"&#xD800;"),
        named(b"<a></b>"),
        named(b"<x:a/>"),
        named(b"a & b"),
        named(b"]]>"),
        GOOD.encode()[:40],
        group(GOOD) + b"<more/>",
        group(GOOD) + b"more",
        group(GOOD) + b"\x00",
        group(GOOD)[:-3],
        group(GOOD) + "ë".encode()[:1],
        b" ",
        b"<",
        b"\xef\xbb\xbf",
    ],
    ids=[
        "nul",
        "control",
        "fffe",
        "reference",
        "surrogate",
        "crossed",
        "prefix",
        "ampersand",
        "cdata_end",
        "other",
        "second_root",
        "tail",
        "tail_nul",
        "cut",
        "cut_character",
        "blank",
        "one",
        "bom",
    ],
)
def test_what_is_not_xml_is_refused(raw: bytes) -> None:
    assert codes(raw)[-1] in {"not_well_formed", "wrong_root"}
    if raw != GOOD.encode()[:40]:
        assert codes(raw) == ["not_well_formed"]


def test_a_byte_order_mark_is_no_part_of_a_file() -> None:
    with_mark, without = only(b"\xef\xbb\xbf" + group(GOOD)), only(GOOD)
    assert with_mark.fields == without.fields
    assert with_mark.offset == without.offset + 3


def test_other_encodings_are_read_where_they_are_allowed() -> None:
    latin = Limits(encodings=frozenset({"iso-8859-1"}))
    raw = named(b"Zo\xeb", '<?xml version="1.0" encoding="ISO-8859-1"?>')
    assert only(raw, latin).fields["QualifierText"] == "Zoë"
    assert codes(named(b"Zoe"), latin) == codes(group(count=0), latin) == ["bad_encoding"]  # They declare none, so they are UTF-8.
    wide = Limits(encodings=frozenset({"utf-16"}))
    for encoded in (named("Zoë".encode()).decode().encode("utf-16"), b"\xfe\xff" + named("Zoë".encode()).decode().encode("utf-16-be")):
        assert only(encoded, wide).fields["QualifierText"] == "Zoë"
    lone = b"\xff\xfe" + named(b"Zoe").decode().encode("utf-16-le").replace(b"Z\0", b"\x00\xdc")
    assert codes(lone, wide) == ["bad_encoding"]
    plain = Limits(encodings=frozenset({"us-ascii"}))
    assert codes(named(b"Zo\xeb", '<?xml version="1.0" encoding="US-ASCII"?>'), plain) == ["bad_encoding"]


def test_a_character_that_somebody_lost_before_us_is_told() -> None:
    found = only(registration("<QualifierText>Zo\N{REPLACEMENT CHARACTER}</QualifierText>"))
    assert [(problem.code, problem.severity) for problem in record.judge(found)] == [("replacement_character", "warning")]


# The group and its count


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (group(GOOD).replace(b"<RecordCount>1</RecordCount>", b""), ["record_count_missing"]),
        (group(GOOD, count=2), ["record_count_mismatch"]),
        (group(GOOD, GOOD, count=1), ["record_count_mismatch"]),
        (group(count=1), ["record_count_mismatch"]),
        (group(GOOD, count=0), ["record_count_mismatch"]),
        (group(GOOD, count="one"), ["record_count_invalid"]),
        (group(GOOD, count=""), ["record_count_invalid"]),
        (group(GOOD, count="-1"), ["record_count_invalid"]),
        (group(GOOD, count="1.0"), ["record_count_invalid"]),
        (group(GOOD, count="\N{ARABIC-INDIC DIGIT ONE}"), ["record_count_invalid"]),
        (group(GOOD, count="1" * 5000), ["record_count_invalid"]),
        (group(GOOD, count=2, end=GOOD), ["record_count_not_last"]),
        (group(GOOD, end="<RecordCount>1</RecordCount>"), ["record_count_not_last"]),
        (group(GOOD, count="x", end=GOOD), ["record_count_invalid", "record_count_not_last"]),
        (group(GOOD, "<Other><DeathRegistration/></Other>", count=1), ["unexpected_element"]),
        (group(GOOD, "words", count=1), ["unexpected_text"]),
        (group(GOOD, end="words"), ["unexpected_text"]),
        (group(GOOD, count="<a/>1"), ["unexpected_element"]),
        (group("words<Other/>", count=2), ["record_count_mismatch", "unexpected_text", "unexpected_element"]),
        (group(f'<x:DeathRegistration xmlns:x="http://mock.invalid">{ID}</x:DeathRegistration>', count=0), ["unexpected_element"]),
    ],
    ids=map(str, range(20)),
)
def test_a_group_that_is_not_as_it_should_be_is_refused_with_every_fault(raw: bytes, expected: list[str]) -> None:
    assert codes(raw) == expected


def test_a_file_of_no_records_is_whole() -> None:
    assert read(group(count=0)) == []
    assert read(group(count=" 000 ")) == []


def test_what_has_no_meaning_may_stand_anywhere() -> None:
    raw = group(f"<?mock it?><!-- {GOOD} -->{GOOD}\n", count="<!-- two -->1", end="<!-- the end -->\n") + b"<!-- really -->\n"
    assert only(raw).fields == only(GOOD).fields


@pytest.mark.parametrize("uri", ["http://mock.invalid", NAMESPACES[0] + "/", NAMESPACES[0].upper()])
def test_a_root_of_another_namespace_is_another_kind_of_file(uri: str) -> None:
    assert codes(group(GOOD, start=f'<DeathRegistrationGroup xmlns="{uri}">')) == ["wrong_root"]


def test_prefixes_do_not_matter_and_namespaces_do() -> None:
    prefixed = f'<g:DeathRegistrationGroup xmlns:g="{NAMESPACES[0]}" xmlns:n="{NAMESPACES[4]}">'
    text = GOOD.replace("<Person", "<n:Person").replace("</Person", "</n:Person")
    text = text.replace("<D", "<g:D").replace("</D", "</g:D").replace("<R", "<g:R").replace("</R", "</g:R")
    raw = f"{prefixed}{text}<g:RecordCount>1</g:RecordCount></g:DeathRegistrationGroup>".encode()
    assert identity(raw) == identity(GOOD) == identity(group(GOOD, start=NAMESPACED))
    foreign = GOOD.replace("<PersonFamilyName>", '<PersonFamilyName xmlns="http://mock.invalid">')
    assert "PersonFamilyName" not in only(foreign).fields["DeceasedName"]
    assert judged(foreign) == [("unknown_element", "DeceasedName")]


# Limits

SMALL = Limits(record_bytes=2000, text_bytes=1000, token_bytes=100_000, names=500)


def test_a_record_that_is_too_large_is_a_bad_one_and_the_file_goes_on() -> None:
    filled = registration("<!--", "x" * 5000, "-->")
    found = read(group(GOOD, filled, GOOD), SMALL)
    assert [[problem.code for problem in record.judge(each)] for each in found] == [[], ["record_too_large"], []]
    assert found[1].fields == {}


@pytest.mark.parametrize("over", [0, 1])
def test_the_size_of_a_record_is_counted_to_the_byte(over: int) -> None:
    size = len(GOOD) - len("</DeathRegistration>")
    found = only(registration("<!--", "x" * (2000 - size - len("<!---->") + over), "-->"), SMALL)
    assert [problem.code for problem in record.judge(found)] == ["record_too_large"] * over


@pytest.mark.parametrize("filling", ["<a><b>", "<Line/>", "x", "<DeathRegistration>", " ", "<![CDATA[x]]>"])
def test_the_rest_of_a_huge_record_is_passed_over(filling: str) -> None:
    ends = {"<a><b>": "</b></a>", "<DeathRegistration>": "</DeathRegistration>"}.get(filling, "")
    count = 100 if ends else 4 * BLOCK // len(filling)
    text = registration("<!--", "x" * BLOCK, "-->", filling * count, "<!--", "x" * BLOCK, "-->", ends * count)
    found = read(group(GOOD, text, GOOD), SMALL)
    assert [[problem.code for problem in record.judge(each)] for each in found] == [[], ["record_too_large"], []]


def nested(depth: int) -> str:
    return registration("<a>" * depth + "</a>" * depth)


def test_a_record_that_is_too_deep_is_a_bad_one() -> None:
    assert judged(nested(14)) == [("unknown_element", "DeathRegistration")]
    assert judged(nested(15)) == [("too_deep", "DeathRegistration")]
    assert judged(registration("<DeceasedAddress>", "<a>" * 14, "</a>" * 14, "</DeceasedAddress>")) == [("too_deep", "DeceasedAddress")]


def test_elements_in_one_another_without_end_refuse_the_file() -> None:
    def endless() -> Iterator[bytes]:
        yield b"<DeathRegistrationGroup><DeathRegistration>"
        for _ in range(10_000):
            yield b"<a>" * 10_000

    assert codes(endless()) == ["too_deep"]
    assert codes(group("<a>" * 5000 + "</a>" * 5000, count=0)) == ["unexpected_element", "too_deep"]


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("character", ["x", "ë", "\N{LINEAR B SYLLABLE B008 A}"])
def test_a_text_that_is_too_long_makes_a_bad_record(character: str, over: int) -> None:
    limits = Limits(text_bytes=400)
    text = character * (400 // len(character.encode()) + over)
    found = judged(registration(f"<QualifierText> {text} </QualifierText>"), limits)
    assert found == ([("text_too_long", "QualifierText")] if over else [])


def test_a_text_that_is_too_long_where_none_is_known_makes_a_bad_record() -> None:
    found = judged(registration("<Other>", "x" * 401, "</Other>"), Limits(text_bytes=400))
    assert found == [("text_too_long", "DeathRegistration")]


@pytest.mark.parametrize("line", ["<Line>1 Imaginary Row</Line>", "<Line/>", "<Line> </Line>", "<Other/>"])
def test_what_repeats_too_often_makes_a_bad_record(line: str) -> None:
    name = "DeceasedAddress" if "Other" in line else "Line"
    most, more = (registration("<DeceasedAddress>", line * count, "</DeceasedAddress>") for count in (64, 65))
    assert ("too_many_repeats", name) not in judged(most)
    assert judged(more) == [("too_many_repeats", name)]


def test_a_million_repeats_are_passed_over() -> None:
    def much() -> Iterator[bytes]:
        yield f"<DeathRegistrationGroup>{GOOD}<DeathRegistration>".encode()
        for _ in range(1000):
            yield b"<DeceasedMaidenName>X</DeceasedMaidenName>" * 1000
        yield f"</DeathRegistration>{GOOD}<RecordCount>3</RecordCount></DeathRegistrationGroup>".encode()

    found = read(much())
    assert [[problem.code for problem in record.judge(each)] for each in found] == [[], ["record_too_large"], []]


@pytest.mark.parametrize(
    "token",
    [
        "<DeathRegistration a='MARK'/>",
        "<MARK/>",
        "<!--MARK-->",
        "<?mock MARK?>",
        "<DeathRegistration a='1' MARK='2'/>",
        "<a xmlns:b='MARK'/>",
    ],
    ids=["value", "name", "comment", "instruction", "attribute", "namespace"],
)
def test_a_token_that_expat_would_have_to_keep_whole_refuses_the_file(token: str) -> None:
    fed = 0

    def endless() -> Iterator[bytes]:
        nonlocal fed
        before, _, _ = token.partition("MARK")
        yield f"<DeathRegistrationGroup>{before}".encode()
        while True:
            fed += BLOCK
            yield b"x" * BLOCK

    assert codes(endless()) == ["token_too_long"]
    assert fed < 2 * Limits().token_bytes


def test_a_start_without_end_refuses_the_file() -> None:
    assert codes(b"<?xml " + b" " * 10**6) == ["token_too_long"]
    [problem] = problems(b"<" + b"a" * 10**6)
    assert (problem.code, problem.place) == ("token_too_long", "byte 0")


@pytest.mark.parametrize("element", ["<u{}/>", "<u a{}='1'/>", "<u xmlns:p{}='mock:x'/>", "<u xmlns='mock:{}'/>"])
def test_names_without_end_refuse_the_file(element: str) -> None:
    raw = group(*(registration(element.format(number)) for number in range(2000)))
    assert codes(raw, SMALL) == ["too_many_names"]


def stream(count: int, text: str) -> Iterator[bytes]:
    yield b"<DeathRegistrationGroup>"
    for _ in range(count):
        yield text.encode()
    yield f"<RecordCount>{count}</RecordCount></DeathRegistrationGroup>".encode()


def peak(count: int, text: str) -> int:
    tracemalloc.start()
    seen = sum(len(batch) for batch in Reader().read(stream(count, text)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    return most


@pytest.mark.parametrize(
    "text",
    [GOOD, registration("<Other a='b'>c</Other>"), registration("<Line>" + "x" * 300_000 + "</Line>")],
    ids=["plain", "unusual", "large"],
)
def test_memory_does_not_grow_with_the_file(text: str) -> None:
    few, many = (peak(max(size // len(text), 2), text) for size in (200_000, 1_000_000))
    assert many < few + 200_000


def test_white_space_and_words_between_records_are_not_kept() -> None:
    tracemalloc.start()
    assert len(read([b"<DeathRegistrationGroup>", *[b" " * BLOCK] * 100, group(GOOD)[len("<DeathRegistrationGroup>") :]])) == 1
    assert codes([b"<DeathRegistrationGroup>", *[b"w" * BLOCK] * 100, group(GOOD)[len("<DeathRegistrationGroup>") :]]) == [
        "unexpected_text"
    ]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4_000_000


# What callers rely on


def test_the_digest_is_of_all_bytes_however_they_come() -> None:
    raw = group(*[GOOD] * 300)
    digest = hashlib.sha256()
    reader = Reader(digest=digest)
    assert sum(len(batch) for batch in reader.read([raw[:7], b"", raw[7:70_000], raw[70_000:]])) == 300
    assert digest.digest() == hashlib.sha256(raw).digest()
    assert reader.bytes == len(raw)


def test_an_error_of_the_source_passes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield b"<DeathRegistrationGroup>"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        read(broken())


def test_a_refusal_does_not_quote_the_parser_or_the_file() -> None:
    for raw in (named(b"MARKER<a></b>"), b"<MARKER/>", group(GOOD, "MARKER<MARKER/>", count="MARKER"), named(b"MARKER\xff")):
        with pytest.raises(Refused) as refused:
            read(raw)
        told = f"{refused.value} {refused.value.problems!r}"
        assert "MARKER" not in told
        assert "mismatched" not in told
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_record_does_not_show_what_it_holds() -> None:
    assert "PLACEHOLDER" not in repr(only(GOOD))


def test_every_code_is_described_and_has_a_next_step() -> None:
    assert len(set(CODES)) == len(CODES) == len({*FILE_MESSAGES, *RECORD_MESSAGES}) + 1
    [problem] = record.judge(only(GOOD.replace("<DeceasedGender>2", "<DeceasedGender>3")))
    assert problem.message == "the code is none of 1, 2 and 9; have GRO deliver the record again"
    assert problem.place == f"record 1 (byte {len('<DeathRegistrationGroup>')}), DeceasedGender"
