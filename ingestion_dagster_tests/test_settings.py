"""Settings come from the environment alone, and an empty variable is as good as none."""

import os
from pathlib import Path

import pytest
from pydantic import AliasChoices, ValidationError

from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.metrics.places import zone as metrics_zone
from ingestion_dagster.settings import Settings, current

FIELDS = sorted(Settings.model_fields)


def test_an_empty_environment_means_the_embedded_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not [name for name in os.environ if name.startswith("INGESTION_") and name != "INGESTION_REQUIRE_REAL_PARTS"]
    settings = current()
    assert (settings.environment, settings.database_url, settings.sensors) == ("local", None, "stopped")
    assert settings.home_folder == tmp_path / ".ingestion"
    assert settings.storage == f"file://{tmp_path}/.ingestion/storage"


@pytest.mark.parametrize("field", FIELDS)
def test_an_empty_variable_does_not_override_a_default(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(Settings(), field)
    monkeypatch.setenv(f"INGESTION_{field.upper()}", "")
    assert getattr(Settings(), field) == default


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_is_explained(field: str) -> None:
    description = Settings.model_fields[field].description
    assert description
    assert description.endswith(".")


def test_settings_are_read_when_asked_for_not_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current()
    monkeypatch.setenv("INGESTION_BATCH_FILES", "7")
    assert current().batch_files == 7
    assert before.batch_files == 2000


@pytest.mark.parametrize("field", FIELDS)
def test_whatever_a_field_is_read_from_is_looked_at_each_time(field: str) -> None:
    """Settings are made anew where a variable of theirs has changed: none may be called otherwise."""
    alias = Settings.model_fields[field].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [f"INGESTION_{field.upper()}"]
    assert all(str(name).startswith(("INGESTION_", "SLACK_WEBHOOK")) for name in names), names


def test_a_relative_home_is_that_of_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert current().home_folder == tmp_path / name / ".ingestion"
    assert current() is current()


def test_a_dotenv_in_the_working_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = Settings().model_dump()
    lines = [f"INGESTION_{field.upper()}=hostile" for field in FIELDS]
    (tmp_path / ".env").write_text("\n".join([*lines, "INGESTION_BATCH_FILES=0"]))
    assert Settings().model_dump() == before


def test_variables_of_other_programs_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "HOME", "DATABASE_URL", "STORAGE_URL", "INGESTION_UNKNOWN"):
        monkeypatch.setenv(name, "/somewhere/else")
    assert Settings() == Settings(home=Path(".ingestion"))


def test_a_setting_cannot_be_changed_by_the_code_that_reads_it() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().batch_files = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "prod"),
        ("ENVIRONMENT", "Production"),
        ("SENSORS", "yes"),
        ("BATCH_FILES", "0"),
        ("BATCH_FILES", "many"),
        ("BATCH_FILES", "1.5"),
        ("BATCH_BYTES", "-1"),
        ("LEASE_SECONDS", "0"),
        ("RUN_SECONDS", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_LOAD_BYTES", "0"),
        ("RUNS_PER_PIPELINE", "0"),
        ("SENSOR_SECONDS", "4"),
        ("SETTLE_SECONDS", "-0.1"),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"INGESTION_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        current()


# Places


@pytest.mark.parametrize(
    ("home", "expected"),
    [("relative", "{cwd}/relative"), ("/absolute/path", "/absolute/path"), ("~/mine", "{home}/mine"), ("a b/ü+%", "{cwd}/a b/ü+%")],
)
def test_the_home_is_absolute_and_may_have_any_name(home: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("INGESTION_HOME", home)
    settings = current()
    assert str(settings.home_folder) == expected.format(cwd=tmp_path, home="/home/someone")
    store = open_store(settings.zone("metrics", "landing", "metrics/in"))
    assert store._root == f"{settings.home_folder}/storage/metrics/in"  # type: ignore[attr-defined]


def test_a_process_that_changes_its_folder_keeps_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = current()
    before = settings.home_folder
    monkeypatch.chdir("/")
    assert settings.home_folder == before


def test_every_place_is_a_prefix_of_the_storage_until_it_has_a_url_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_STORAGE_URL", "s3://lake/prefix/")
    places = {"landing": "metrics/in", "processed": "metrics/processed", "archive": "metrics/archive", "error": "metrics/failed"}
    for purpose, path in places.items():
        assert current().zone("metrics", purpose, path) == f"s3://lake/prefix/{path}"
    for purpose in places:
        monkeypatch.setenv(f"INGESTION_METRICS_{purpose.upper()}_URL", f"s3://own-{purpose}/")
    for purpose, path in places.items():
        assert current().zone("metrics", purpose, path) == f"s3://own-{purpose}"


def test_the_metrics_pipeline_uses_each_url_for_what_it_is_named_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for purpose in ("landing", "archive", "error"):
        monkeypatch.setenv(f"INGESTION_METRICS_{purpose.upper()}_URL", f"file://{tmp_path}/{purpose}")
    monkeypatch.setenv("INGESTION_METRICS_PROCESSED_URL", "")
    monkeypatch.setenv("INGESTION_STORAGE_URL", f"file://{tmp_path}/storage")
    monkeypatch.setenv("INGESTION_SETTLE_SECONDS", "7.5")
    zone = metrics_zone(current())
    load = _load()
    assert zone.landing.url == f"file://{tmp_path}/landing"
    assert [target.store.url for target in zone.archive_targets(load)] == [
        f"file://{tmp_path}/storage/metrics/processed",
        f"file://{tmp_path}/archive",
    ]
    assert [target.store.url for target in zone.error_targets(load)] == [f"file://{tmp_path}/error"]
    assert zone.settle_seconds == 7.5


def _load():
    from datetime import UTC, datetime

    from ingestion_dagster.engine.ledger import Load, Status

    return Load(1, "metrics", None, "", "a.json", "v", 1, datetime(2024, 5, 6, tzinfo=UTC), "2024-05-06", Status.READY, 1)


def test_two_pipelines_cannot_share_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_METRICS_QUEUE_URL", "https://sqs.eu-west-2.amazonaws.com/123456789012/arrivals")
    monkeypatch.setenv("INGESTION_CUBIC_QUEUE_URL", "https://sqs.eu-west-2.amazonaws.com/123456789012/others")
    assert (current().queue("metrics"), current().queue("residents")) == (current().metrics_queue_url, None)
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_QUEUE_URL", "https://sqs.eu-west-2.amazonaws.com/123456789012/others")
    with pytest.raises(ValidationError, match="a queue of its own"):
        current()
