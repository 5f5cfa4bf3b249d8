"""The elements of GRO's format: what they are called, what may stand in what, and how often (specification §1)."""

from collections.abc import Iterable

GROUP, REGISTRATION, RECORD_COUNT = "DeathRegistrationGroup", "DeathRegistration", "RecordCount"

SEPARATOR = " "
"""Between a namespace and a local name, as the parser reports names; a name has none."""

NAMESPACES = (
    "http://www.ons.gov.uk/gro/OGDDeathExtractDWP",
    "http://www.govtalk.gov.uk/people/PersonDescriptives",
    "http://www.govtalk.gov.uk/people/AddressAndPersonalDetails",
    "http://www.ons.gov.uk/gro/people/GROAddressDescriptives",
    "http://www.ons.gov.uk/gro/people/GROPersonDescriptives",
)
"""Those of the format. A file without any is as good."""

_PREFIXES = ("", *(namespace + SEPARATOR for namespace in NAMESPACES))

IGNORED_ATTRIBUTES = tuple(
    namespace + SEPARATOR for namespace in ("http://www.w3.org/2001/XMLSchema-instance", "http://www.w3.org/XML/1998/namespace")
)
"""How attributes begin that say nothing of a record: where a schema is, or how white space is meant."""


def names(local: str) -> tuple[str, ...]:
    """The names, as the parser reports them, that an element of ours can have."""
    return tuple(prefix + local for prefix in _PREFIXES)


def known_name(name: str) -> str:
    """A name as it is part of a record's identity: without a namespace if that is one of ours."""
    namespace, separator, local = name.rpartition(SEPARATOR)
    return local if separator and namespace in NAMESPACES else name


class Tag:
    """What an element is called. Those of the format are one each, whatever namespace they come in; see `TAGS`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Element:
    """What may stand somewhere in a record: a text, or a structure of texts.

    One that repeats becomes a list; one that keeps its place is None there when it is empty, and any other that is empty is absent.
    """

    __slots__ = ("children", "is_text", "keeps_place", "name", "repeats")

    def __init__(self, name: str, children: Iterable["Element"] = (), *, repeats: bool = False, keeps_place: bool = False) -> None:
        self.name = name
        self.children = {_tag(child.name): child for child in children}
        self.is_text = not self.children
        self.repeats = repeats
        self.keeps_place = keeps_place


TAGS: dict[str, Tag] = {}
"""Tags of what may stand in a record, by the names that the parser reports."""


def _tag(local: str) -> Tag:
    tag = TAGS.get(local) or Tag(local)
    TAGS.update(dict.fromkeys(names(local), tag))
    return tag


def _texts(*local_names: str) -> list[Element]:
    return [Element(name) for name in local_names]


_NAME = [
    *_texts("PersonNameTitle", "PersonFamilyName", "PersonNameSuffix"),
    Element("PersonGivenName", repeats=True),
]

RECORD = Element(
    REGISTRATION,
    [
        *_texts("RegistrationID", "RegistrationType", "RecordLockedDateTime", "RecordUpdateDateTime", "RecordUpdateReason"),
        Element("DeceasedName", _NAME),
        Element("DeceasedAliasName", _NAME, repeats=True, keeps_place=True),
        Element("DeceasedAliasNameType", repeats=True, keeps_place=True),
        Element("DeceasedMaidenName", repeats=True),
        Element("DeceasedGender"),
        Element("DeceasedDeathDate", _texts("PersonDeathDate", "VerificationLevel")),
        *_texts("PartialMonthOfDeath", "PartialYearOfDeath", "QualifierText", "FreeFormatDeathDate"),
        Element("DeceasedBirthDate", _texts("PersonBirthDate", "VerificationLevel")),
        *_texts("PartialMonthOfBirth", "PartialYearOfBirth", "FreeFormatBirthDate"),
        Element("DeceasedAddress", [*_texts("Flat", "Building", "Postcode"), Element("Line", repeats=True)]),
    ],
)
"""One registration."""

PLACE_KEEPERS = ("DeceasedAliasName", "DeceasedAliasNameType")
"""Lists that pair by position."""

UNKNOWN = "Unknown"
"""Entry of a record's fields for what is not of this format, a list; no element of ours is called that."""
