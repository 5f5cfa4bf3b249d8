"""From the tags and texts of one record to its fields: a short way for records that are plain, and a long one that knows every case.

A tape is what the parser has said between a record's start tag and its end tag: a `Tag` for a start, a tuple of attributes behind it if
there are any, texts as they are, and None for an end.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from ingestion_dagster.life_events import elements
from ingestion_dagster.life_events.elements import PLACE_KEEPERS, RECORD, UNKNOWN, Element, Tag

Tape = list[Any]
Fault = tuple[str, str]
"""A code, and the element that is meant."""

_RECORD_DEPTH = 2
_REPLACED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may make us hold at a time. All but the first are far above what any registration needs."""

    encodings: frozenset[str] = frozenset({"utf-8"})
    """Encodings that a file may have, in lower case: utf-8, iso-8859-1, us-ascii, utf-16."""
    record_bytes: int = 256 * 1024
    """From the start of a record's first tag to that of its last one."""
    depth: int = 16
    """Elements in one another, the group included."""
    text_bytes: int = 64 * 1024
    """Of one text, as UTF-8."""
    repeats: int = 64
    """Of one element in a record or in a structure of it."""
    token_bytes: int = 256 * 1024
    """Of a tag, a comment or an instruction, which expat has to see whole. A longer one refuses the file."""
    names: int = 10_000
    """Different names in a file, which expat remembers to its end. More refuse the file."""


class _Unusual(Exception):
    """A record is not plain."""


def gather_plain(tape: Tape, limits: Limits) -> dict[str, Any] | None:
    """The fields of a record without anything unusual; None: go the long way. No text of it may be longer than the limit."""
    if len(tape) > 2 * limits.repeats:
        return None
    try:
        return _plain(iter(tape), RECORD)
    except (_Unusual, KeyError):
        return None


def _plain(items: Iterator[Any], parent: Element) -> dict[str, Any]:
    """What stands in a structure, up to its end; this takes most of the time that a file takes, next to expat."""
    fields: dict[str, Any] = {}
    children = parent.children
    for item in items:
        if item.__class__ is Tag:
            element = children[item]
            if element.is_text:
                value = next(items)
                if value is None:
                    value = ""
                elif value.__class__ is not str or next(items) is not None:
                    raise _Unusual
                value = value.strip()
                if not value.isascii():
                    value = _composed(value)
            else:
                value = _plain(items, element)
            name = element.name
            if not value or name in fields:
                _put_another(fields, element, value)
            else:
                fields[name] = [value] if element.repeats else value
        elif item is None:
            break
        elif item.__class__ is not str or not item.isspace():
            raise _Unusual
    return fields


def _put_another(fields: dict[str, Any], element: Element, value: object) -> None:
    if not value:
        if element.keeps_place:
            raise _Unusual
    elif element.repeats:
        fields[element.name].append(value)
    else:
        raise _Unusual


def _composed(text: str) -> str:
    if _REPLACED in text:
        raise _Unusual
    return normalize("NFC", text)


class LimitBroken(Exception):
    """A record is not what any registration is; nothing more is known of it."""

    def __init__(self, code: str, element: str) -> None:
        super().__init__(code)
        self.fault: Fault = (code, element)


def gather(tape: Tape, attributes: list[str], limits: Limits) -> tuple[dict[str, Any], list[Fault]]:
    """The fields of any record, whose start tag has these attributes, and what is not as the format has it. Raises `LimitBroken`."""
    return _Gathering(limits).of(_tree(tape, attributes, limits))


@dataclass(slots=True)
class _Node:
    """An element as it stands in the file."""

    tag: Tag
    known: str
    """The nearest element around it that is of the format, or itself."""
    attributes: list[str]
    content: list[Any] = field(default_factory=list)
    """Texts and nodes."""
    often: Counter[str] = field(default_factory=Counter)


def _tree(tape: Tape, attributes: list[str], limits: Limits) -> _Node:
    root = _Node(Tag(RECORD.name), RECORD.name, attributes)
    path = [root]
    for item in tape:
        inner = path[-1]
        if item is None:
            path.pop()
        elif isinstance(item, str):
            inner.content.append(item)
        elif isinstance(item, tuple):
            inner.attributes = list(item)
        elif isinstance(item, Tag):
            known = item.name if elements.TAGS.get(item.name) is item else inner.known
            node = _Node(item, known, [])
            inner.content.append(node)
            inner.often[item.name] += 1
            if inner.often[item.name] > limits.repeats:
                raise LimitBroken("too_many_repeats", known)
            path.append(node)
            if len(path) + _RECORD_DEPTH - 1 > limits.depth:
                raise LimitBroken("too_deep", known)
    return root


class _Gathering:
    """The long way, through the tree of one record."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._faults: list[Fault] = []
        self._unknown: list[Any] = []

    def of(self, root: _Node) -> tuple[dict[str, Any], list[Fault]]:
        self._note_attributes(root, [])
        fields = self._structure(root, RECORD, [])
        for name in PLACE_KEEPERS:
            values = fields.get(name)
            while values and values[-1] is None:
                values.pop()
            if values is not None and not values:
                del fields[name]
        if self._unknown:
            fields[UNKNOWN] = self._unknown
        return fields, self._faults

    def _structure(self, node: _Node, structure: Element, path: list[str]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for item in node.content:
            if isinstance(item, str):
                continue
            element = structure.children.get(item.tag)
            if element is None:
                self._faults.append(("unknown_element", structure.name))
                self._note_unknown(item, path)
                continue
            here = [*path, element.name]
            self._note_attributes(item, here)
            value = self._text(item, element, here) if element.is_text else self._structure(item, element, here)
            self._put(fields, element, value or None, here)
        if not all(map(str.isspace, _texts(node))):
            self._faults.append(("mixed_content", structure.name))
        return fields

    def _put(self, fields: dict[str, Any], element: Element, value: object, path: list[str]) -> None:
        if value is None and not element.keeps_place:
            return
        if element.repeats:
            fields.setdefault(element.name, []).append(value)
        elif element.name in fields:
            self._faults.append(("repeated_element", element.name))
            self._unknown.append([path, {}, value])
        else:
            fields[element.name] = value

    def _text(self, node: _Node, element: Element, path: list[str]) -> str:
        text = self._cleaned(node, element.name)
        inner = [item for item in node.content if not isinstance(item, str)]
        if inner:
            self._faults.append(("mixed_content", element.name))
        for item in inner:
            self._note_unknown(item, path)
        return text

    def _cleaned(self, node: _Node, name: str) -> str:
        text = "".join(_texts(node)).strip()
        if len(text.encode()) > self._limits.text_bytes:
            raise LimitBroken("text_too_long", name)
        if _REPLACED in text:
            self._faults.append(("replacement_character", name))
        return normalize("NFC", text)

    # What is not of the format counts as part of the record, so that one with other such content is another record

    def _note_unknown(self, node: _Node, path: list[str]) -> None:
        here = [*path, elements.known_name(node.tag.name)]
        self._unknown.append([here, _told(node.attributes), self._cleaned(node, node.known)])
        for item in node.content:
            if not isinstance(item, str):
                self._note_unknown(item, here)

    def _note_attributes(self, node: _Node, path: list[str]) -> None:
        told = _told(node.attributes)
        if told:
            self._faults.append(("unknown_attribute", node.known))
            self._unknown.append([path, told, ""])


def _texts(node: _Node) -> Iterable[str]:
    return (item for item in node.content if isinstance(item, str))


def _told(attributes: list[str]) -> dict[str, str]:
    """Attributes by name, but for those that say nothing of a record."""
    pairs = zip(attributes[::2], attributes[1::2], strict=True)
    return {
        elements.known_name(name): normalize("NFC", value.strip())
        for name, value in pairs
        if not name.startswith(elements.IGNORED_ATTRIBUTES)
    }
