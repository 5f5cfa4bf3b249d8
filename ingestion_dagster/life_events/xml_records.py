"""From expat's events to records, and to what is wrong with the group around them.

Between the tags of a record the handlers only write down what they are told (see `gathering`): they run for every tag of files with
millions of records.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.parsers.expat import XMLParserType

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.life_events import elements, problems
from ingestion_dagster.life_events.elements import TAGS, Tag
from ingestion_dagster.life_events.gathering import LimitBroken, Limits, Tape, gather, gather_plain

Handlers = tuple[Callable[[str, list[str]], None], Callable[[str], None]]

GROUPS = frozenset(elements.names(elements.GROUP))
REGISTRATIONS = frozenset(elements.names(elements.REGISTRATION))
RECORD_COUNTS = frozenset(elements.names(elements.RECORD_COUNT))

_DEEPEST = 1000
"""Elements in one another that are passed over; expat keeps each of them in memory."""

_DIGITS = 15
"""Of a RecordCount; more would be no count of anything."""

_TEXT_KEPT = 4096
"""Of text outside records, which is white space or a number or wrong."""

_PROBLEMS_KEPT = 100
"""Of one record."""


@dataclass(slots=True)
class Found:
    """A record as it stands in a file."""

    ordinal: int
    """Its number, from 1."""
    offset: int
    """The byte that its start tag begins at."""
    fields: dict[str, Any] = field(repr=False)
    """Its texts by local names, trimmed and in NFC, absent where empty; structures are dicts, what repeats is a list. See `elements`."""
    problems: tuple[Problem, ...] = ()
    """What reading it has shown. Of a record that breaks a limit nothing else is known, and `fields` is empty."""


class Records:
    """Handlers of one file. What is found gathers in `batch`, which the reader takes away; what is wrong with the file in `faults`."""

    def __init__(self, parser: XMLParserType, limits: Limits) -> None:
        self.batch: list[Found] = []
        self.count = 0
        self.record_count: int | None = None
        self.faults: dict[str, Problem] = {}
        self._parser = parser
        self._limits = limits
        self._tape: Tape = []
        self._has_begun = False
        self._in_count = False
        self._skipped = 0
        self._is_open = False
        self._offset = 0
        self._attributes: list[str] = []
        self._nested = 0
        self._in_group_handlers: Handlers = self._start_in_group, self._end_in_group
        self._in_record_handlers = self._handlers_in_record()
        parser.CharacterDataHandler = self._tape.append
        self._handle(self._in_group_handlers)

    def _handle(self, handlers: Handlers) -> None:
        self._parser.StartElementHandler, self._parser.EndElementHandler = handlers

    # The group

    def _start_in_group(self, name: str, attributes: list[str]) -> None:
        self._expect_no_text()
        if not self._has_begun:
            if name not in GROUPS:
                raise Refused(problems.of_file("wrong_root"))
            self._has_begun = True
        elif self._in_count or (name not in REGISTRATIONS and name not in RECORD_COUNTS):
            self.fault("unexpected_element", self._here())
            self._skip(1)
        else:
            if self.record_count is not None or "record_count_invalid" in self.faults:
                self.fault("record_count_not_last", self._here())
            if name in REGISTRATIONS:
                self._begin(attributes)
            else:
                self._in_count = True

    def _end_in_group(self, _name: str) -> None:
        if not self._in_count:
            self._expect_no_text()
            return
        self._in_count = False
        text = "".join(self._tape).strip()
        self._tape.clear()
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
            self.fault("record_count_invalid", self._here())
        elif self.record_count is None:
            self.record_count = int(text)

    def _expect_no_text(self) -> None:
        if self._tape:
            if not "".join(self._tape).isspace():
                self.fault("record_count_invalid" if self._in_count else "unexpected_text", self._here())
            self._tape.clear()

    def fault(self, code: str, place: str) -> None:
        """Note what is wrong with the file: the first of each kind."""
        if code not in self.faults:
            self.faults[code] = problems.of_file(code, place)

    def _here(self) -> str:
        return f"byte {self._parser.CurrentByteIndex}"

    # What is passed over: an element where none belongs, the rest of a record that is too large

    def _skip(self, open_elements: int) -> None:
        self._skipped = open_elements
        self._tape.clear()
        self._parser.CharacterDataHandler = None
        self._handle((self._start_skipped, self._end_skipped))

    def _start_skipped(self, _name: str, _attributes: list[str]) -> None:
        self._skipped += 1
        if self._skipped > _DEEPEST:
            raise Refused(*self.faults.values(), problems.of_file("too_deep", self._here()))

    def _end_skipped(self, _name: str) -> None:
        self._skipped -= 1
        if not self._skipped:
            self._parser.CharacterDataHandler = self._tape.append
            self._handle(self._in_group_handlers)
            if self._is_open:
                self._found_broken("record_too_large", problems.RECORD)

    def check_size(self) -> None:
        """After each block: no more of a record than the limit is written down, and hardly any text outside records."""
        if self._skipped:
            return
        if self._is_open:
            if self._parser.CurrentByteIndex - self._offset > self._limits.record_bytes:
                started = sum(isinstance(item, Tag) for item in self._tape)
                self._skip(1 + started - self._tape.count(None))
        elif sum(map(len, self._tape)) > _TEXT_KEPT:
            # What it is has been decided by now, and the rest cannot change that.
            self._tape[:] = [" " if "".join(self._tape).isspace() else "?"]

    # A record

    def _begin(self, attributes: list[str]) -> None:
        self.count += 1
        self._offset = self._parser.CurrentByteIndex
        self._attributes = attributes
        self._is_open = True
        self._nested = 0
        self._handle(self._in_record_handlers)

    def _handlers_in_record(self) -> Handlers:
        write, tag_of, unknown, end_record = self._tape.append, TAGS.get, self._unknown, self._end_record

        def start(name: str, attributes: list[str]) -> None:
            write(tag_of(name) or unknown(name))
            if attributes:
                write(tuple(attributes))

        def end(name: str) -> None:
            write(None)
            if name in REGISTRATIONS:
                end_record()

        return start, end

    def _unknown(self, name: str) -> Tag:
        self._nested += name in REGISTRATIONS
        return Tag(name)

    def _end_record(self) -> None:
        if self._nested:
            self._nested -= 1
            return
        self._handle(self._in_group_handlers)
        size = self._parser.CurrentByteIndex - self._offset
        if size > self._limits.record_bytes:
            self._found_broken("record_too_large", problems.RECORD)
            return
        # A character of another encoding can have twice as many bytes in UTF-8.
        is_short = 2 * size <= self._limits.text_bytes and not self._attributes
        fields = gather_plain(self._tape, self._limits) if is_short else None
        if fields is None:
            self._gather()
        else:
            self._found(fields, ())

    def _gather(self) -> None:
        try:
            fields, faults = gather(self._tape, self._attributes, self._limits)
        except LimitBroken as broken:
            self._found_broken(*broken.fault)
        else:
            self._found(fields, tuple(self._problem(*fault) for fault in faults[:_PROBLEMS_KEPT]))

    def _found_broken(self, code: str, element: str) -> None:
        self._found({}, (self._problem(code, element),))

    def _found(self, fields: dict[str, Any], found: tuple[Problem, ...]) -> None:
        self.batch.append(Found(self.count, self._offset, fields, found))
        self._tape.clear()
        self._is_open = False

    def _problem(self, code: str, element: str) -> Problem:
        return problems.of_record(code, self.count, self._offset, element)
