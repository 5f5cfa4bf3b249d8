"""The mapping: what a real node takes, and what tells one from the next."""

import uuid
from dataclasses import replace

import orjson
import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.embedded_fields import Fields
from ingestion_dagster.catalog.mapping import MappingSpec
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.search import Query
from ingestion_dagster.engine.errors import ConfigurationError

EXTRA = {
    "image": ("foreign_landing_url", "creator_url", "license_version", "thumbnail", "license_url", "meta_data"),
    "audio": ("license_url", "meta_data", "bit_rate", "sample_rate", "genres", "duration"),
}
SPECS = (mapping.IMAGE, mapping.AUDIO)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.model)
def test_a_real_node_takes_it_with_all_that_can_be_switched_on(opensearch: str, spec: MappingSpec) -> None:
    name = f"mapping-{uuid.uuid4().hex[:10]}"
    # Shards are what takes time to make; those of production are in the definition below.
    definition = replace(spec, shards=1).definition({"refresh": "one"}, EXTRA[spec.model])
    engine = OpenSearch.at(opensearch)
    engine.create(name, definition)
    assert engine.label(name) == {"refresh": "one", "mapping": spec.version, "fields": sorted(EXTRA[spec.model])}
    document = {
        "title": "Animals",
        "license_url": "https://x",
        "meta_data": {"a": {"b": [1, "x"]}},
        "duration": 9,
        "genres": ["rock"],
        "url": "u",
    }
    assert engine.bulk(name, [(1, orjson.dumps(document))]).accepted == 1
    engine.refresh(name)
    assert engine.search(name, Query("animal")).hits[0].source == document
    assert engine.search(name, Query("x")).total == 0, "unlisted fields are looked in"
    assert engine.delete_index(name)
    engine.close()


def test_it_begins_without_replicas_and_refreshes_and_with_its_shards() -> None:
    settings = {spec.model: dict(spec.definition({}).settings["index"]) for spec in SPECS}
    for each in settings.values():
        each.pop("analysis")
    rest = {"number_of_replicas": 0, "refresh_interval": "-1"}
    assert settings == {"image": {"number_of_shards": 18, **rest}, "audio": {"number_of_shards": 1, **rest}}


def test_fields_are_those_of_each_media_type() -> None:
    common = {
        *("id", "created_on", "mature", "identifier", "extension", "license", "provider", "source", "filetype", "category"),
        *(
            "title",
            "description",
            "creator",
            "standardized_popularity",
            "authority_boost",
            "max_boost",
            "min_boost",
            "authority_penalty",
            "tags",
        ),
    }
    for spec, own in ((mapping.IMAGE, {"aspect_ratio", "size"}), (mapping.AUDIO, {"length"})):
        mappings = spec.definition({}).mappings
        assert set(mappings["properties"]) == common | own
        assert mappings["dynamic"] == "false"
        assert {"title.keyword", "title.raw", "description.raw", "creator.keyword", "tags.name.keyword", "tags.name.raw"} <= set(
            Fields(mappings).by_name
        )


def test_the_version_changes_with_the_mapping_and_not_with_shards() -> None:
    assert mapping.IMAGE.version == replace(mapping.IMAGE, shards=1).version
    assert mapping.IMAGE.version != mapping.AUDIO.version
    assert mapping.IMAGE.version != replace(mapping.IMAGE, fields={}).version
    assert mapping.IMAGE.definition({"mapping": "other"}).label == {"mapping": mapping.IMAGE.version}


def test_a_field_that_cannot_be_switched_on_is_named() -> None:
    with pytest.raises(ConfigurationError, match="bit_rate"):
        mapping.IMAGE.definition({}, ["license_url", "bit_rate"])
