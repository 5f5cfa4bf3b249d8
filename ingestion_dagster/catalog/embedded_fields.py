"""The fields of an embedded index: what a mapping makes of a document, and which documents it does not take."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
import tantivy

from ingestion_dagster.catalog.analysis import Word, english, standard
from ingestion_dagster.catalog.mapping import ENGLISH
from ingestion_dagster.catalog.search import SOURCE_FIELDS

ID, SOURCE = "_id", "_source"
LEVELS = 255
"""Steps by which a rank feature counts before it is looked at exactly."""

SEARCHED = frozenset({*SOURCE_FIELDS, "creator"})
"""Text fields whose words are looked for; those of others, which no `Query` asks for, are not kept."""

_LEVEL = "~level"
_POSITION_GAP = 100
_LONGEST_TERM = 32_766
_SHORT = 40
_LEAST_FEATURE = 1.17549435e-38
_HALF = 10.0
"""The value of a rank feature that counts half."""

_ANALYZERS: Mapping[str, Callable[[str], list[Word]]] = {ENGLISH: english, "standard": standard}
_KINDS = frozenset({"text", "keyword", "long", "integer", "float", "double", "boolean", "date", "rank_feature"})
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T(\d\d(:\d\d(:\d\d([.,]\d{1,9})?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?)?)?)?")


class UnknownMapping(Exception):
    """A mapping has what the embedded index does not know; the message says what."""


class NotTaken(Exception):
    """A document that the mapping does not take; the message has no value of it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be looked for: where in a document it is, and how it is indexed."""

    name: str
    path: tuple[str, ...]
    kind: str
    analyzer: str = "standard"
    constant: bool = False
    """Whether a word counts the same wherever it is (similarity `boolean`)."""
    ignore_above: int = 0

    def words(self, text: str) -> Sequence[Word]:
        """The words of a text as this field has them."""
        # Tags and names come again and again, descriptions do not.
        return _words_again(self.analyzer, text) if len(text) <= _SHORT else _ANALYZERS[self.analyzer](text)


@lru_cache(maxsize=1 << 13)
def _words_again(analyzer: str, text: str) -> Sequence[Word]:
    return _ANALYZERS[analyzer](text)


class Fields:
    """The fields of an index, by name."""

    def __init__(self, mappings: Mapping[str, Any]) -> None:
        """Raises `UnknownMapping`."""
        self.by_name = {field.name: field for field in _fields(mappings.get("properties", {}), (), ())}
        self._at: dict[tuple[str, ...], list[Field]] = {}
        for field in self.by_name.values():
            self._at.setdefault(field.path, []).append(field)
        self._objects = frozenset(_objects(mappings.get("properties", {}), ()))
        self.schema = self._schema()

    def document(self, id_: int, source: bytes) -> tantivy.Document:
        """A document as it is indexed. Raises `NotTaken`."""
        try:
            content = orjson.loads(source)
        except orjson.JSONDecodeError:
            raise NotTaken("mapper_parsing_exception: no JSON") from None
        if not isinstance(content, dict):
            raise NotTaken("mapper_parsing_exception: no JSON object")
        document = tantivy.Document()
        document.add_integer(ID, id_)
        document.add_bytes(SOURCE, source)
        for path in self._objects:
            if any(not isinstance(value, dict) for value in _values(content, path)):
                raise NotTaken(f"mapper_parsing_exception at field {'.'.join(path)}")
        for path, fields in self._at.items():
            if values := _values(content, path):
                for field in fields:
                    _add(document, field, values)
        return document

    def level(self, name: str) -> str:
        """The field of the steps of a rank feature."""
        return name + _LEVEL

    def _schema(self) -> tantivy.Schema:
        builder = tantivy.SchemaBuilder()
        # An unsigned field would not do: tantivy's deletion by term does not find its documents.
        builder.add_integer_field(ID, indexed=True, fast=True)
        builder.add_bytes_field(SOURCE, stored=True)
        for field in self.by_name.values():
            match field.kind:
                case "text":
                    builder.add_text_field(field.name, tokenizer_name="raw", index_option="position")
                case "keyword" | "boolean":
                    builder.add_text_field(field.name, tokenizer_name="raw", index_option="basic")
                case "float" | "double":
                    builder.add_float_field(field.name, indexed=True, fast=True)
                case "rank_feature":
                    builder.add_float_field(field.name, fast=True)
                    builder.add_integer_field(self.level(field.name), indexed=True)
                case _:
                    builder.add_integer_field(field.name, indexed=True, fast=True)
        return builder.build()


def share(feature: float) -> float:
    """How much a rank feature counts, from 0 to 1."""
    return feature / (feature + _HALF)


def _fields(properties: Mapping[str, Any], path: tuple[str, ...], parents: tuple[str, ...]) -> Iterator[Field]:
    for name, mapping in properties.items():
        here = (*path, name)
        if "properties" in mapping:
            yield from _fields(mapping["properties"], here, parents)
        elif mapping.get("type") != "object":
            yield _field(".".join(here), here, mapping)
            for part, submapping in mapping.get("fields", {}).items():
                yield _field(".".join((*here, part)), here, submapping)


def _field(name: str, path: tuple[str, ...], mapping: Mapping[str, Any]) -> Field:
    kind, analyzer = str(mapping.get("type")), str(mapping.get("analyzer", "standard"))
    if kind not in _KINDS:
        raise UnknownMapping(f"field {name} has a type that the embedded index does not have")
    if analyzer not in _ANALYZERS:
        raise UnknownMapping(f"field {name} has an analyzer that the embedded index does not have")
    return Field(name, path, kind, analyzer, mapping.get("similarity") == "boolean", int(mapping.get("ignore_above", 0)))


def _objects(properties: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, mapping in properties.items():
        if "properties" in mapping:
            yield (*path, name)
            yield from _objects(mapping["properties"], (*path, name))


def _values(content: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """What a document has at a path, out of all lists; without nulls."""
    value = content.get(path[0])
    if value is None:
        return []
    if len(path) == 1 and not isinstance(value, list):
        return [value]
    found = [content]
    for name in path:
        found = [part[name] for part in _flat(found) if isinstance(part, dict) and name in part]
    return [value for value in _flat(found) if value is not None]


def _flat(values: list[Any]) -> list[Any]:
    # JSON has no lists but lists: to ask for their type alone takes a fifth of the time, and this is asked of every field.
    while list in map(type, values):
        values = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return values


def _add(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    try:
        _ADD[field.kind](document, field, values)
    except (ValueError, OverflowError):
        raise NotTaken(f"mapper_parsing_exception at field {field.name}") from None


def _add_text(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    tokens: list[tantivy.Token] = []
    start = 0
    texts = list(map(_text, values))
    for text in texts if field.name in SEARCHED else ():
        words = field.words(text)
        tokens += [tantivy.Token(word.text, start + word.position, 0, 0) for word in words]
        start += _POSITION_GAP + (words[-1].position + 1 if words else 0)
    if tokens:
        document.add_pre_tokenized_text(field.name, tantivy.PreTokenizedString("", tokens))


def _add_keywords(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    for value in dict.fromkeys(map(_text, values)):
        if field.ignore_above and len(value) > field.ignore_above:
            continue
        if len(value) > _LONGEST_TERM // 4 and len(value.encode()) > _LONGEST_TERM:
            raise NotTaken(f"illegal_argument_exception at field {field.name}")
        document.add_text(field.name, value)


def _add_booleans(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    for value in values:
        if value not in (True, False, "true", "false", "") or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            raise ValueError
        document.add_text(field.name, "true" if value in (True, "true") else "false")


def _add_integers(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    bits = 31 if field.kind == "integer" else 63
    for value in values:
        number = value if isinstance(value, int) and not isinstance(value, bool) else math.trunc(_number(value))
        if not -(2**bits) <= number < 2**bits:
            raise ValueError
        document.add_integer(field.name, number)


def _add_floats(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    for value in values:
        document.add_float(field.name, _number(value))


def _add_dates(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    for value in values:
        document.add_integer(field.name, _milliseconds(value))


def _add_feature(document: tantivy.Document, field: Field, values: list[Any]) -> None:
    (value,) = values
    number = _number(value)
    if number < _LEAST_FEATURE:
        raise ValueError
    document.add_float(field.name, number)
    document.add_integer(field.name + _LEVEL, max(1, round(LEVELS * share(number))))


_ADD: Mapping[str, Callable[[tantivy.Document, Field, list[Any]], None]] = {
    "text": _add_text,
    "keyword": _add_keywords,
    "boolean": _add_booleans,
    "long": _add_integers,
    "integer": _add_integers,
    "float": _add_floats,
    "double": _add_floats,
    "date": _add_dates,
    "rank_feature": _add_feature,
}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise ValueError


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _milliseconds(value: Any) -> int:
    """A date as ISO text or milliseconds since 1970, as the latter."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError
    if not _DATE.fullmatch(value):
        return int(value)
    day, _, time = value.partition("T")
    day += "-01" * (2 - day.count("-"))
    moment = datetime.fromisoformat(f"{day}T{time}" if time else day)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
