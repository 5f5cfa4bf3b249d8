"""What the catalogue asks of a search engine, whichever it is: indexes, documents, aliases and queries."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SOURCE_FIELDS = ("title", "description", "tags.name")
"""Fields that a free text is looked for in."""


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """How an index is made: settings and mappings as the search API's index creation takes them."""

    settings: Mapping[str, Any]
    mappings: Mapping[str, Any]
    label: Mapping[str, Any] = field(default_factory=dict)
    """Kept with the index (`_meta`): of which refresh, run and mapping version it is."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that the engine will never take as it is: its id, a code, and a reason without values of the document."""

    id: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of a bulk: how many documents are in the index now, and those that were refused for good."""

    accepted: int
    rejected: tuple[Rejected, ...] = ()
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """What a reader looks for. `text` in title, description and tags (all words; "a phrase", word*, -word); the others in one field.

    `filters`: any of these values, per keyword field. What is marked mature is left out unless it is asked for.
    """

    text: str | None = None
    title: str | None = None
    creator: str | None = None
    tags: str | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mature: bool = False
    newest_first: bool = False
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found."""

    id: int
    score: float
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """How many documents there are in all, and the best of them."""

    total: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class AliasMove:
    """An alias is to lead to an index (`to`), and from nothing else; None: it is to go."""

    alias: str
    to: str | None


class SearchEngine(ABC):
    """A search engine. What it does not do now raises `Transient`; what it will never do raises `Refused` or `ConfigurationError`.

    The engine's own retries (429, 5xx, lost connections; back-off with jitter; `patience_seconds`) are behind every method.
    A method may be called by several threads and processes at once.
    """

    @abstractmethod
    def create(self, index: str, definition: IndexDefinition) -> None:
        """Make an empty index. Raises `Refused` (`index_exists`, `bad_index_name`, `mapping_refused`)."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is an index or alias of this name."""

    @abstractmethod
    def behind(self, alias: str) -> tuple[str, ...]:
        """The indexes that an alias leads to, by name; none if there is no such alias (an index's own name is no alias)."""

    @abstractmethod
    def aliases_of(self, index: str) -> tuple[str, ...]:
        """The aliases that lead to an index, by name; none if there is no such index."""

    @abstractmethod
    def indexes(self, prefix: str) -> tuple[str, ...]:
        """The indexes whose names begin so, by name."""

    @abstractmethod
    def label(self, index: str) -> Mapping[str, Any]:
        """What was kept with an index when it was made. Raises `Refused` (`no_such_index`)."""

    @abstractmethod
    def bulk(self, index: str, documents: Sequence[tuple[int, bytes]]) -> BulkResult:
        """Put documents into an index: id and JSON source each; one that is there under the id is replaced.

        Split into requests bounded by bytes and number. All that is not refused for good has been taken when it returns.
        Raises `Transient` (`search_unavailable`, `search_overloaded`, `index_read_only`), and `Refused` (`no_such_index`).
        """

    @abstractmethod
    def delete_documents(self, index: str, ids: Sequence[int]) -> int:
        """Delete documents by id from an index or the index behind an alias; those that were there. Others are no error."""

    @abstractmethod
    def update_documents(self, index: str, ids: Sequence[int], fields: Mapping[str, Any]) -> int:
        """Set fields of documents by id; those that were there. Others are no error."""

    @abstractmethod
    def finish(self, index: str, *, replicas: int = 1) -> None:
        """Make all that was put visible to readers, and have it replicated. Repeatable."""

    @abstractmethod
    def refresh(self, index: str) -> None:
        """Make all that was put visible to readers."""

    @abstractmethod
    def wait_ready(self, index: str, seconds: float) -> bool:
        """Whether every copy of the index that the cluster can hold is there within so many seconds."""

    @abstractmethod
    def count(self, name: str) -> int:
        """The exact number of documents, as readers of an index or alias see it. Raises `Refused` (`no_such_index`)."""

    @abstractmethod
    def get(self, index: str, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """The sources of documents by id; those that are there."""

    @abstractmethod
    def search(self, name: str, query: Query) -> Found:
        """What a reader of an index or alias finds. Raises `Refused` (`no_such_index`)."""

    @abstractmethod
    def switch(self, moves: Iterable[AliasMove]) -> None:
        """Move aliases, all in one step: readers see all of the moves or none. Raises `Refused` (`no_such_index`, `alias_is_index`)."""

    @abstractmethod
    def delete_index(self, index: str) -> bool:
        """Delete an index; False if there is none. Raises `Refused` (`index_has_aliases`): never one that an alias leads to."""

    @abstractmethod
    def problems(self, seconds: float = 3) -> tuple[str, ...]:
        """What is wrong with the engine, asked within so many seconds, in short texts; none if it is well."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections."""
