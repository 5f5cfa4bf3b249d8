"""The media types of the catalogue: an entry each says which tables it has, how its rows become documents, and what is checked."""

from dataclasses import dataclass, field

from ingestion_dagster.catalog import documents, mapping, tables
from ingestion_dagster.catalog.documents import DocumentSpec
from ingestion_dagster.catalog.mapping import MappingSpec
from ingestion_dagster.catalog.search import Query
from ingestion_dagster.catalog.tables import TableSpec

PIPELINE = "catalog"


@dataclass(frozen=True, slots=True)
class Golden:
    """A query that must find something, if the table has a row that it is made for."""

    name: str
    query: Query
    made_for: str
    """SQL condition on the table: without a row that meets it the query is not asked."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """What is refreshed together: the table of the media (the first), tables that go with it, and the index of the first."""

    name: str
    tables: tuple[TableSpec, ...]
    documents: DocumentSpec
    mapping: MappingSpec
    unique: tuple[str, ...] = ("identifier", "url")
    """Columns of the first table that hold a value once."""
    filled: tuple[str, ...] = ("identifier", "url", "license", "provider")
    """Columns of the first table that are never null."""
    golden: tuple[Golden, ...] = field(default=())

    @property
    def table(self) -> TableSpec:
        """The table that documents are made of."""
        return self.tables[0]

    @property
    def index_dataset(self) -> str:
        """The dataset of the id ranges that fill its indexes."""
        return f"{self.name}_index"


_ALWAYS = (
    Golden("mature rows are shown when asked for", Query(mature=True, limit=1), "true"),
    Golden("newest come first", Query(newest_first=True, mature=True, limit=1), "true"),
)


def _of_category(category: str) -> Golden:
    query = Query(filters={"category": [category]}, mature=True, limit=1)
    return Golden(f"{category} is a category", query, f"category = '{category}'")


MEDIA_TYPES: dict[str, MediaType] = {
    media.name: media
    for media in (
        MediaType("image", (tables.IMAGE,), documents.IMAGE, mapping.IMAGE, golden=(*_ALWAYS, _of_category("photograph"))),
        MediaType("audio", (tables.AUDIO, tables.AUDIOSET), documents.AUDIO, mapping.AUDIO, golden=(*_ALWAYS, _of_category("music"))),
    )
}
"""The media types by name. A new one is an entry here."""

DATASETS = tuple(name for media in MEDIA_TYPES.values() for name in (media.name, media.index_dataset))


def media_type(name: str) -> MediaType:
    """The media type of this name. Raises `ConfigurationError` for another."""
    from ingestion_dagster.engine.errors import ConfigurationError

    try:
        return MEDIA_TYPES[name]
    except KeyError:
        raise ConfigurationError(f"catalog has no media type '{name}'; it has {', '.join(MEDIA_TYPES)}") from None


def index_name(model: str, suffix: str) -> str:
    """The index of a refresh."""
    return f"{model}-{suffix}"


def filtered_name(model: str, suffix: str) -> str:
    """The index of a refresh without what is sensitive; of an alias's name (`suffix` empty) the alias of those."""
    return f"{model}-{suffix}-filtered" if suffix else f"{model}-filtered"
