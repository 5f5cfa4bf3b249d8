"""Documents of some rows, by id, into indexes that are there: put if the row has one, deleted if not."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
from psycopg import sql

from ingestion_dagster.catalog import dead_letters, documents, fill_sql
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.row_reads import in_turn, moderation_table
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.postgres import Connection

if TYPE_CHECKING:
    from ingestion_dagster.catalog.sensitive import Terms

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Put:
    """What became of documents: put into an index, deleted from it, refused by it for good. Of the main index, if there is one."""

    written: int = 0
    deleted: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """An index that documents are put into: its name, whether it is one without what is sensitive, and further fields it was made with.

    `terms`: fingerprint of the list of sensitive terms that it was made with, if it says so.
    """

    name: str
    is_filtered: bool
    fields: tuple[str, ...] = ()
    terms: str | None = None

    @classmethod
    def of(cls, engine: SearchEngine, name: str) -> "Index":
        """As its label says. Raises `Refused` (`no_such_index`)."""
        label = engine.label(name)
        return cls(name, label.get("kind") == "filtered", tuple(label.get("fields", ())), label.get("terms"))


@dataclass(slots=True)
class Reindexer:
    """Puts documents of the rows of a schema's table into indexes.

    A filtered index that was made with another list of terms than there is now gets nothing new: what would have a term of the one list
    need not have one of the other. `terms_changed` says so: its documents are to be brought up to date again once it was made anew.
    """

    places: Places
    engine: SearchEngine
    ledger: Connection
    api: Connection
    media: MediaType
    indexes: Sequence[Index]
    put: Put = field(default_factory=Put)
    schema: str = LIVE
    terms_changed: bool = False
    _terms: "Terms | None" = None
    _listed: str | None = None

    def rows(self, ids: Sequence[int]) -> dict[str, frozenset[int]]:
        """Bring the documents of these ids up to date: with their rows, with moderation, with the sensitive terms. Repeatable.

        Returns which of them each index has now.
        """
        relation = sql.Identifier(self.schema, self.media.table.name)
        columns = documents.columns_of(self.api, self.schema, self.media.table.name)
        held = {}
        for number, index in enumerate(self.indexes):
            query = self.media.documents.query(
                relation,
                deleted=moderation_table(self.api, self.media.table.deleted),
                mature=moderation_table(self.api, self.media.table.mature),
                fields=index.fields,
                columns=columns,
                ids=True,
            )
            rows = in_turn(self.api, query, {"ids": list(ids), "limit": len(ids)})
            wanted = {
                number: source
                for number, source, text in self.media.documents.documents(rows)
                if source is not None and not (index.is_filtered and self._is_sensitive(text))
            }
            kept = frozenset[int]()
            if self._is_of_other_terms(index):
                kept, wanted = self._unchanged(index, wanted), {}
            unwanted = [each for each in ids if each not in wanted and each not in kept]
            held[index.name] = self._bring(index, wanted, unwanted, counted=number == 0) | kept
        return held

    def _bring(self, index: Index, wanted: dict[int, bytes], unwanted: list[int], *, counted: bool) -> frozenset[int]:
        deleted = self.engine.delete_documents(index.name, unwanted) if unwanted else 0
        rejected = self.engine.bulk(index.name, list(wanted.items())).rejected if wanted else ()
        if rejected:
            # What is there under their ids is of rows that have changed since.
            self.engine.delete_documents(index.name, [each.id for each in rejected])
        self.ledger.execute(fill_sql.UNBURY, {"indexes": [index.name], "ids": [*wanted, *unwanted]})
        dead_letters.bury(self.ledger, self.media.name, index.name, rejected)
        if counted:
            self.put.written += len(wanted) - len(rejected)
            self.put.deleted += deleted
            self.put.dead += len(rejected)
        return frozenset(wanted) - {dead.id for dead in rejected}

    def _is_sensitive(self, text: str) -> bool:
        if self._terms is None:
            from ingestion_dagster.catalog import sensitive

            self._terms, self._listed = sensitive.loaded(self.places.settings)
        return self._terms.found_in(text)

    def _is_of_other_terms(self, index: Index) -> bool:
        """Whether a filtered index was made with another list than the one that texts have been held against."""
        if not index.is_filtered or self._terms is None or index.terms in (None, self._listed):
            return False
        if not self.terms_changed:
            log.warning("%s was made with another list of sensitive terms than there is now: it gets nothing new until it is", index.name)
        self.terms_changed = True
        return True

    def _unchanged(self, index: Index, wanted: Mapping[int, bytes]) -> frozenset[int]:
        """Which of these documents the index has just so: of these both lists let through what is looked for."""
        there = self.engine.get(index.name, list(wanted)) if wanted else {}
        return frozenset(number for number, source in there.items() if orjson.loads(wanted[number]) == source)
