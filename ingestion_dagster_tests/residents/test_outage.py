"""An API that fails, stalls, forbids or lies for a while: everything arrives once, or a person is told what to do; nothing is lost."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from ingestion_dagster import cli
from ingestion_dagster.engine import http
from ingestion_dagster.engine.breaker import UNAVAILABLE
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.residents import dispatch
from ingestion_dagster.residents.api_client import HereToHelp as Client
from ingestion_dagster.residents.places import NAMES
from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.sandbox.usage import Settings as Switches
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import differences, query
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.conftest import SUPERMARKET, Somebody, as_csv, as_xlsx
from ingestion_dagster_tests.residents.driver import Api
from ingestion_dagster_tests.residents.test_crashes import AWKWARD, land_backlog
from ingestion_dagster_tests.sandbox.asking import answering

WRONG_KEY = "wrong"  # pragma: allowlist secret


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for nothing longer than a moment."""

    async def pause(_self: Client, _attempt: int) -> None:
        return

    monkeypatch.setattr(Client, "pause", pause)
    monkeypatch.setattr(dispatch, "_PAUSES", (0.01, 0.01))
    made = http.Http
    monkeypatch.setattr(http, "Http", lambda **how: made(**{**how, "first_pause": 0.01, "silence_timeout": 0.4}))


@pytest.fixture(scope="module")
def undisturbed(api_process: Api, one: Any) -> dict[str, list[Any]]:
    """What the API keeps of the backlog when all goes well."""
    api_process.reset()
    with driver.quick_folder() as home:
        settings = driver.settings_for(driver.emptied(one), home, api_process.url)
        land_backlog(settings)
        driver.finish(settings)
    return api_process.kept()


def loads(settings: Settings) -> set[tuple[str, int]]:
    """Where loads stand, and what they are charged with."""
    return {(row[0], row[1]) for row in query(settings, "SELECT status, attempts FROM ledger.loads")}


def steps(settings: Settings) -> set[str]:
    return {row[0] for row in query(settings, "SELECT step FROM residents.rows")}


def reports(settings: Settings) -> list[Path]:
    return [path for dataset in NAMES for path in driver.outbound(settings, dataset).glob("*")]


def run_command(monkeypatch: pytest.MonkeyPatch, settings: Settings, *command: str) -> int:
    """What `ingestion …` ends with under these settings."""
    for variable, value in driver.environment_of(settings).items():
        if variable.startswith("INGESTION_"):
            monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setattr(sys, "argv", ["ingestion", *command])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


def test_an_api_that_is_down_costs_nothing_and_the_command_says_what_to_do(
    installation: Settings, api: Api, undisturbed: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = installation.model_copy(update={"residents_api_patience_seconds": 2})
    land_backlog(settings)
    api.fault("500", until=True)
    assert run_command(monkeypatch, settings, "run", "residents", "--as-of", "2026-11-20") == 1
    said = " ".join("".join(capfd.readouterr()).split())
    assert "nothing is lost" in said, said[-2000:]
    assert loads(settings) == {("ready", 0)}
    assert "failed" not in steps(settings)
    # The file of the backlog that is refused needs no API, but comes after one that does.
    assert reports(settings) == []
    assert api.counts() == (0, 0, 0)
    api.well()
    driver.finish(settings)
    assert differences(api.kept(), undisturbed) == []


def test_a_wrong_key_ends_the_run_and_names_the_setting(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = installation.model_copy(update={"residents_api_key": SecretStr(WRONG_KEY)})
    land_backlog(settings)
    assert run_command(monkeypatch, settings, "run", "residents", "--as-of", "2026-11-20") == 1
    assert "INGESTION_RESIDENTS_API_KEY" in "".join(capfd.readouterr())
    assert loads(settings) == {("ready", 0)}
    assert "failed" not in steps(settings)


def some(kind: str, times: int, **more: Any) -> Callable[[Api], None]:
    return lambda api: api.fault(kind, times=times, **more)


def a_while(kind: str, **more: Any) -> Callable[[Api], None]:
    """For a second and a half, from the first call that is meant."""

    def begin(api: Api) -> None:
        api.fault(kind, until=True, **more)
        threading.Timer(1.5, api.well).start()

    return begin


def every(third: int, kind: str, **more: Any) -> Callable[[Api], None]:
    """One call in so many, over and over."""

    def begin(api: Api) -> None:
        for number in range(12):
            api.fault(kind, skip=(third - 1) * (number + 1), **more)

    return begin


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(a_while("500", skip=9), id="500"),
        pytest.param(some("503", 6, op="create"), id="503 from the beginning"),
        pytest.param(a_while("429", skip=3, retry_after="1"), id="429 that says how long"),
        pytest.param(a_while("429", skip=3), id="429 that does not"),
        pytest.param(some("429", 8, op="note", retry_after="1"), id="a few 429"),
        pytest.param(some("hang", 4, skip=5), id="hang"),
        pytest.param(some("reset", 14, skip=5), id="reset"),
        pytest.param(every(3, "lost", op="create"), id="every third create loses its reply"),
        pytest.param(every(3, "lost", op="note"), id="every third note loses its reply"),
        pytest.param(some("lost", 3, op="add_request"), id="shielding loses its reply"),
        pytest.param(every(2, "bad_json", op="create"), id="every other create is garbled"),
        pytest.param(every(2, "html", op="note"), id="a page in place of every other note"),
        pytest.param(some("partial", 9), id="half creates"),
    ],
)
def test_a_run_gets_through_an_api_that_is_unwell_for_a_while(
    trouble: Callable[[Api], None], installation: Settings, api: Api, undisturbed: dict[str, list[Any]], hasty: None
) -> None:
    land_backlog(installation)
    trouble(api)
    driver.run(installation)
    assert loads(installation) == {("archived", 0), ("errored", 0)}
    assert steps(installation) == {"done"}
    assert differences(api.kept(), undisturbed) == []


def test_rows_that_an_outage_stops_in_the_middle_go_on_where_they_were(
    installation: Settings, api: Api, undisturbed: dict[str, list[Any]], hasty: None
) -> None:
    settings = installation.model_copy(update={"residents_api_patience_seconds": 0.5})
    land_backlog(settings)
    for skip in (3, 8, 15):
        api.fault("500", skip=skip, until=True)
        with pytest.raises(Transient) as raised:
            driver.run(settings)
        assert raised.value.code == UNAVAILABLE
        assert ("ingesting", 0) not in loads(settings)
        assert {attempts for _, attempts in loads(settings)} == {0}
        assert "failed" not in steps(settings)
        api.well()
    driver.finish(settings)
    assert differences(api.kept(), undisturbed) == []


def test_nobody_at_the_address_is_told_and_charges_nothing(installation: Settings, hasty: None) -> None:
    settings = installation.model_copy(update={"residents_api_url": "http://127.0.0.1:9/api/", "residents_api_patience_seconds": 0.5})
    land_backlog(settings)
    with pytest.raises((Transient, ConfigurationError)):
        driver.run(settings)
    assert loads(settings) == {("ready", 0)}


@dataclass
class Picky(HereToHelp):
    """The API, which does not take some people's requests, and tells of it what it was sent."""

    poison: str = ""
    status: int = 400
    asked: int = 0

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked += 1
        if self.poison and self.poison in body.decode():
            return web.Response(body=orjson.dumps({"errors": {"all": [body.decode()]}}), status=self.status)
        return await super()._create(request)


@contextmanager
def picky(poison: str, status: int) -> Iterator[tuple[Picky, str]]:
    server = Picky(settings=Switches(rate=0), poison=poison, status=status)
    with answering(server) as client:
        yield server, client.url


def run_until_over(settings: Settings) -> None:
    """As a sensor does: again after a run that fails."""
    for _ in range(6):
        with suppress(Transient):
            driver.run(settings)
        if {status for status, _ in loads(settings)} <= {"archived", "errored"}:
            return
    raise AssertionError(f"{loads(settings)} after 6 runs")


@pytest.mark.parametrize(("status", "code"), [(400, "api_rejected"), (500, "http_server_error")])
def test_one_persons_rows_that_do_not_get_through_keep_nobody_else_back(
    status: int, code: str, installation: Settings, hasty: None
) -> None:
    people = [Somebody(number) for number in range(1, 21)]
    poison = people[7]
    rows = [each.row("nsss") for each in people]
    later = poison.row("nsss", ID="nsss-later", **{SUPERMARKET: "Yes"})
    with picky(poison.nhs, status) as (server, url):
        settings = installation.model_copy(update={"residents_api_url": url})
        driver.drop(settings, "nsss", "a.csv", as_csv("nsss", [*rows, later]))
        run_until_over(settings)
        assert server.store.counts()["help_requests"] == 19
        [told] = driver.states(settings).values()
        assert {row.number: row.reason_code for row in told if row.status == "failed"} == {8: code, 21: code}
        assert query(settings, "SELECT status FROM residents.files") == [("partial",)]
        [report] = reports(settings)
        server.asked, server.status = 0, 400
        assert driver.retry(settings, "a.csv").ready
        driver.run(settings)
        assert server.asked == 2, "only the rows that failed"
        server.poison, server.asked = "", 0
        assert driver.retry(settings, "a.csv").ready
        driver.run(settings)
        assert server.asked == 2
        assert server.store.counts() == {"residents": 20, "help_requests": 21, "case_notes": 21}
        assert query(settings, "SELECT status FROM residents.files") == [("complete",)]
        assert reports(settings) == [report]


def test_a_row_that_does_not_get_through_keeps_no_other_dataset_waiting(installation: Settings, hasty: None) -> None:
    with picky(Somebody(8).nhs, 500) as (server, url):
        settings = installation.model_copy(update={"residents_api_url": url})
        driver.drop(settings, "nsss", "first.csv", as_csv("nsss", [Somebody(8).row("nsss")]), 1)
        driver.drop(settings, "spl", "second.csv", as_csv("spl", [Somebody(1).row("spl")]), 2)
        with suppress(Transient):
            driver.run(settings)
        assert server.store.counts()["help_requests"] == 1


def test_rows_that_are_to_be_sent_again_and_whose_file_is_gone_do_not_stay_open(installation: Settings, hasty: None) -> None:
    with picky(Somebody(8).nhs, 400) as (_, url):
        settings = installation.model_copy(update={"residents_api_url": url})
        path = driver.drop(settings, "nsss", "a.csv", as_csv("nsss", [Somebody(8).row("nsss"), Somebody(9).row("nsss")]))
        driver.run(settings)
        path.unlink()
        driver.retry(settings, "a.csv")
        driver.run(settings)
    assert steps(settings) == {"done", "failed"}, "a row that nobody sends is told as one that failed"


def test_the_same_rows_cost_no_call_in_whatever_file_they_come(installation: Settings, api: Api, tmp_path: Path) -> None:
    rows = [Somebody(number).row("nsss", **{SUPERMARKET: AWKWARD if number % 2 else "No"}) for number in range(1, 8)]
    plain = as_csv("nsss", rows)
    path = driver.drop(installation, "nsss", "a.csv", plain)
    driver.run(installation)
    before, made = api.kept(), calls(api)
    assert made > 0
    path.rename(path.with_name("renamed.csv"))
    driver.drop(installation, "nsss", "turned.csv", as_csv("nsss", rows[::-1]))
    driver.drop(installation, "nsss", "book.xlsx", as_xlsx("nsss", rows, tmp_path))
    driver.drop(installation, "nsss", "windows.csv", plain.replace(b"\r\n", b"\n"))
    driver.drop(installation, "nsss", "a.csv", plain + b",\r\n")
    driver.run(installation)
    assert calls(api) == made
    assert api.kept() == before
    told = driver.states(installation)
    assert told.keys() == {"a.csv", "renamed.csv", "turned.csv", "book.xlsx", "windows.csv"}
    assert {row.reason_code for name in told if name != "a.csv" for row in told[name]} == {"already_done"}
    for report in reports(installation):
        report.unlink()
    driver.run(installation)
    # Those of the file that stands there no longer are not missed.
    assert len(reports(installation)) == 5
    assert calls(api) == made
    driver.drop(installation, "nsss", "edited.csv", as_csv("nsss", [{**rows[0], "contact_email": "new@example.invalid"}, *rows[1:]]))
    api.admin("reset", {})
    driver.run(installation)
    assert api.calls() == {"create": {"201": 1}, "get": {"200": 1}, "note": {"201": 1}}


def calls(api: Api) -> int:
    return sum(sum(ends.values()) for ends in api.calls().values())
