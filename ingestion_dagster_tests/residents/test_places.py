"""Which dataset a key is of, where a file is landed, and which API is meant."""

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.residents import places
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.settings import Settings

SECRET = "not-to-be-seen"  # pragma: allowlist secret


def test_the_places_know_the_datasets_of_the_registry() -> None:
    assert tuple(DATASETS) == places.NAMES


@pytest.mark.parametrize(
    ("key", "dataset"),
    [
        ("nsss/inbound/a.csv", "nsss"),
        ("spl/inbound/1a2b/a", "spl"),
        ("nsss/outbound/a.xlsx", None),
        ("nsss/a.csv", None),
        ("other/inbound/a.csv", None),
        ("inbound/nsss/a.csv", None),
    ],
)
def test_only_inbound_files_of_known_datasets_arrive(key: str, dataset: str | None) -> None:
    assert places.dataset_of(key) == dataset


@pytest.mark.parametrize(
    ("key", "landed"),
    [
        ("nsss/a.csv", "nsss/inbound/a.csv"),
        ("nsss/inbound/a.csv", "nsss/inbound/a.csv"),
        ("generic/my list.xlsx", "generic/inbound/my list.xlsx"),
    ],
)
def test_a_file_is_landed_in_the_inbound_folder_of_its_dataset(settings: Settings, key: str, landed: str) -> None:
    assert places.landing_key(settings, key) == landed


@pytest.mark.parametrize("key", ["a.csv", "other/a.csv", "nsss/", "nsss"])
def test_a_file_of_no_dataset_is_not_landed(settings: Settings, key: str) -> None:
    with pytest.raises(ConfigurationError, match="--dataset"):
        places.landing_key(settings, key)


def test_what_is_loaded_stays_where_it_is(settings: Settings) -> None:
    assert places.zone(settings).stays


def test_the_api_that_is_set_needs_its_key(settings: Settings) -> None:
    with_url = settings.model_copy(update={"residents_api_url": "https://api.example.invalid/api/"})
    with pytest.raises(ConfigurationError, match="INGESTION_RESIDENTS_API_KEY"):
        places.api_address(with_url)
    address = places.api_address(with_url.model_copy(update={"residents_api_key": SecretStr(SECRET)}))
    assert address.key == SECRET
    assert SECRET not in repr(address)


def test_production_has_no_stand_in(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="production needs the real API"):
        places.api_address(settings.model_copy(update={"environment": "production"}))


def test_without_a_stand_in_the_next_step_is_said(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="ingestion sandbox up"):
        places.api_address(settings)
    assert places.stand_ins_needed(settings) == ("here_to_help",)
    assert places.stand_ins_needed(settings.model_copy(update={"residents_api_url": "https://api.example.invalid/"})) == ()
