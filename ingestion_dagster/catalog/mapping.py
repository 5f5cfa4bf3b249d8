"""Settings and mappings of the search indexes, and what text is reduced to before it is looked up."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from ingestion_dagster.catalog.search import IndexDefinition
from ingestion_dagster.engine.errors import ConfigurationError

ENGLISH = "custom_english"
"""Name of the analyzer of English text."""

POPULARITY, BOOST = "standardized_popularity", 10_000
"""What puts a document before others: how popular it is, and words in its title; how much each counts against a word elsewhere."""

STEM_OVERRIDES: Mapping[str, str] = {
    "animals": "animal",
    "animal": "animal",
    "anime": "anime",
    "animate": "animate",
    "animated": "animate",
    "universe": "universe",
}
"""Lower-case words that the stemmer would put together with others: what stands for them."""

ANALYSIS: Mapping[str, Any] = {
    "filter": {
        "stem_overrides": {"type": "stemmer_override", "rules": [f"{word} => {stem}" for word, stem in STEM_OVERRIDES.items()]},
        "english_stop": {"type": "stop", "stopwords": "_english_"},
        "english_stemmer": {"type": "stemmer", "language": "english"},
        "english_possessive_stemmer": {"type": "stemmer", "language": "possessive_english"},
    },
    "analyzer": {
        ENGLISH: {
            "type": "custom",
            "tokenizer": "standard",
            # Overrides know lower-case words only, without a possessive; they come behind both, or the first word of a title escapes them.
            "filter": ["english_possessive_stemmer", "lowercase", "stem_overrides", "english_stop", "english_stemmer"],
        }
    },
}
"""How the fields of English text are analyzed, when they are indexed and when they are looked for."""

_KEYWORD: Mapping[str, Any] = {"type": "keyword"}
_SHORT_KEYWORD: Mapping[str, Any] = {"type": "keyword", "ignore_above": 256}
_RAW: Mapping[str, Any] = {"type": "text", "analyzer": "standard"}
_FEATURE: Mapping[str, Any] = {"type": "rank_feature"}
_TEXT: Mapping[str, Any] = {"type": "text", "fields": {"keyword": _SHORT_KEYWORD}}
_INTEGER: Mapping[str, Any] = {"type": "integer"}

_FIELDS: Mapping[str, Any] = {
    "id": {"type": "long"},
    "created_on": {"type": "date"},
    "mature": {"type": "boolean"},
    **dict.fromkeys(("identifier", "extension", "license", "provider", "source", "filetype", "category"), _KEYWORD),
    "title": {"type": "text", "analyzer": ENGLISH, "similarity": "boolean", "fields": {"keyword": _SHORT_KEYWORD, "raw": _RAW}},
    "description": {"type": "text", "analyzer": ENGLISH, "similarity": "boolean", "fields": {"raw": _RAW}},
    "creator": _TEXT,
    **dict.fromkeys(("standardized_popularity", "authority_boost", "max_boost", "min_boost"), _FEATURE),
    "authority_penalty": {"type": "rank_feature", "positive_score_impact": False},
    "tags": {
        "properties": {
            "accuracy": {"type": "float"},
            "name": {"type": "text", "analyzer": ENGLISH, "fields": {"keyword": _SHORT_KEYWORD, "raw": _RAW}},
        }
    },
}

_OPTIONAL: Mapping[str, Mapping[str, Any] | None] = {
    "foreign_landing_url": _TEXT,
    "license_version": _TEXT,
    "license_url": _TEXT,
    "creator_url": None,
    "thumbnail": None,
    "meta_data": {"type": "object", "enabled": False},
}
"""Fields that an installation may switch on; None: in the source only, not looked for."""


@dataclass(frozen=True)
class MappingSpec:
    """The mapping of one media type: the fields of all, its own, and those that can be switched on."""

    model: str
    shards: int = 1
    fields: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)

    def definition(self, label: Mapping[str, Any], extra_fields: Sequence[str] = ()) -> IndexDefinition:
        """How an index of this media type is made: unreplicated and without refreshes, which `finish` sees to.

        `label` is kept with it, together with `mapping` (the version) and `fields` (what was switched on).
        Raises `ConfigurationError` for an extra field that it does not know.
        """
        settings = {"number_of_shards": self.shards, "number_of_replicas": 0, "refresh_interval": "-1", "analysis": ANALYSIS}
        kept = {**label, "mapping": self.version}
        if extra_fields:
            kept["fields"] = sorted(set(extra_fields))
        return IndexDefinition({"index": settings}, self._mappings(extra_fields), kept)

    @cached_property
    def version(self) -> str:
        """Changes with the analysis or any field, those that can be switched on among them; not with shards and replicas."""
        everything = {"analysis": ANALYSIS, "mappings": self._mappings(()), "optional": {**_OPTIONAL, **self.optional}}
        return hashlib.sha256(orjson.dumps(everything, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

    def _mappings(self, extra_fields: Sequence[str]) -> dict[str, Any]:
        optional = {**_OPTIONAL, **self.optional}
        unknown = sorted(set(extra_fields) - set(optional))
        if unknown:
            raise ConfigurationError(
                f"documents of {self.model} have no field {', '.join(unknown)} that can be switched on; INGESTION_CATALOG_FIELDS may name "
                f"{', '.join(sorted(optional))}"
            )
        switched_on = {name: optional[name] for name in extra_fields if optional[name] is not None}
        return {"dynamic": "false", "properties": {**_FIELDS, **self.fields, **switched_on}}


IMAGE = MappingSpec("image", 18, fields={"aspect_ratio": _KEYWORD, "size": _KEYWORD})
AUDIO = MappingSpec(
    "audio",
    fields={"length": _KEYWORD},
    optional={"bit_rate": _INTEGER, "sample_rate": _INTEGER, "duration": _INTEGER, "genres": _TEXT},
)
