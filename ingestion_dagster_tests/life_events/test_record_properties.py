"""Reading and identity: what holds for every file, however it is cut, spelled or broken."""

import re
import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.life_events import gathering, record
from ingestion_dagster.life_events.elements import NAMESPACES, RECORD, Element
from ingestion_dagster.life_events.xml_reader import Reader
from ingestion_dagster.life_events.xml_records import Records
from ingestion_dagster_tests.life_events.registrations import SAMPLES, group, registration

EXAMPLES = settings(max_examples=60, deadline=None)
DAMAGE = [b"", b"<", b">", b"/", b"&", b"\xff", b"MARKER", b"]]>", b'"']
FILES = [path.read_bytes() for path in sorted(SAMPLES.glob("*.xml"))]

characters = st.characters(
    exclude_categories=["Cs", "Cc"], exclude_characters="\N{REPLACEMENT CHARACTER}\ufffe\uffff", max_codepoint=0x1FFFF
)
texts = st.sampled_from(["", " ", "2031-02-03", "03", "1", "PLACEHOLDER", "O'EXAMPLE", "Zo\u00eb", "Zoe\u0308"]) | st.text(
    characters.filter(lambda character: ord(character) & 0xFFFE != 0xFFFE), max_size=12
)


def outcome(chunks: Iterable[bytes]) -> object:
    """What comes of a file: records and what is wrong with them, or why it is refused."""
    reader = Reader()
    try:
        found = [(each, each.fields, record.judge(each)) for batch in reader.read(chunks) for each in batch]
    except Refused as refused:
        return refused.problems
    return found, reader.records, reader.record_count, reader.bytes


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[first:last] for first, last in zip([0, *places], [*places, len(raw)], strict=True)]


@EXAMPLES
@given(st.data(), st.sampled_from(FILES))
def test_how_a_file_is_cut_does_not_matter(data: st.DataObject, raw: bytes) -> None:
    assert outcome(data.draw(cut(raw))) == outcome([raw])


def test_a_file_that_comes_byte_by_byte_is_the_same() -> None:
    for raw in FILES:
        assert outcome(raw[place : place + 1] for place in range(len(raw))) == outcome([raw])


def test_a_file_of_many_blocks_is_the_same_however_it_is_cut() -> None:
    raw = group(*(registration(f"<QualifierText>{number} \u00eb</QualifierText>") for number in range(1000)))
    whole = outcome([raw])
    for size in (999, 65_535, 65_537, 200_000):
        assert outcome(raw[place : place + size] for place in range(0, len(raw), size)) == whole


@st.composite
def contents(draw: st.DrawFn, element: Element = RECORD) -> list[tuple[Element, object]]:
    """Elements in some order, some of them several times, each a text or a list of elements in turn."""
    inner = draw(st.lists(st.sampled_from(list(element.children.values())), max_size=12))
    return [(each, draw(texts) if each.is_text else draw(contents(each))) for each in inner]


class Spelling:
    """One way to write a record down."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.space = draw(st.sampled_from(["", "\n  ", "<!-- mock -->", "<?mock?>"]))
        self.is_apart = draw(st.booleans())
        self.is_section = draw(st.booleans())
        self.prefix = draw(st.sampled_from(["", "", "a:", "Person:"]))
        self.namespace = draw(st.sampled_from(["", *NAMESPACES])) if not self.prefix else NAMESPACES[0]

    def text(self, text: str) -> str:
        text = unicodedata.normalize("NFD" if self.is_apart else "NFC", text)
        return f"\n<![CDATA[{text}]]> " if self.is_section and "]]>" not in text else escape(text)

    def written(self, name: str, content: object) -> str:
        inner = self.text(content) if isinstance(content, str) else self.all(content)  # type: ignore[arg-type]
        if not inner and self.is_section:
            return f"<{self.prefix}{name} />"
        return f"<{self.prefix}{name}>{inner}</{self.prefix}{name}>"

    def all(self, content: list[tuple[Element, object]]) -> str:
        return self.space + "".join(self.written(element.name, inner) + self.space for element, inner in content)

    def file(self, content: list[tuple[Element, object]]) -> bytes:
        scope = f' xmlns{":" if self.prefix else ""}{self.prefix.removesuffix(":")}="{self.namespace}"' if self.namespace else ""
        start = f"<{self.prefix}DeathRegistrationGroup{scope}>"
        records = self.written("DeathRegistration", content) + self.written("RecordCount", "1")
        return f"{start}{records}</{self.prefix}DeathRegistrationGroup>".encode()


spellings = st.composite(Spelling)()


@EXAMPLES
@given(contents(), spellings, spellings)
def test_how_a_record_is_spelled_does_not_matter(content: list[tuple[Element, object]], one: Spelling, other: Spelling) -> None:
    (first,), (second,) = (next(iter(Reader().read([spelling.file(content)]))) for spelling in (one, other))
    assert record.canonical(first.fields) == record.canonical(second.fields)
    assert codes(record.judge(first)) == codes(record.judge(second))


def codes(problems: Iterable[Problem]) -> list[str]:
    return [problem.code for problem in problems]


@settings(max_examples=150, deadline=None)
@given(contents(), spellings)
def test_the_short_way_and_the_long_way_lead_to_the_same(content: list[tuple[Element, object]], spelling: Spelling) -> None:
    tapes: list[list[object]] = []

    class Listening(Records):
        def _end_record(self) -> None:
            tapes.append(list(self._tape))
            super()._end_record()

    reader = Reader()
    reader._records = Listening(reader._parser, gathering.Limits())
    [[found]] = reader.read([spelling.file(content)])
    fields, faults = gathering.gather(tapes[0], [], gathering.Limits())
    plain = gathering.gather_plain(tapes[0], gathering.Limits())
    assert found.fields == fields
    assert plain is None or (plain == fields and not faults)


@EXAMPLES
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"<DeathRegistrationGroup>", b"<?xml version='1.0'?><DeathRegistrationGroup><DeathRegistration>"]),
)
def test_no_bytes_do_more_than_refuse_a_file(raw: bytes, before: bytes) -> None:
    outcome([before + raw])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_told_and_never_quoted(data: st.DataObject) -> None:
    raw = bytearray(re.sub(rb">[^<>\s][^<>]*<", b">MARKER<", FILES[0]).replace(b">MARKER</RecordCount>", b">4</RecordCount>"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"<", b">", b"/", b"&", b"\xff", b"MARKER", b"]]>", b'"'])
        )
    found = outcome([bytes(raw)])
    told = found if isinstance(found[0], Problem) else [problem for _, _, problems in found[0] for problem in problems]  # type: ignore[index]
    assert "MARKER" not in repr(told)
