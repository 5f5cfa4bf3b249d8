"""The synthetic death registrations in `life_events/`: the same bytes on every machine, every day.

`python source_data/generate_life_events.py` rewrites the folder and `life_events.json`, which tells what is to become of every file;
`--check` changes nothing and exits 1 if something is not what would be written. `--large FILE` with `--records N` or `--bytes 5G` writes
one valid file of that size instead, in constant memory. Nobody in these files exists: registration ids begin with 90000, people died in
2030 and 2031, postcodes begin with ZZ.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "life_events"
EXPECTED = FOLDER.with_suffix(".json")

Fields = dict[str, Any]

_GROUP = "http://www.ons.gov.uk/gro/OGDDeathExtractDWP"
_PERSON = "http://www.govtalk.gov.uk/people/PersonDescriptives"
_PERSONAL = "http://www.govtalk.gov.uk/people/AddressAndPersonalDetails"
_ADDRESS = "http://www.ons.gov.uk/gro/people/GROAddressDescriptives"
_NAMES = "http://www.ons.gov.uk/gro/people/GROPersonDescriptives"

_ORDER = (
    "RegistrationID",
    "RegistrationType",
    "RecordLockedDateTime",
    "RecordUpdateDateTime",
    "RecordUpdateReason",
    "DeceasedName",
    "DeceasedAliasName",
    "DeceasedMaidenName",
    "DeceasedGender",
    "DeceasedDeathDate",
    "PartialMonthOfDeath",
    "PartialYearOfDeath",
    "QualifierText",
    "FreeFormatDeathDate",
    "DeceasedBirthDate",
    "PartialMonthOfBirth",
    "PartialYearOfBirth",
    "FreeFormatBirthDate",
    "DeceasedAddress",
)
"""The children of a record as the feed has them; the types of aliases come with the aliases."""

_GIVEN = ("Testina", "Mockley", "Fictia", "Nullah", "Dummia", "Samplo", "Placida", "Exampla", "Imago", "Fauxine")
_FAMILY = ("PLACEHOLDER", "SYNTHETIC", "NOTREAL", "INVENTED", "SPECIMEN", "MADEUP")
_STREETS = ("Imaginary Row", "Pretend Street", "Notional Close", "Missing Lane")


@dataclass(frozen=True)
class Look:
    """How a file is written: with which prefixes (None: without namespaces), and whether with an XML declaration."""

    prefixes: Mapping[str, str] | None = field(
        default_factory=lambda: {_GROUP: "", _PERSON: "ns1", _PERSONAL: "ns2", _ADDRESS: "ns3", _NAMES: "ns4"}
    )
    declaration: bool = False

    def name(self, uri: str, local: str) -> str:
        """An element's name in such a file."""
        prefix = self.prefixes[uri] if self.prefixes else ""
        return f"{prefix}:{local}" if prefix else local

    @property
    def opening(self) -> str:
        """All that is above the first record."""
        declared = ""
        for uri, prefix in (self.prefixes or {}).items():
            declared += f' xmlns{":" if prefix else ""}{prefix}="{uri}"'
        start = '<?xml version="1.0" encoding="UTF-8"?>\n' if self.declaration else ""
        return f"{start}<{self.name(_GROUP, 'DeathRegistrationGroup')}{declared}>\n"


NAMESPACED = Look()
OTHER_PREFIXES = Look({_GROUP: "g", _PERSON: "person", _ADDRESS: "where", _NAMES: "who"}, declaration=True)
PLAIN = Look(None, declaration=True)


def person(*given: str, family: str | None = None, title: str | None = None, suffix: str | None = None) -> Fields:
    """A name, of the parts that are given."""
    parts = {"PersonNameTitle": title, "PersonGivenName": list(given), "PersonFamilyName": family, "PersonNameSuffix": suffix}
    return {name: part for name, part in parts.items() if part}


def address(*lines: str, flat: str | None = None, building: str | None = None, postcode: str | None = None) -> Fields:
    """An address, of the parts that are given."""
    parts = {"Flat": flat, "Building": building, "Line": list(lines), "Postcode": postcode}
    return {name: part for name, part in parts.items() if part}


def registration(number: int, **changes: Any) -> Fields:
    """A registration as it is parsed: that of an ordinary person, but for the elements named; one that is None is left out."""
    usual: Fields = {
        "RegistrationID": f"9000000{number:02}",
        "RecordLockedDateTime": f"2031-02-04T{8 + number % 10:02}:{number % 60:02}:00",
        "DeceasedName": person(_GIVEN[number % 10], family=_FAMILY[number % 6], title="Mx"),
        "DeceasedGender": str(1 + number % 2),
        "DeceasedDeathDate": {"PersonDeathDate": f"2031-02-{1 + number % 4:02}", "VerificationLevel": "03"},
        "DeceasedBirthDate": {"PersonBirthDate": f"{1930 + number % 40}-06-{1 + number % 28:02}"},
        "DeceasedAddress": address(f"{number} {_STREETS[number % 4]}", "Fakeham", postcode=f"ZZ{number % 100} {number % 10}ZZ"),
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def update(number: int, time: str, reason: int | None, **changes: Any) -> Fields:
    """A change to a registration: the whole of it, with the time of the change and why."""
    why = {"RecordLockedDateTime": None, "RecordUpdateDateTime": time, "RecordUpdateReason": str(reason) if reason else None}
    return registration(number, **(why | changes))


def partial(year: str | None, month: str | None = None, **more: str) -> Fields:
    """A death of which no day is known."""
    return {"DeceasedDeathDate": None, "PartialMonthOfDeath": month, "PartialYearOfDeath": year, **more}


def born(year: str, month: str | None = None, **more: str) -> Fields:
    """A birth of which no day is known."""
    return {"DeceasedBirthDate": None, "PartialMonthOfBirth": month, "PartialYearOfBirth": year, **more}


def aliases(*pairs: tuple[Fields | None, str | None]) -> Fields:
    """Other names and their types, by pairs; None: an element that is there and empty. Types at the end that are None are not there."""
    types = [kind for _, kind in pairs]
    while types and types[-1] is None:
        types.pop()
    return {"DeceasedAliasName": [name for name, _ in pairs], "DeceasedAliasNameType": types}


def of_every_kind() -> Iterator[Fields]:
    """The registrations of an ordinary day, and of all the days on which something was out of the ordinary."""
    yield from (registration(number) for number in range(1, 6))
    yield from (update(number, f"2031-02-05T10:{number:02}:00", number - 5) for number in range(6, 11))
    yield registration(11, RegistrationType="1", RecordUpdateDateTime="2031-02-04T21:11:00", RecordUpdateReason="2")
    yield update(12, "2031-02-05T10:00:00.000", None)
    yield registration(13, RecordLockedDateTime="2031-02-04T11:00:00.125")
    yield registration(14, **aliases((person("Dum", family="INVENTED"), "otherwise")))
    yield registration(15, **aliases((person("Sam"), "otherwise"), (person("Sammo"), "formerly known as")))
    kinds = ("otherwise", "ALIAS", "otherwise", "aka")
    four = [(person(f"Alias{letter}", family="SPECIMEN"), kind) for letter, kind in zip("ABCD", kinds, strict=True)]
    yield registration(16, **aliases(*four))
    yield registration(17, **aliases((person("Exa"), "Otherwise"), (person("Ampla"), None), (person("Exampletta"), None)))
    bare = [(person(family="ONLYFAMILY"), "otherwise"), (person(title="Dr"), "title alone"), (None, None), (person("Given"), "otherwise")]
    yield registration(18, **aliases(*bare))
    yield registration(19, DeceasedMaidenName=["IMAGINARY"])
    yield registration(20, DeceasedMaidenName=["FIRSTNAME", "SECONDNAME"])
    yield registration(21, DeceasedMaidenName=["ONE", "TWO", "THREE", "FOUR", "FIVE"])
    yield registration(22, DeceasedGender="9")
    yield registration(23, **partial("2030"))
    yield registration(24, **partial("2030", "4", QualifierText="On or about"))
    yield registration(25, **partial("2031", "12", FreeFormatDeathDate="Between Christmas and New Year"))
    yield registration(26, **partial(None, FreeFormatDeathDate="Not known", QualifierText="Unknown"))
    yield registration(27, DeceasedDeathDate={"PersonDeathDate": "2031-01-31", "VerificationLevel": "00"})
    yield registration(28, DeceasedDeathDate={"PersonDeathDate": "2030-12-31"})
    yield registration(29, **born("1960", FreeFormatBirthDate="Around 1960"))
    yield registration(30, **born("1931", "2"))
    yield registration(31, DeceasedBirthDate={"PersonBirthDate": "1952-02-29", "VerificationLevel": "01"})
    yield registration(32, DeceasedAddress=None)
    yield registration(33, DeceasedAddress=address("Only One Line"))
    yield registration(34, DeceasedAddress=address("First", "Second", "Third", "Fourth", "Fifth", "Sixth", postcode="ZZ6 6ZZ"))
    yield registration(35, DeceasedAddress=address(flat="2", building="Mock House", postcode="ZZ2 2ZZ"))
    yield registration(36, DeceasedAddress=address("3 Pretend Street", flat="Flat 9", building="Sham Court"))
    yield registration(37, DeceasedAddress=address(postcode="ZZ3 3ZZ"))
    yield registration(38, DeceasedName=person("Zoë-Ĺïne", "Łucja", family="ÖRNÆK-ŽIVÝ"), DeceasedAddress=address("Straße 7", "Çédille"))
    yield registration(39, DeceasedName=person("D'Arcy", family="O'EXAMPLE & SONS <Ltd>", suffix="Jr"))
    longest = person(*(letter * 128 for letter in "JKL"), family="M" * 128, title="N" * 128, suffix="P" * 128)
    yield registration(40, DeceasedName=longest)
    yield {
        "RegistrationID": "900000041",
        "RecordLockedDateTime": "2031-02-04T00:00:00",
        "DeceasedName": person(family="REQUIREDONLY"),
        "DeceasedGender": "1",
        "PartialYearOfDeath": "2031",
    }
    yield registration(42, RegistrationID="90000042-0000-4000-8000-000000000042")


def corrections() -> Iterator[Fields]:
    """Changes to registrations of the first file, which make new events, and one registration as it was, which does not."""
    yield update(1, "2031-02-06T09:00:00", 1, DeceasedName=person("Testina", "Corrected", family="SYNTHETIC", title="Mx"))
    yield update(2, "2031-02-06T09:10:00", 3)
    yield registration(3)
    yield update(23, "2031-02-06T09:20:00", 2)
    yield update(16, "2031-02-06T09:30:00", 4)
    yield update(16, "2031-02-06T09:40:00", 5)


def bad_registration(number: int) -> Fields:
    """A registration that has no time, and a gender there is not."""
    return registration(number, RecordLockedDateTime=None, DeceasedGender="7")


def rendered(record: Fields, look: Look) -> str:
    """A registration as a file has it, on lines of its own."""
    lines = [f"  <{look.name(_GROUP, 'DeathRegistration')}>"]
    for name in _ORDER:
        if name not in record:
            continue
        for element, uri, value in _elements(record, name):
            lines.append(f"    {_element(look, _GROUP, element, _content(look, uri, value))}")
    return "\n".join([*lines, f"  </{look.name(_GROUP, 'DeathRegistration')}>\n"])


def _elements(record: Fields, name: str) -> Iterator[tuple[str, str, Any]]:
    """The elements of that name, or what stands interleaved with them; and the namespace of what is in them."""
    value = record[name]
    if name == "DeceasedAliasName":
        types = record["DeceasedAliasNameType"]
        for place, alias in enumerate(value):
            yield name, _NAMES, alias
            if place < len(types):
                yield f"{name}Type", _GROUP, types[place]
        return
    inner = {"DeceasedName": _NAMES, "DeceasedAddress": _ADDRESS}.get(name, _PERSON)
    yield from ((name, inner, each) for each in (value if isinstance(value, list) else [value]))


def _content(look: Look, uri: str, value: Any) -> str:
    if not isinstance(value, dict):
        return escape(value or "")
    parts = [(name, part) for name, given in value.items() for part in (given if isinstance(given, list) else [given])]
    return "".join(_element(look, uri, name, escape(part)) for name, part in parts)


def _element(look: Look, uri: str, local: str, content: str) -> str:
    name = look.name(uri, local)
    return f"<{name}>{content}</{name}>" if content else f"<{name}/>"


def xml(records: Iterable[Fields], look: Look = NAMESPACED, *, count: int | None = None, end: str = "") -> bytes:
    """A file of registrations; `count` is what it says of their number, -1 nothing; `end` stands in place of what is below them."""
    made = [rendered(record, look) for record in records]
    counted = f"  {_element(look, _GROUP, 'RecordCount', str(len(made) if count is None else count))}\n" if count != -1 else ""
    below = end or f"{counted}</{look.name(_GROUP, 'DeathRegistrationGroup')}>\n"
    return (look.opening + "".join(made) + below).encode()


@dataclass(frozen=True)
class File:
    """A file, and what is to become of it: refused for these reasons, or loaded, and how its records are counted."""

    path: str
    content: bytes
    codes: Sequence[str] = ()
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0

    def expected(self) -> Fields:
        """As `life_events.json` tells it."""
        if self.path.startswith("bad/"):
            return {"status": "errored", "codes": sorted(self.codes)}
        counts = {"accepted": self.accepted, "duplicates": self.duplicates, "quarantined": self.quarantined}
        return {"status": "archived", "codes": sorted(self.codes), "record_count": sum(counts.values()), **counts}


def good() -> Iterator[File]:
    every = list(of_every_kind())
    yield File("DI_D_20310205.xml", xml(every), accepted=len(every))
    changed = list(corrections())
    yield File("DI_D_20310206_corrections.xml", xml(changed, PLAIN), accepted=len(changed) - 1, duplicates=1)
    one_bad = [registration(51), registration(52), bad_registration(53), registration(54), registration(55)]
    faults = ["missing_timestamp", "unknown_gender"]
    yield File("DI_D_20310207_one_bad_record.xml", xml(one_bad, OTHER_PREFIXES), faults, accepted=4, quarantined=1)
    twice = [registration(61), registration(62), registration(61)]
    yield File("DI_D_20310208_duplicate.xml", xml(twice), accepted=2, duplicates=1)
    yield File("DI_D_20310209_no_registrations.xml", xml([]))


def bad() -> Iterator[File]:
    three = [registration(number) for number in (71, 72, 73)]
    whole = xml(three, Look(declaration=True))
    yield File("bad/count_mismatch.xml", xml(three, count=4), ["record_count_mismatch"])
    yield File("bad/count_missing.xml", xml(three, count=-1), ["record_count_missing"])
    yield File("bad/truncated.xml", whole[: whole.rindex(b"<DeceasedGender>")], ["not_well_formed"])
    doctype = b'<!DOCTYPE DeathRegistrationGroup [<!ENTITY family "EXPANDED">]>\n<DeathRegistrationGroup'
    with_entity = whole.replace(b"<DeathRegistrationGroup", doctype, 1).replace(b"NOTREAL", b"&family;")
    yield File("bad/doctype.xml", with_entity, ["doctype_forbidden"])
    latin = [registration(74, DeceasedName=person("Zoë", family="ÖRNÆK"))]
    yield File("bad/encoding.xml", xml(latin, Look(declaration=True)).decode().encode("iso-8859-1"), ["bad_encoding"])
    yield File("bad/root.xml", whole.replace(b"DeathRegistrationGroup", b"BirthRegistrationGroup"), ["wrong_root"])
    yield File("bad/empty.xml", b"", ["empty"])
    many = [bad_registration(number) for number in range(75, 87)] + three
    yield File("bad/too_many_bad_records.xml", xml(many), ["too_many_bad_records", "missing_timestamp", "unknown_gender"])


def files() -> list[File]:
    """Every file, in the order in which they are to be loaded."""
    return [*good(), *bad()]


def contents() -> dict[Path, bytes]:
    """Everything that is written."""
    made = files()
    expected = {file.path: file.expected() for file in made}
    assert len(expected) == len(made)
    told = json.dumps(expected, indent=1, ensure_ascii=False).encode() + b"\n"
    return {FOLDER / file.path: file.content for file in made} | {EXPECTED: told}


_BLOCK = 1000
_PREFIX = "9~~~~~"
"""The first six digits of a registration's id, five of them its block's number; the last three are its place there."""


def large(records: int | None = None, size: int | None = None) -> Iterator[bytes]:
    """The bytes of a valid file with so many distinct registrations of some 1.2 kB, or with as many as fit into so many bytes."""
    block = [_large_record(place) for place in range(_BLOCK)]
    whole, lengths = b"".join(block), [len(record) for record in block]
    opening, closing = NAMESPACED.opening.encode(), "</DeathRegistrationGroup>\n"
    left = records if records is not None else sys.maxsize
    room = (size if size is not None else sys.maxsize) - len(opening) - len(f"  <RecordCount>{10**9}</RecordCount>\n{closing}")
    written = number = 0
    yield opening
    while left >= _BLOCK and room >= len(whole):
        yield whole.replace(b"~~~~~", b"%05d" % number)
        written, left, room, number = written + _BLOCK, left - _BLOCK, room - len(whole), number + 1
    for record, length in zip(block, lengths, strict=True):
        if not left or room < length:
            break
        yield record.replace(b"~~~~~", b"%05d" % number)
        written, left, room = written + 1, left - 1, room - length
    yield f"  <RecordCount>{written}</RecordCount>\n{closing}".encode()


def _large_record(place: int) -> bytes:
    lines = (f"{place} {_STREETS[place % 4]}", "Nether Pretence", "Fakeham-under-Pretence", "Imaginary County")
    given = [f"{_GIVEN[(place + step) % 10]}" for step in range(1 + place % 3)]
    record = registration(
        place % 50,
        RegistrationType="1",
        RegistrationID=f"{_PREFIX}{place:03}",
        DeceasedName=person(*given, family=f"{_FAMILY[place % 6]}-~~~~~", title="Mx"),
        DeceasedBirthDate={"PersonBirthDate": f"{1930 + place % 70}-06-{1 + place % 28:02}", "VerificationLevel": "02"},
        DeceasedAddress=address(*lines, flat=f"Flat {place}", building="Notional House", postcode="ZZ9 9ZZ"),
    )
    if place % 2:
        record |= aliases((person("Mocky", family="OTHERWISE"), "otherwise"), (person("Mox", family="FORMERLY"), "formerly known as"))
    if place % 4 == 1:
        record |= {"DeceasedMaidenName": ["IMAGINARY"]}
    if place % 10 == 7:
        record |= {"RecordUpdateDateTime": "2031-02-05T10:00:00.000", "RecordUpdateReason": str(1 + place % 5)}
        del record["RecordLockedDateTime"]
    return rendered(record, NAMESPACED).encode()


def write_large(path: Path, records: int | None = None, size: int | None = None) -> int:
    """Write such a file, in constant memory; returns its size in bytes."""
    with path.open("wb", buffering=1 << 20) as target:
        return sum(target.write(chunk) for chunk in large(records, size))


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError("a number of bytes, or of K, M or G: 5G")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def main() -> int:
    """Write the folder, or with `--check` say what in it is not as it would be written; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the folder differs")
    parser.add_argument("--large", metavar="FILE", type=Path, help="write one large valid file instead")
    parser.add_argument("--records", metavar="N", type=int, help="how many registrations it has")
    parser.add_argument("--bytes", metavar="SIZE", type=_bytes, help="how large it is at most: 5G")
    asked = parser.parse_args()
    if asked.large:
        if asked.records is None and asked.bytes is None:
            parser.error("--large needs --records or --bytes")
        print(f"{asked.large}: {write_large(asked.large, asked.records, asked.bytes)} bytes")
        return 0
    wanted = contents()
    present = {path: path.read_bytes() for path in [*FOLDER.rglob("*"), EXPECTED] if path.is_file()}
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    for path in differing:
        print(f"{'differs' if asked.check else 'updated'}: {path.relative_to(FOLDER.parent)}")
        if not asked.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path]) if path in wanted else path.unlink()
    return 1 if asked.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
