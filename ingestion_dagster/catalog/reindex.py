"""Documents of some rows, by id, into indexes that are there: put if the row has one, deleted if not."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql

from ingestion_dagster.catalog import dead_letters, documents, fill_sql
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.row_reads import in_turn, moderation_table
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE
from ingestion_dagster.engine.postgres import Connection


@dataclass(slots=True)
class Put:
    """What became of documents: put into an index, deleted from it, refused by it for good. Of the main index, if there is one."""

    written: int = 0
    deleted: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """An index that documents are put into: its name, whether it is one without what is sensitive, and further fields it was made with."""

    name: str
    is_filtered: bool
    fields: tuple[str, ...] = ()

    @classmethod
    def of(cls, engine: SearchEngine, name: str) -> "Index":
        """As its label says. Raises `Refused` (`no_such_index`)."""
        label = engine.label(name)
        return cls(name, label.get("kind") == "filtered", tuple(label.get("fields", ())))


@dataclass(slots=True)
class Reindexer:
    """Puts documents of the rows of a schema's table into indexes."""

    places: Places
    engine: SearchEngine
    ledger: Connection
    api: Connection
    media: MediaType
    indexes: Sequence[Index]
    put: Put = field(default_factory=Put)
    schema: str = LIVE
    _terms: object = None

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
            held[index.name] = self._bring(index, wanted, [each for each in ids if each not in wanted], counted=number == 0)
        return held

    def _bring(self, index: Index, wanted: dict[int, bytes], unwanted: list[int], *, counted: bool) -> frozenset[int]:
        deleted = self.engine.delete_documents(index.name, unwanted) if unwanted else 0
        rejected = self.engine.bulk(index.name, list(wanted.items())).rejected if wanted else ()
        self.ledger.execute(fill_sql.UNBURY, {"indexes": [index.name], "ids": [*wanted, *unwanted]})
        dead_letters.bury(self.ledger, self.media.name, index.name, rejected)
        if counted:
            self.put.written += len(wanted) - len(rejected)
            self.put.deleted += deleted
            self.put.dead += len(rejected)
        return frozenset(wanted) - {dead.id for dead in rejected}

    def _is_sensitive(self, text: str) -> bool:
        from ingestion_dagster.catalog import sensitive

        if not isinstance(self._terms, sensitive.Terms):
            self._terms = sensitive.load(self.places.settings)
        return self._terms.found_in(text)
