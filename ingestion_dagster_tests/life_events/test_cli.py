"""The commands over life events, called as the shell calls them, and Dagster's own as a process: exit codes, and what is printed where."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ingestion_dagster import cli
from ingestion_dagster.life_events.expected import LONDON
from ingestion_dagster.sandbox import servers
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.scene import (
    SAMPLES,
    TODAY,
    YESTERDAY,
    LifeEvents,
    bad,
    file_of,
    in_memory,
    life_events,
    one_of_module,
    platform,
    stand_in_of_module,
)
from ingestion_dagster_tests.life_events.stand_in import StandIn
from ingestion_dagster_tests.life_events.test_sftp import CLIENT, HOST, OTHER, Server, there
from ingestion_dagster_tests.test_cli import LOAD_FIELDS, STATUS_FIELDS, Result

__all__ = ["in_memory", "life_events", "one_of_module", "platform", "stand_in_of_module", "there"]

NO_FILE = b"<DeathRegistrationGroup>"
NEWER_KEY = f"e2:{'0011223344556677' * 4}"  # pragma: allowlist secret

Command = Callable[..., Result]


@pytest.fixture
def ingestion(life_events: LifeEvents, in_memory: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Calls the entry point of the console script in this process; what it prints is caught at the file descriptors."""

    def call(*arguments: str | Path) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ingestion", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return call


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A file outside the landing zone."""

    def write(content: bytes, name: str = "mine.xml") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


# load, run, check


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (file_of(1, 2, 2), 0, "1 loads: 1 loaded (0 duplicates), 0 refused; 3 rows in, 2 written, 1 unchanged, 0 rejected"),
        (file_of(1, bad(2)), 2, "1 loads: 1 loaded (0 duplicates), 0 refused; 2 rows in, 1 written, 0 unchanged, 1 rejected"),
        (NO_FILE, 2, "1 loads: 0 loaded (0 duplicates), 1 refused; 0 rows in, 0 written, 0 unchanged, 0 rejected"),
    ],
    ids=["good", "one bad record", "refused"],
)
def test_a_file_is_loaded_and_the_exit_code_says_how_it_went(
    ingestion: Command, life_events: LifeEvents, platform: StandIn, file: Callable[..., Path], content: bytes, code: int, line: str
) -> None:
    result = ingestion("load", "life_events", file(content))
    assert (result.code, result.out) == (code, f"{line}\n"), result
    assert platform.events.total() == life_events.count("life_events.events")
    assert set(life_events.records()) <= {"published"}
    assert life_events.waiting() == []


def test_a_platform_that_is_away_ends_the_command_and_keeps_what_is_loaded(
    ingestion: Command, life_events: LifeEvents, platform: StandIn, file: Callable[..., Path]
) -> None:
    platform.token_always = 503
    result = ingestion("load", "life_events", file(file_of(1)))
    assert result.code == 1
    assert "INGESTION_LIFE_EVENTS_PLATFORM_URL" in result.err
    assert "nothing is lost" in result.err.replace("\n", " ")
    assert life_events.records() == {"pending": 1}
    platform.token_always = None
    assert ingestion("run", "life_events").code == 0
    assert life_events.records() == {"published": 1}


def test_a_dry_load_says_what_check_says_and_does_nothing(
    ingestion: Command, life_events: LifeEvents, platform: StandIn, file: Callable[..., Path]
) -> None:
    result = ingestion("load", "life_events", file(file_of(1, bad(2))), "--dry-run")
    assert result.code == 2
    assert "[missing_timestamp]" in result.out
    assert life_events.waiting() == []
    assert life_events.loads() == []


def test_a_dry_run_says_what_would_become_of_what_is_there(ingestion: Command, life_events: LifeEvents, platform: StandIn) -> None:
    life_events.drop("a.xml", file_of(1, bad(2)))
    result = ingestion("run", "life_events", "--dry-run")
    assert (result.code, result.out) == (
        2, "dry run, nothing changed: 1 loads: 1 would be loaded, 0 refused; 2 rows in, 1 rejected\n",
    )  # fmt: skip
    assert life_events.loads() == []
    assert life_events.waiting() == ["a.xml"]


@pytest.mark.parametrize("narrowing", [["--as-of", YESTERDAY], ["--partition", YESTERDAY]], ids=["as of", "partition"])
def test_a_run_can_be_narrowed_to_a_day(ingestion: Command, life_events: LifeEvents, platform: StandIn, narrowing: list[str]) -> None:
    life_events.drop("old.xml", file_of(1))
    life_events.drop("new.xml", file_of(2))
    life_events.discovered_yesterday("old.xml")
    assert ingestion("run", "life_events", *narrowing).code == 0
    assert life_events.statuses() == {"old.xml": "archived", "new.xml": "ready"}


OF_SAMPLES = {
    "01_valid_namespaced.xml": [],
    "02_valid_unnamespaced_single_record.xml": [],
    "03_duplicate_record_in_file.xml": [],
    "04_one_bad_record.xml": ["missing_timestamp"],
    "06_record_count_mismatch.xml": ["record_count_mismatch"],
    "07_truncated_mid_record.xml": ["not_well_formed"],
    "09_empty_zero_bytes.xml": ["empty"],
    "12_entity_bomb_billion_laughs.xml": ["doctype_forbidden"],
    "14_xxe_external_entity.xml": ["doctype_forbidden"],
    "16_wrong_encoding_latin1_declared_utf8.xml": ["bad_encoding"],
    "20_wrong_root.xml": ["wrong_root"],
}


def test_check_tells_of_every_sample_by_code_and_place_without_a_database(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    result = ingestion("check", "life_events", SAMPLES, "--json")
    assert result.code == 2
    found = {Path(report["path"]).name: report for report in result.json}
    assert {name: [each["code"] for each in report["problems"]] for name, report in found.items()} == OF_SAMPLES
    assert {name: report["ok"] for name, report in found.items()} == {name: not codes for name, codes in OF_SAMPLES.items()}
    for report in found.values():
        assert set(report) == {"path", "ok", "problems"}
        for problem in report["problems"]:
            assert set(problem) == {"code", "place", "message", "severity"}
    [problem] = found["04_one_bad_record.xml"]["problems"]
    assert problem["place"].endswith("), RecordLockedDateTime")
    for word in ("PLACEHOLDER", "Testina", "SYNTHETIC", "9000000", "ZZ1 1ZZ", "1951"):
        assert word not in result.out
    people = ingestion("check", "life_events", SAMPLES)
    assert people.code == 2
    assert people.out.endswith("11 files checked, 8 have errors\n")


# retry, replay, adopt, status, pause


def test_a_refused_file_is_tried_again_from_quarantine(
    ingestion: Command, life_events: LifeEvents, platform: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_BAD_RECORDS", "0")
    life_events.drop("a b.xml", file_of(1, bad(2)))
    assert ingestion("run", "life_events").code == 2
    assert (life_events.waiting(), len(life_events.quarantined())) == ([], 2)
    missed = ingestion("retry", "life_events", "--key", "another.xml")
    assert (missed.code, missed.err) == (2, "no file that stands refused has the key another.xml\n")
    monkeypatch.delenv("INGESTION_LIFE_EVENTS_BAD_RECORDS")
    result = ingestion("retry", "life_events", "--key", "a b.xml")
    assert (result.code, result.out) == (2, "1 loads: 1 loaded (0 duplicates), 0 refused; 2 rows in, 1 written, 0 unchanged, 1 rejected\n")
    assert life_events.statuses() == {"a b.xml": "archived"}
    assert life_events.records() == {"published": 1}
    assert [path.name for path in life_events.quarantined() if not path.name.endswith(".report.json")] == []
    assert ingestion("retry", "life_events").err == "nothing to retry\n"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["replay", "life_events", "--partition", TODAY], "life_events cannot replay: a file is deleted once its events are stored"),
        (["adopt", "life_events"], "life_events has nothing to adopt"),
        (["adopt", "life_events", "--dry-run"], "life_events has nothing to adopt"),
    ],
    ids=["replay", "adopt", "adopt dry"],
)
def test_what_cannot_be_is_refused_with_the_reason(
    ingestion: Command, life_events: LifeEvents, platform: StandIn, command: list[str], reason: str
) -> None:
    life_events.drop("a.xml", file_of(1))
    result = ingestion(*command)
    assert result.code == 1
    assert reason in " ".join(result.err.split())
    assert life_events.waiting() == ["a.xml"]


def test_status_tells_loads_and_records_in_numbers(ingestion: Command, life_events: LifeEvents, platform: StandIn) -> None:
    life_events.drop("a.xml", file_of(1, 1, bad(2)))
    life_events.drop("b.xml", NO_FILE, 1)
    ingestion("run", "life_events")
    counts = ingestion("status", "life_events", "--json").json
    assert all(list(row) == STATUS_FIELDS for row in counts)
    assert {
        row["status"]: (row["dataset"], row["partition"], row["loads"], row["rows_written"], row["rows_rejected"]) for row in counts
    } == {
        "archived": ("source_file", TODAY, 1, 1, 1),
        "errored": ("source_file", TODAY, 1, 0, 0),
    }
    loads = ingestion("status", "life_events", "--json", "--loads").json
    assert all(list(row) == LOAD_FIELDS for row in loads)
    assert {row["key"]: row["error_code"] for row in loads} == {"a.xml": "missing_timestamp", "b.xml": "not_well_formed"}
    assert "life_events: 1 errored with not_well_formed" in ingestion("status", "life_events").out


def test_a_paused_pipeline_names_what_waits_until_it_is_resumed(ingestion: Command, life_events: LifeEvents, platform: StandIn) -> None:
    assert ingestion("pause", "life_events", "source_file", "--why", "under review").code == 0
    life_events.drop("a.xml", file_of(1))
    result = ingestion("run", "life_events")
    assert result.code == 0
    assert "not loaded: 1 loads of source_file paused: under review" in result.err
    ingestion("resume", "life_events", "source_file")
    assert ingestion("run", "life_events").code == 0
    assert life_events.records() == {"published": 1}


# What only life events has


@pytest.fixture
def staged(life_events: LifeEvents) -> LifeEvents:
    """Two events that are due."""
    life_events.drop("a.xml", file_of(1, 2))
    driver.run(life_events.settings)
    return life_events


def test_rekey_seals_what_lives_with_the_current_key_and_says_how_many(
    ingestion: Command, staged: LifeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS", f"{NEWER_KEY},{driver.ENCRYPTION_KEYS}")
    for count in (2, 0):
        result = ingestion("life_events", "rekey")
        assert (result.code, result.out) == (0, f"{count} events sealed anew with key e2; 0 were deleted meanwhile\n")
    assert staged.query("SELECT DISTINCT encryption_key FROM life_events.events") == [("e2",)]
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS", driver.ENCRYPTION_KEYS)
    result = ingestion("life_events", "rekey")
    assert result.code == 2
    assert "2 events could not be opened: INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS lacks the key" in result.out


def test_republish_sends_what_was_refused_once_that_is_mended(ingestion: Command, staged: LifeEvents, platform: StandIn) -> None:
    [(one,), _] = staged.query("SELECT encode(record_key, 'hex') FROM life_events.records ORDER BY ordinal")
    platform.refused[one] = 400
    assert ingestion("run", "life_events").code == 0
    assert staged.records() == {"published": 1, "dead": 1}
    result = ingestion("life_events", "republish")
    assert (result.code, result.out) == (2, "1 dead letters are due again\n0 events published, 1 refused\n")
    platform.refused.clear()
    result = ingestion("life_events", "republish")
    assert (result.code, result.out) == (0, "1 dead letters are due again\n1 events published, 0 refused\n")
    assert staged.records() == {"published": 2}


def test_republish_without_a_platform_says_what_to_do(ingestion: Command, staged: LifeEvents) -> None:
    result = ingestion("life_events", "republish")
    assert result.code == 1
    assert "ingestion sandbox up" in " ".join(result.err.split())


def test_sweep_deletes_what_has_been_kept_for_long_enough(ingestion: Command, staged: LifeEvents) -> None:
    assert ingestion("life_events", "sweep").out.startswith("0 events and 0 refused files deleted; 0 records and 0 audit rows forgotten")
    staged.drop("b.xml", NO_FILE)
    driver.run(staged.settings)
    staged.query("UPDATE ledger.loads SET finished_at = now() - interval '8 days' WHERE status = 'errored'")
    staged.let_time_be_up()
    result = ingestion("life_events", "sweep")
    assert (result.code, result.out) == (0, "2 events and 1 refused files deleted; 0 records and 0 audit rows forgotten\n")
    assert staged.records() == {"expired": 2}
    assert (staged.count("life_events.events"), staged.quarantined()) == (0, [])


def test_pull_without_a_server_names_the_setting(ingestion: Command) -> None:
    result = ingestion("life_events", "pull")
    assert result.code == 1
    assert "INGESTION_LIFE_EVENTS_SFTP_HOST" in result.err


def test_pull_lands_the_file_of_a_day_once(
    ingestion: Command, life_events: LifeEvents, there: Server, platform: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "EXPECTED_FILE": "DI_D_%Y%m%d.xml",
        "SFTP_HOST": "127.0.0.1",
        "SFTP_PORT": str(there.port),
        "SFTP_USER": "gro",
        "SFTP_PRIVATE_KEY": CLIENT.export_private_key().decode(),
        "SFTP_HOST_FINGERPRINT": HOST["ssh-ed25519"].get_fingerprint("sha256"),
    }.items():
        monkeypatch.setenv(f"INGESTION_LIFE_EVENTS_{name}", value)
    missing = ingestion("life_events", "pull", "--day", "2031-02-05")
    assert (missing.code, missing.out) == (2, "the file of 2031-02-05 is not there yet (sftp_not_there_yet)\n")
    content = file_of(1)
    there.put(content)
    result = ingestion("life_events", "pull", "--day", "2031-02-05")
    assert (result.code, result.out) == (0, f"DI_D_20310205.xml: {len(content)} bytes landed; 'ingestion run life_events' loads it\n")
    assert ingestion("run", "life_events").code == 0
    again = ingestion("life_events", "pull", "--day", "2031-02-05")
    assert (again.code, again.out) == (0, "the file of 2031-02-05 has been landed before, or none is due\n")
    assert life_events.records() == {"published": 1}
    today = f"{datetime.now(LONDON):%Y-%m-%d}"
    assert ingestion("life_events", "pull").out.startswith(f"the file of {today} is not there yet")
    there.put(content, name="DI_D_20310206.xml")
    with monkeypatch.context() as smaller:
        smaller.setenv("INGESTION_LIFE_EVENTS_MAX_FILE_BYTES", "10")
        refused = ingestion("life_events", "pull", "--day", "2031-02-06")
    assert refused.code == 2
    assert refused.out.startswith("the file of 2031-02-06 is refused: ")
    assert refused.out.endswith("[file_too_large]\n")
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_SFTP_HOST_FINGERPRINT", OTHER.get_fingerprint("sha256"))
    stranger = ingestion("life_events", "pull")
    assert stranger.code == 1
    assert "INGESTION_LIFE_EVENTS_SFTP_HOST_FINGERPRINT" in " ".join(stranger.err.split())


def test_an_api_that_others_reach_does_not_start_without_a_token(ingestion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_API_HOST", "0.0.0.0")
    result = ingestion("serve")
    assert result.code == 1
    assert "INGESTION_API_TOKEN" in result.err


COMMAND = [sys.executable, "-c", "from ingestion_dagster.cli import main; main()"]


def test_the_api_says_where_it_answers_and_ends_well_when_told_to(staged: LifeEvents, tmp_path: Path) -> None:
    environment = os.environ | {"INGESTION_API_PORT": "0"}
    with subprocess.Popen([*COMMAND, "serve"], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            assert told.startswith("the private API answers at http://127.0.0.1:"), told
            [(key,), _] = staged.query("SELECT encode(record_key, 'hex') FROM life_events.records")
            request = urllib.request.Request(
                f"{told.split()[-1]}/life-events/enrich", json.dumps({"id": key}).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert json.load(answer)["hash"] == key
        finally:
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=20)
        assert (process.returncode, rest) == (0, "")


# The sandbox, and Dagster's own command


def materialize(selection: str, partition: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "-m", "ingestion_dagster.definitions"]
    return subprocess.run(
        [*command, "--select", selection, "--partition", partition],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_dagsters_own_command_loads_and_publishes(life_events: LifeEvents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = life_events.settings.home_folder / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_bytes((Path(__file__).parents[2] / "dagster.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    life_events.drop("a.xml", file_of(1))
    loaded = materialize("life_events/source_file", TODAY)
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert life_events.records() == {"pending": 1}
    servers.up(life_events.settings.home_folder, names=["events_platform"])
    published = materialize("life_events/published_events", TODAY)
    assert published.returncode == 0, published.stderr[-3000:]
    assert life_events.records() == {"published": 1}


def test_a_load_starts_the_stand_ins_and_a_consumer_gets_every_event_whatever_the_real_api_is_guarded_by(
    ingestion: Command, life_events: LifeEvents, file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingestion_dagster.sandbox import events_consumer

    monkeypatch.setenv("INGESTION_API_TOKEN", "of nobody that the sandbox knows")  # pragma: allowlist secret
    assert ingestion("load", "life_events", file(file_of(1, 2))).code == 0
    url = servers.url(life_events.settings.home_folder, "events_platform")
    assert url is not None
    pages = list(events_consumer.consume(url))
    assert sum(page.consumed for page in pages) == sum(page.enriched for page in pages) == 2
    assert servers.down(life_events.settings.home_folder) == ["events_platform", "api"]


def test_help_names_every_verb(ingestion: Command) -> None:
    told = ingestion("life_events", "--help").out
    assert all(verb in told for verb in ("rekey", "republish", "sweep", "pull"))
