"""What is broken in an installation is named by the check of it, with what to do; what is well stays so, and nothing is left behind."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from ingestion_dagster.doctor import databases, installation, instance, outside, search, storage
from ingestion_dagster.doctor.checkup import checks, examined
from ingestion_dagster.doctor.examination import Check, Finding, Level, Said, examine
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.home import prepare_dagster_home
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket

__all__ = ["aws_environment", "moto_server", "new_bucket"]

NOWHERE = "http://127.0.0.1:9"


def worst(said: Iterator[Said], level: Level = Level.PROBLEM) -> list[Finding]:
    return [finding for finding in examine([Check("one", lambda: said, 100)], None) if finding.level is level]


def test_a_fresh_installation_has_no_problem_and_gets_nothing_new(settings: Settings) -> None:
    found = examined(settings, list(PIPELINES.values()))
    assert [finding for finding in found if finding.level is Level.PROBLEM] == []
    assert {"database", "dagster", "metrics landing", "residents drop folder", "catalog search"} <= {finding.check for finding in found}
    assert not settings.home_folder.exists()


def url_for(database: Database, user: str, password: str) -> str:
    parts = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    return f"postgresql://{user}:{password}@/{parts['dbname']}?host={parts['host']}&port={parts.get('port', 5432)}"


def test_a_role_that_is_not_let_in_is_said_without_its_password(settings: Settings, database: Database) -> None:
    broken = settings.model_copy(update={"database_url": url_for(database, "nobody_of_ours", "wrong-word")})
    [found] = examine([Check("database", lambda: databases.ledger(broken))], broken)
    assert found.level is Level.PROBLEM
    assert "INGESTION_DATABASE_URL: it cannot be reached" in found.what
    assert "nobody_of_ours" in found.what
    assert "wrong-word" not in str(found)


def test_a_database_nobody_serves_is_a_problem_of_its_own(settings: Settings) -> None:
    broken = settings.model_copy(
        update={"database_url": "postgresql://me@127.0.0.1:9/none", "catalog_upstream_url": "postgresql://me@127.0.0.1:9/up"}
    )
    found = {finding.check: finding.level for finding in examined(broken, [PIPELINES["catalog"], PIPELINES["metrics"]])}
    assert (found["database"], found["catalog upstream"]) == (Level.PROBLEM, Level.PROBLEM)
    assert (found["metrics landing"], found["packages"]) == (Level.OK, Level.OK)


def test_a_database_that_is_behind_names_the_command(settings: Settings, database: Database) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE ledger.alembic_version SET version_num = '0001'")
    [found] = worst(databases.ledger(settings))
    assert (found.what.startswith("its schema is at revision 0001"), found.do) == (True, "run 'ingestion db upgrade' once")


def test_missing_privileges_are_named_by_table(settings: Settings, database: Database, server: EmbeddedServer) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    with database.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS doctors_patient")
        connection.execute("CREATE ROLE doctors_patient LOGIN PASSWORD 'patient'")  # pragma: allowlist secret
        try:
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO doctors_patient").format(sql.Identifier(str(parts["dbname"]))))
            connection.execute("GRANT USAGE ON SCHEMA ledger TO doctors_patient")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO doctors_patient")
            url = url_for(database, "doctors_patient", "patient")
            found = worst(databases.ledger(settings.model_copy(update={"database_url": url})))
        finally:
            connection.execute("DROP OWNED BY doctors_patient")
            connection.execute("DROP ROLE doctors_patient")
    assert len(found) == 1
    assert "lacks privileges on catalog." in found[0].what


@pytest.mark.parametrize(("minutes", "level"), [(10, Level.PROBLEM), (-10, Level.PROBLEM), (0.5, Level.WARNING), (0, Level.OK)])
def test_a_clock_that_is_off_is_noticed_by_the_database(settings: Settings, minutes: float, level: Level) -> None:
    found = list(databases.ledger(settings, lambda: datetime.now(UTC) + timedelta(minutes=minutes)))
    [said] = [said for said in found if "clock" in said.what]
    assert said.level is level


def test_a_clock_from_before_this_project_is_wrong_by_itself() -> None:
    assert worst(installation.clock(lambda: datetime(1970, 1, 1, tzinfo=UTC)))
    assert not worst(installation.clock(lambda: datetime.now(UTC)))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB, full."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=65536", "tmpfs", folder], check=False, capture_output=True).returncode == 0
    )
    if not mounted:
        pytest.fail("the kernel lets no file system be mounted: run as root, or in a user namespace")
    try:
        with pytest.raises(OSError, match="No space left"):
            (folder / "filler").write_bytes(b"x" * 100_000)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def test_a_full_disk_is_found_by_its_room_and_by_the_probe(settings: Settings, tiny: Path) -> None:
    full = settings.model_copy(update={"home": tiny})
    assert any(str(tiny) in finding.what for finding in worst(installation.disks(full)))
    [found] = worst(storage.place(tiny.as_uri()))
    assert "No space left" in found.what
    assert [path.name for path in tiny.iterdir()] == ["filler"]


def test_a_folder_that_takes_no_writes_is_a_problem(tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny], check=True, capture_output=True)
    [found] = worst(storage.place(tiny.as_uri()))
    assert "Read-only file system" in found.what
    [above] = worst(storage.place(Path("/proc/none/at/all").as_uri()))
    assert above.do


def test_a_bucket_is_listed_written_read_and_left_as_it_was(new_bucket: Callable[..., str]) -> None:
    kept, plain = new_bucket(versioned=True), new_bucket()
    assert [said.level for said in storage.place(f"s3://{kept}/some/where")] == [Level.OK, Level.OK]
    assert [said.level for said in storage.place(f"s3://{plain}")] == [Level.OK, Level.WARNING]
    client = boto3.client("s3", region_name="eu-west-2")
    for bucket in (kept, plain):
        versions = client.list_object_versions(Bucket=bucket)
        assert (versions.get("Versions", []), versions.get("DeleteMarkers", [])) == ([], [])


def test_a_missing_bucket_is_named(new_bucket: Callable[..., str]) -> None:
    [found] = worst(storage.place("s3://nobody-has-made-this/metrics"))
    assert "NoSuchBucket" in found.what
    assert found.do == "make the bucket, or correct the setting"


def test_every_place_that_a_setting_names_is_looked_at(settings: Settings) -> None:
    purposes = {purpose for places in storage.PLACES.values() for purpose in places}
    urls = [name.removesuffix("_url") for name in Settings.model_fields if name.endswith("_url")]
    named = {name for name in urls if name.rpartition("_")[2] in purposes}
    assert named == {f"{pipeline}_{purpose}" for pipeline, places in storage.PLACES.items() for purpose in places}
    for name, places in storage.PLACES.items():
        assert storage.urls(settings, name)["landing"] == PIPELINES[name].zone(settings).landing.url
        assert all(url.startswith("file://") for url in storage.urls(settings, name).values())
        assert places


def test_an_api_that_is_away_and_one_without_key_are_told_apart(settings: Settings) -> None:
    away = settings.model_copy(update={"residents_api_url": f"{NOWHERE}/api/", "residents_api_key": SecretStr("k")})
    [found] = worst(outside.here_to_help(away))
    assert found.do.startswith("ingestion explain http_")
    [found] = worst(outside.here_to_help(away.model_copy(update={"residents_api_key": None})))
    assert "INGESTION_RESIDENTS_API_KEY" in found.what


def test_a_platform_that_gives_no_token_is_a_problem(settings: Settings) -> None:
    away = {"life_events_platform_url": NOWHERE, "life_events_token_url": f"{NOWHERE}/oauth2/token"}
    known = {"life_events_client_id": "me", "life_events_client_secret": SecretStr("mine-alone")}
    assert worst(outside.events_platform(settings.model_copy(update=away | known)))
    [found] = worst(outside.events_platform(settings.model_copy(update=away)))
    assert "INGESTION_LIFE_EVENTS_CLIENT_ID" in found.what


def test_what_of_aws_is_set_and_not_there_is_named(settings: Settings, moto_server: str, aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    boto3.client("dynamodb", region_name="eu-west-2").create_table(
        TableName="doctors-events",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "B"}],
        BillingMode="PAY_PER_REQUEST",
    )
    wanted = settings.model_copy(
        update={
            "metrics_kinesis_stream": "doctors-none",
            "cubic_glue_databases": "doctors_none",
            "life_events_store_url": "dynamodb://doctors-events",
            "sns_topic_arn": "arn:aws:sns:eu-west-2:123456789012:doctors-none",
            "life_events_acquirers": {"dwp": {"queue": f"{moto_server}/123456789012/doctors-none"}},
        }
    )
    told = {name: [finding.what for finding in worst(outside.aws(wanted, name))] for name in ("metrics", "cubic", "life_events")}
    assert [what.split(":")[0] for what in told["metrics"]] == ["stream doctors-none", "topic of alerts"]
    assert [what.split(":")[0] for what in told["cubic"]] == ["Glue database doctors_none", "topic of alerts"]
    assert told["life_events"][0] == "expiry of table doctors-events is DISABLED"
    assert told["life_events"][1].startswith("queue of dwp: ")


def test_a_search_cluster_that_is_away_is_a_problem(settings: Settings) -> None:
    [found] = worst(search.engine(settings.model_copy(update={"catalog_search_url": NOWHERE})))
    assert "could not be reached" in found.what


def test_a_server_that_speaks_no_ssh_is_no_sftp(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        wanted = settings.model_copy(update={"life_events_sftp_host": "127.0.0.1", "life_events_sftp_port": port})
        told = [finding.what for finding in worst(_greeted(listening, wanted))]
    assert told == ["a server is set, and how to log in is not", f"127.0.0.1:{port} is no SSH server"]


def _greeted(listening: socket.socket, settings: Settings) -> Iterator[Said]:
    said = outside.sftp(settings)
    yield next(said)
    import threading

    def greet() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400")

    thread = threading.Thread(target=greet)
    thread.start()
    yield from said
    thread.join()


def test_contradictions_are_problems_and_production_is_held_to_more(settings: Settings) -> None:
    assert not worst(installation.contradictions(settings))
    torn = settings.model_copy(update={"slack_token": "xoxb-1", "api_host": "0.0.0.0"})
    assert len(worst(installation.contradictions(torn))) == 2
    production = settings.model_copy(update={"environment": "production", "database_url": None})
    assert ["keys of its own" in finding.what for finding in worst(installation.contradictions(production))] == [True]
    assert "production needs a database" in worst(databases.ledger(production))[0].what
    assert worst(search.engine(production))


def test_a_package_of_another_version_is_named() -> None:
    assert list(installation._wrong(["pydantic<1", "nobody-has-this>=1", "typer", "mypy; extra == 'dev'"]))[1:] == [
        "nobody-has-this is missing"
    ]
    assert not worst(installation.packages())


def test_an_instance_that_was_changed_and_a_daemon_that_never_ran_are_worth_a_look(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    home = prepare_dagster_home(settings)
    (home / "dagster.yaml").write_text((home / "dagster.yaml").read_text().replace("max_retries: 2", "max_retries: 7"))
    found = worst(instance.dagster(settings, databases.utc_now), Level.WARNING)
    assert ["other run_retries than the project" in found[0].what, "no daemon has ever run here" in found[1].what] == [True, True]
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home_folder / "nowhere"))
    assert "DAGSTER_HOME" in worst(instance.dagster(settings, databases.utc_now))[0].what


def test_one_pipeline_is_asked_about_alone(settings: Settings) -> None:
    names = {check.name for check in checks(settings, [PIPELINES["cubic"]])}
    assert {name.split()[0] for name in names} == {"packages", "settings", "clock", "disks", "database", "dagster", "cubic"}
