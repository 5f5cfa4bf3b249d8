"""A reader's query as the embedded index takes it: the words of a simple query, filters, and what counts for the order."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tantivy
from tantivy import Occur

from ingestion_dagster.catalog.analysis import lowered
from ingestion_dagster.catalog.embedded_fields import LEVELS, Field, Fields
from ingestion_dagster.catalog.mapping import BOOST, POPULARITY
from ingestion_dagster.catalog.search import SOURCE_FIELDS, Query

_TERM = re.compile(r'(?P<minus>-*)(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))|"|-+')
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$#&~\-])")


class Asked(NamedTuple):
    """A part of a simple query: a word, the beginning of words, or a phrase; wanted or not."""

    text: str
    phrase: bool
    prefix: bool
    wanted: bool


@dataclass(frozen=True, slots=True)
class Searching:
    """What a query needs of an index."""

    fields: Fields
    searcher: tantivy.Searcher

    def query(self, query: Query) -> tantivy.Query:
        """The query, with what counts for the order."""
        parts: list[tuple[Occur, tantivy.Query]] = [(Occur.Must, self._nothing_counts(tantivy.Query.all_query()))]
        for text, names in (
            (query.text, SOURCE_FIELDS),
            (query.title, ("title",)),
            (query.creator, ("creator",)),
            (query.tags, ("tags.name",)),
        ):
            if text is not None and text.strip():
                parts.append((Occur.Must, self._all_of(text, names)))
        parts += [(Occur.Must, self._nothing_counts(self._any_of(name, values))) for name, values in query.filters.items()]
        if not query.mature and "mature" in self.fields.by_name:
            parts.append((Occur.MustNot, tantivy.Query.term_query(self.fields.schema, "mature", "true")))
        if not query.newest_first:
            parts += [(Occur.Should, counting) for counting in self._counting(query.text)]
        return tantivy.Query.boolean_query(parts)

    def _all_of(self, text: str, names: Sequence[str]) -> tantivy.Query:
        if text.strip() == "*":
            return self._nothing_counts(tantivy.Query.all_query())
        fields = self._named(names)
        found = [(asked, self._in_any(asked, fields)) for asked in parsed(text)]
        parts = [(Occur.Must, part if asked.wanted else self._without(part)) for asked, part in found if part is not None]
        return tantivy.Query.boolean_query(parts) if parts else tantivy.Query.empty_query()

    def _counting(self, text: str | None) -> Iterator[tantivy.Query]:
        """What puts a document before others: words in its title, and popularity."""
        for asked in parsed(text or ""):
            part = self._in_any(asked, self._named(("title",)))
            if asked.wanted and part is not None:
                yield tantivy.Query.boost_query(part, BOOST)
        if POPULARITY in self.fields.by_name:
            name = self.fields.level(POPULARITY)
            for level in range(1, LEVELS + 1):
                if self.searcher.doc_freq(name, level):
                    term = tantivy.Query.term_query(self.fields.schema, name, level, "basic")
                    yield tantivy.Query.const_score_query(term, BOOST * level / LEVELS)

    def _named(self, names: Sequence[str]) -> list[Field]:
        return [self.fields.by_name[name] for name in names if name in self.fields.by_name]

    def _in_any(self, asked: Asked, fields: Sequence[Field]) -> tantivy.Query | None:
        """The documents that have it in one of the fields; None for what has no word that is looked for."""
        parts = [part for part in (self._in(asked, field) for field in fields) if part is not None]
        return tantivy.Query.boolean_query([(Occur.Should, part) for part in parts]) if parts else None

    def _in(self, asked: Asked, field: Field) -> tantivy.Query | None:
        schema = self.fields.schema
        if asked.prefix:
            pattern = _SPECIAL.sub(r"\\\1", lowered(asked.text)) + ".*"
            return tantivy.Query.const_score_query(tantivy.Query.regex_query(schema, field.name, pattern), 1.0)
        words = field.words(asked.text)
        if not words:
            return None
        if asked.phrase and len(words) > 1:
            found = tantivy.Query.phrase_query(schema, field.name, [(word.position, word.text) for word in words])
            return self._counted(found, field)
        terms = [self._counted(tantivy.Query.term_query(schema, field.name, word.text), field) for word in words]
        return tantivy.Query.boolean_query([(Occur.Must, term) for term in terms])

    def _any_of(self, name: str, values: Sequence[str]) -> tantivy.Query:
        field = self.fields.by_name.get(name)
        if field is None or field.kind not in ("keyword", "boolean") or not values:
            return tantivy.Query.empty_query()
        return tantivy.Query.term_set_query(self.fields.schema, name, [str(value) for value in values])

    @staticmethod
    def _counted(query: tantivy.Query, field: Field) -> tantivy.Query:
        return tantivy.Query.const_score_query(query, 1.0) if field.constant else query

    def _without(self, query: tantivy.Query) -> tantivy.Query:
        everything = self._nothing_counts(tantivy.Query.all_query())
        return tantivy.Query.boolean_query([(Occur.Must, everything), (Occur.MustNot, query)])

    @staticmethod
    def _nothing_counts(query: tantivy.Query) -> tantivy.Query:
        return tantivy.Query.const_score_query(query, 0.0)


def parsed(text: str) -> Iterator[Asked]:
    """The parts of a simple query."""
    for found in _TERM.finditer(text):
        minus, phrase, word = found["minus"] or "", found["phrase"], found["word"]
        wanted = len(minus) % 2 == 0
        if phrase is not None:
            yield Asked(phrase, True, False, wanted)
        elif word is not None:
            prefix = word.endswith("*") and len(word) > 1
            yield Asked(word[:-1] if prefix else word, False, prefix, wanted)
