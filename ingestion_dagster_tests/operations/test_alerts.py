"""What runs and the sensors of operations alert to, and what not: each thing once, and nothing of a record's content."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from ingestion_dagster.engine import alerting, channels, ledger, notifications, whereabouts
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG, no_retry_of_mistakes
from ingestion_dagster.engine.datasets import pause_dataset, sync_datasets
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.kinesis import Record, Stream
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics.pipeline import METRICS
from ingestion_dagster.metrics.places import DATASETS, PIPELINE, zone
from ingestion_dagster.metrics.stream import Taker
from ingestion_dagster.operations import heartbeat, sensors
from ingestion_dagster.operations import watch as watching
from ingestion_dagster.operations.failures import owner_of
from ingestion_dagster.operations.sensors import FAILURE, WATCH
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.test_notifications import Answer, Slack
from ingestion_dagster_tests.metrics.conftest import Metrics, time_series_payload

WORD = "Zyxwquark"
WATCHED = ("metrics_s3_sensor", "metrics_sweep_sensor")
GOOD = time_series_payload()
BAD = time_series_payload(sex=WORD, age=f"{WORD}!")
CASES: dict[str, Any] = {"metric_group": "cases", "metric": "COVID-19_cases_casesByDay"}

failure_sensor = FAILURE
watch_sensor = sensors.watch_sensor({PIPELINE: replace(METRICS, sensors=lambda _: WATCHED[:1])})


@pytest.fixture
def slack() -> Iterator[Slack]:
    made = Slack()
    yield made
    made.stop()


@pytest.fixture
def metrics(settings: Settings, database: Database, slack: Slack, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """A fresh pipeline whose alerts go to a webhook; its sensors are on."""
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", slack.webhook.url)
    monkeypatch.setenv("INGESTION_UI_URL", "https://dagster.example/")
    monkeypatch.setenv("INGESTION_ENVIRONMENT", "staging")
    monkeypatch.setenv("INGESTION_SENSORS", "running")
    return Metrics(current(), database)


@pytest.fixture(scope="module")
def home() -> Iterator[dg.DagsterInstance]:
    """A Dagster home on SQLite, which keeps what an ephemeral one does not: ticks. In memory where there is such a folder."""
    in_memory = Path("/dev/shm")
    folder = in_memory if os.access(in_memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as made, instance_for_test(temp_dir=made) as instance:
        yield instance


@pytest.fixture
def instance(home: dg.DagsterInstance) -> dg.DagsterInstance:
    """That home, empty."""
    home.wipe()
    home.wipe_all_schedules()
    return home


def run_of_ours(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    origin = RemoteJobOrigin(repository_origin(), "metrics_load")
    return create_run_for_test(instance, job_name="metrics_load", status=status, tags={PIPELINE_TAG: PIPELINE}, remote_job_origin=origin)


def repository_origin(location: str = "ingestion") -> RemoteRepositoryOrigin:
    target = LoadableTargetOrigin(module_name="ingestion_dagster.definitions")
    return RemoteRepositoryOrigin(InProcessCodeLocationOrigin(target, location_name=location), "__repository__")


class Watch:
    """Ticks of the watch sensor, each with the cursor that the one before has left."""

    def __init__(self, instance: dg.DagsterInstance, sensor: dg.SensorDefinition = watch_sensor) -> None:
        self.instance = instance
        self.sensor = sensor
        self.cursor: str | None = None

    def tick(self) -> str:
        """One evaluation as the daemon makes it; what it gives as the reason why it starts no run."""
        repository = dg.Definitions(sensors=[self.sensor], resources={"ingestion": INGESTION}).get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=repository,
            resources={"ingestion": INGESTION},
            sensor_name=self.sensor.name,
        )
        data = self.sensor.evaluate_tick(context)
        assert not data.run_requests
        self.cursor = data.cursor
        return str(data.skip_message)


@pytest.fixture
def watch(metrics: Metrics, instance: dg.DagsterInstance) -> Watch:
    return Watch(instance)


def alert_of(metrics: Metrics, run_id: str) -> None:
    """What the load step does at its end."""
    with metrics.database.connect() as connection:
        alerting.errored_loads_alert(connection, metrics.settings, PIPELINE, run_id)


# One for a run with errored loads


def test_a_run_with_errored_loads_is_told_once_with_all_that_was_asked_for(metrics: Metrics, slack: Slack) -> None:
    metrics.land(a=BAD, b=time_series_payload(sex=WORD, **CASES), c=b"{", d=GOOD)
    metrics.run(run_id="run-of-four")
    alert_of(metrics, "run-of-four")
    alert_of(metrics, "run-of-four")
    [text] = slack.texts
    assert text.startswith("*[staging] metrics: 3 loads errored, 4 rows rejected*\n")
    for dataset in ("cases: 1 of 1 load errored", "deaths: 1 of 2 loads errored", "unclassified: 1 of 1 load errored"):
        assert f"• {dataset}" in text
    assert "(unreadable_json 1)" in text
    assert text.endswith("<https://dagster.example/runs/run-of-four|Run run-of-f>")


def test_a_run_without_errors_is_not_told_of(metrics: Metrics, slack: Slack) -> None:
    metrics.load("good.json", GOOD, run_id="good")
    alert_of(metrics, "good")
    alert_of(metrics, "never was")
    assert slack.texts == []


def test_each_run_with_errored_loads_is_told_of(metrics: Metrics, slack: Slack) -> None:
    metrics.load("a.json", BAD, run_id="one")
    alert_of(metrics, "one")
    metrics.load("a.json", BAD | {"note": 1}, run_id="two")
    alert_of(metrics, "two")
    assert ["runs/one" in text for text in slack.texts] == [True, False]
    assert ["runs/two" in text for text in slack.texts] == [False, True]


def test_an_alert_never_fails_a_run(metrics: Metrics, slack: Slack, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    metrics.load("a.json", BAD, run_id="one")
    slack.answers = [Answer(500)]
    alert_of(metrics, "one")
    half_set = metrics.settings.model_copy(update={"slack_token": "xoxb"})
    with metrics.database.connect() as connection:
        alerting.errored_loads_alert(connection, half_set, PIPELINE, "one")
        assert "INGESTION_SLACK_CHANNEL" in caplog.text
    alerting.errored_loads_alert(connection, metrics.settings, PIPELINE, "one")
    assert caplog.records[-1].levelno == logging.WARNING
    assert "OperationalError" in caplog.records[-1].getMessage()


def test_what_kept_an_alert_back_is_logged_with_who_makes_it_good(
    metrics: Metrics, slack: Slack, watch: Watch, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    run = run_of_ours(instance, dg.DagsterRunStatus.SUCCESS)
    metrics.load("a.json", BAD, run_id=run.run_id)

    def lost(*_: Any) -> bool:
        raise psycopg.OperationalError("DETAIL: a row")

    with metrics.database.connect() as connection, monkeypatch.context() as patched:
        patched.setattr(notifications, "raise_alert", lost)
        alerting.errored_loads_alert(connection, metrics.settings, PIPELINE, run.run_id)
        alerting.failed_checks_alert(connection, metrics.settings, PIPELINE, run.run_id, ["core_and_api_agree"])
    loads, checks = (record.getMessage() for record in caplog.records if record.name == alerting.__name__)
    assert "errored loads could not be alerted to (OperationalError): the watch sensor alerts to them" in loads
    assert "failed checks could not be alerted to (OperationalError): what is not in the outbox by now nobody alerts to" in checks
    watch.tick()
    assert ["1 load errored" in text for text in slack.texts] == [True], "as the log has it: the loads, and nothing of the checks"


def test_nothing_of_a_file_is_in_alerts_or_their_outbox(metrics: Metrics, slack: Slack, watch: Watch) -> None:
    fields = ("topic", "metric_group", "metric", "geography", "age", "sex", "stratum", "refresh_date")
    metrics.land(bad=BAD, truncated=f'{{"{WORD}": "{WORD}'.encode(), **{f"bad_{field}": GOOD | {field: f"{WORD}!"} for field in fields})
    metrics.run(run_id="run")
    alert_of(metrics, "run")
    watch.tick()
    assert "errored" in slack.texts[0]
    told = "".join(slack.texts) + str(metrics.query("SELECT content::text, key FROM ledger.alerts"))
    assert WORD.lower() not in told.lower()


# What a crash between commit and alert leaves out


def test_errored_loads_of_a_run_that_died_before_its_alert_are_told_by_the_watch(
    metrics: Metrics, slack: Slack, watch: Watch, instance: dg.DagsterInstance
) -> None:
    run = run_of_ours(instance, dg.DagsterRunStatus.STARTED)
    metrics.load("a.json", BAD, run_id=run.run_id)
    watch.tick()
    assert slack.texts == [], "the run may come to it still"
    instance.report_run_failed(run, "the machine is gone")
    watch.tick()
    watch.tick()
    assert sum("metrics: 1 load errored" in text for text in slack.texts) == 1
    assert sum("a run failed" in text for text in slack.texts) == 1
    assert len(slack.texts) == 2
    assert any("the machine is gone" in text for text in slack.texts)


def test_a_run_that_holds_loads_still_is_told_of_when_they_are_settled(metrics: Metrics, slack: Slack, watch: Watch) -> None:
    metrics.load("a.json", BAD, run_id="gone")
    metrics.query("UPDATE ledger.loads SET status = 'ingesting', error_code = NULL WHERE key = 'a.json'")
    metrics.load("b.json", BAD, run_id="gone")
    let_claims_age(metrics, timedelta(hours=1))
    watch.tick()
    assert slack.texts == []
    with metrics.database.connect() as connection:
        metrics.query("UPDATE ledger.loads SET lease_until = now() - interval '1 second', alone = true WHERE key = 'a.json'")
        ledger.expire(connection, PIPELINE, Limits(max_attempts=1).max_attempts)
    watch.tick()
    [text] = slack.texts
    assert "2 loads errored" in text
    assert "crashed_repeatedly 1" in text


def test_a_run_of_another_dagster_home_is_told_of_when_it_can_claim_no_more(metrics: Metrics, slack: Slack, watch: Watch) -> None:
    """Between two batches it holds nothing, and here nobody knows whether it lives."""
    metrics.load("a.json", BAD, run_id="elsewhere")
    watch.tick()
    for name in ("b.json", "c.json"):
        metrics.land_key(name, BAD)
    metrics.run(run_id="elsewhere")
    let_claims_age(metrics, timedelta(seconds=metrics.settings.run_seconds - 60))
    watch.tick()
    assert slack.texts == [], "it may claim another batch still"
    let_claims_age(metrics, timedelta(seconds=metrics.settings.run_seconds + 60))
    for _ in range(2):
        watch.tick()
    [text] = slack.texts
    assert "3 loads errored" in text
    assert "• claimed by elsewhere, which is no run of this Dagster\n" in text
    assert text.endswith("<https://dagster.example/automation|Dagster>"), "a link to its run would lead nowhere"


def test_a_run_of_another_dagster_home_that_tells_of_itself_tells_of_all(metrics: Metrics, slack: Slack, watch: Watch) -> None:
    metrics.load("a.json", BAD, run_id="elsewhere")
    watch.tick()
    metrics.load("b.json", BAD, run_id="elsewhere")
    alert_of(metrics, "elsewhere")
    let_claims_age(metrics, timedelta(days=1) - timedelta(minutes=1))
    watch.tick()
    [text] = slack.texts
    assert "2 loads errored" in text


def let_claims_age(metrics: Metrics, age: timedelta) -> None:
    metrics.query("UPDATE ledger.loads SET claimed_at = now() - %s", [age])


@pytest.fixture
def refuse(metrics: Metrics) -> Callable[[Taker, Iterable[int]], None]:
    """Takes bad records of these numbers."""
    with metrics.database.connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)

    def take(taker: Taker, numbers: Iterable[int]) -> None:
        records = [Record("shardId-000000000000", str(number), b"{", datetime.now(UTC)) for number in numbers]
        with metrics.database.connect() as connection:
            assert taker(connection, records) == len(records)

    return take


Refuse = Callable[[Taker, Iterable[int]], None]


def taker_of(metrics: Metrics) -> Taker:
    return Taker(zone(metrics.settings), Stream.of("metric-files"))


def test_bad_records_of_one_drain_are_one_alert_with_no_link_to_a_run(metrics: Metrics, slack: Slack, watch: Watch, refuse: Refuse) -> None:
    first, second = taker_of(metrics), taker_of(metrics)
    refuse(first, range(30))
    refuse(first, range(30, 50))
    for _ in range(2):
        watch.tick()
    [text] = slack.texts
    assert text.startswith("*[staging] metrics: 50 loads errored*\n")
    assert f"• claimed by {first.run_id}, which is no run of this Dagster\n" in text
    assert text.endswith("<https://dagster.example/automation|Dagster>")
    refuse(second, range(50, 53))
    watch.tick()
    assert ["3 loads errored" in text for text in slack.texts] == [False, True]
    with metrics.database.connect() as connection:
        alert = notifications.errored_loads(connection, metrics.settings, PIPELINE, second.run_id)
    assert alert is not None
    assert (alert.run_id, alert.link) == (None, "https://dagster.example/automation")


def test_a_drain_is_told_of_when_it_has_ended(metrics: Metrics, slack: Slack, watch: Watch, refuse: Refuse) -> None:
    taker = taker_of(metrics)
    with metrics.database.connect() as connection, whereabouts.at_work(connection, taker.run_id):
        refuse(taker, [1])
        watch.tick()
        assert slack.texts == []
        refuse(taker, [2])
    watch.tick()
    [text] = slack.texts
    assert "2 loads errored" in text


def test_a_drain_that_died_is_told_of(metrics: Metrics, slack: Slack, watch: Watch, refuse: Refuse) -> None:
    taker = taker_of(metrics)
    with metrics.database.connect() as connection, whereabouts.at_work(connection, taker.run_id):
        refuse(taker, [1])
        connection.close()
    watch.tick()
    assert len(slack.texts) == 1


def test_what_errored_long_ago_is_not_dug_up(metrics: Metrics, slack: Slack, watch: Watch) -> None:
    metrics.load("a.json", BAD, run_id="old")
    metrics.query("UPDATE ledger.loads SET claimed_at = now() - interval '2 days'")
    watch.tick()
    assert slack.texts == []


# Failed runs


@dg.op
def quoting(context: dg.OpExecutionContext) -> None:
    raise ValueError(f"DETAIL: row contains {WORD}")


@dg.op
def chained(context: dg.OpExecutionContext) -> None:
    try:
        raise KeyError(WORD)
    except KeyError as error:
        raise ValueError(WORD) from error


@dg.op
def mistaken(context: dg.OpExecutionContext) -> None:
    with no_retry_of_mistakes():
        raise ConfigurationError("INGESTION_STORAGE_URL names no bucket\nand more")


@dg.op
def unlucky(context: dg.OpExecutionContext) -> None:
    raise Transient("store_unavailable", "the store does not answer")


def run_of(op: dg.OpDefinition, instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
    @dg.job(name="metrics_load")
    def job() -> None:
        op()

    return job.execute_in_process(instance=instance, raise_on_error=False, tags={PIPELINE_TAG: PIPELINE} if tags is None else tags)


def told_of(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
    """The failure sensor, as Dagster calls it for one failed run."""
    context = dg.build_run_status_sensor_context(
        sensor_name=failure_sensor.name,
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        resources={"ingestion": INGESTION},
    ).for_run_failure()
    failure_sensor(context)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (quoting, "• ValueError\n"),
        (chained, "• KeyError\n"),
        (mistaken, "• INGESTION_STORAGE_URL names no bucket\n"),
        (unlucky, "• Transient: store_unavailable: the store does not answer\n"),
    ],
    ids=lambda value: value.name if isinstance(value, dg.OpDefinition) else "",
)
def test_a_failed_run_is_told_once_with_a_reason_that_quotes_no_record(
    metrics: Metrics, slack: Slack, watch: Watch, instance: dg.DagsterInstance, op: dg.OpDefinition, reason: str
) -> None:
    result = run_of(op, instance)
    told_of(result, instance)
    told_of(result, instance)
    watch.tick()
    [text] = slack.texts
    assert text.startswith("*[staging] metrics: a run failed*\n")
    assert reason in text
    assert text.endswith(f"<https://dagster.example/runs/{result.run_id}|Run {result.run_id[:8]}>")
    assert WORD not in text
    assert WORD not in str(metrics.query("SELECT content FROM ledger.alerts"))


def test_a_failed_run_names_the_datasets_it_had_in_hand(metrics: Metrics, slack: Slack, instance: dg.DagsterInstance) -> None:
    result = run_of(quoting, instance)
    metrics.land(a=GOOD, b=BAD)
    metrics.run(run_id=result.run_id)
    told_of(result, instance)
    assert "• deaths: 1 of 2 loads errored" in slack.texts[0]


def test_a_run_that_is_retried_is_told_of_run_by_run(metrics: Metrics, slack: Slack, instance: dg.DagsterInstance) -> None:
    first, second = run_of(unlucky, instance), run_of(unlucky, instance)
    told_of(first, instance)
    told_of(second, instance)
    assert [first.run_id in slack.texts[0], second.run_id in slack.texts[1]] == [True, True]


def test_a_run_of_another_pipeline_is_not_told_of(metrics: Metrics, slack: Slack, instance: dg.DagsterInstance) -> None:
    told_of(run_of(quoting, instance, {PIPELINE_TAG: "parcels"}), instance)
    told_of(run_of(quoting, instance, {}), instance)
    assert slack.texts == []


def test_a_run_materialized_from_the_ui_is_known_by_its_assets(instance: dg.DagsterInstance) -> None:
    def run(*paths: list[str], **tags: str) -> dg.DagsterRun:
        return create_run_for_test(instance, job_name="__ASSET_JOB", asset_selection=frozenset(map(dg.AssetKey, paths)), tags=tags)

    assert owner_of(run(["metrics", "cases"]), PIPELINES) == PIPELINE
    assert owner_of(run(["parcels", "boxes"]), PIPELINES) is None
    assert owner_of(run(["metrics_of_others", "cases"]), PIPELINES) is None
    assert owner_of(run(["metrics", "cases"], **{PIPELINE_TAG: "parcels"}), PIPELINES) is None


def test_a_failed_run_that_the_failure_sensor_missed_is_told_by_the_watch(
    metrics: Metrics, slack: Slack, watch: Watch, instance: dg.DagsterInstance
) -> None:
    """Dagster moves the failure sensor's cursor on even if it fails, and sets it behind what failed before the first tick."""
    result = run_of(unlucky, instance)
    run_of(unlucky, instance, {PIPELINE_TAG: "parcels"})
    watch.tick()
    watch.tick()
    [text] = slack.texts
    assert result.run_id in text


def test_the_failure_sensor_under_dagsters_own_loop(metrics: Metrics, slack: Slack, instance: dg.DagsterInstance) -> None:
    repository = dg.Definitions(sensors=[failure_sensor], resources={"ingestion": INGESTION}).get_repository_def()

    def tick(cursor: str | None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=failure_sensor.name
        )
        context._repository_name = None  # runs of this process have none either
        return failure_sensor.evaluate_tick(context)

    cursor = tick(None).cursor
    result = run_of(quoting, instance)
    done = tick(cursor)
    assert [reaction.error for reaction in done.dagster_run_reactions] == [None]
    assert result.run_id in slack.texts[0]
    assert tick(done.cursor).dagster_run_reactions == []
    assert len(slack.texts) == 1


def test_a_failed_run_is_told_of_in_whatever_code_location_its_job_is(metrics: Metrics, slack: Slack, instance: dg.DagsterInstance) -> None:
    repository = dg.Definitions(sensors=[FAILURE], resources={"ingestion": INGESTION}).get_repository_def()
    cursor = None
    for told in (False, True):
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository, resources={"ingestion": INGESTION}, sensor_name=FAILURE.name
        )
        cursor = FAILURE.evaluate_tick(context).cursor
        assert bool(slack.texts) is told
        if not told:
            for location, tag in (("cubic", "cubic"), ("operations", "operations"), ("of others", "parcels")):
                origin = RemoteJobOrigin(repository_origin(location), "a_job")
                run = create_run_for_test(
                    instance, job_name="a_job", status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: tag}, remote_job_origin=origin
                )
                instance.report_run_failed(run, "the machine is gone")
    assert [text.partition(": a run failed")[0] for text in slack.texts] == ["*[staging] cubic", "*[staging] operations"]


# Sensors


class Daemon:
    """What the daemon would note of a sensor: its state, and its ticks, a minute apart."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.clock = datetime.now(UTC) - timedelta(hours=1)

    def state(
        self,
        name: str,
        *,
        status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
        location: str = "ingestion",
        last_tick: timedelta = timedelta(0),
        switched_on: timedelta = timedelta(days=9),
    ) -> InstigatorState:
        now = datetime.now(UTC)
        state = InstigatorState(
            RemoteInstigatorOrigin(repository_origin(location), name),
            InstigatorType.SENSOR,
            status,
            SensorInstigatorData(
                last_tick_start_timestamp=(now - last_tick).timestamp(),
                last_sensor_start_timestamp=(now - switched_on).timestamp(),
                min_interval=20,
            ),
        )
        self.instance.add_instigator_state(state)
        return state

    def ticks(self, state: InstigatorState, statuses: str, error: BaseException | None = None) -> None:
        """Add ticks, oldest first: `.` skipped, `s` asked for a run, `f` failed, `t` under way."""
        kinds = {".": TickStatus.SKIPPED, "s": TickStatus.SUCCESS, "f": TickStatus.FAILURE, "t": TickStatus.STARTED}
        error = error or ConnectionError("x")
        name = f"{type(error).__module__}.{type(error).__name__}"
        cause = SerializableErrorInfo(f"{name}: {error}\n", [], type(error).__name__)
        info = SerializableErrorInfo("dagster's own error\n", [], "SensorExecutionError", cause=cause)
        for kind in statuses:
            self.clock += timedelta(minutes=1)
            data = TickData(
                state.instigator_origin_id,
                state.instigator_name,
                InstigatorType.SENSOR,
                kinds[kind],
                self.clock.timestamp(),
                selector_id=state.selector_id,
                run_ids=["a run"] if kind == "s" else None,
                error=info if kind == "f" else None,
            )
            self.instance.create_tick(data)


@pytest.fixture
def daemon(instance: dg.DagsterInstance) -> Daemon:
    return Daemon(instance)


def test_a_sensor_that_fails_three_times_in_a_row_is_told_once(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    state = daemon.state("metrics_s3_sensor")
    daemon.ticks(state, ".s.fff", ConfigurationError(f"INGESTION_STORAGE_URL is wrong\n{WORD}"))
    reason = watch.tick()
    daemon.ticks(state, "f", ValueError(WORD))
    watch.tick()
    [text] = slack.texts
    assert "[staging] metrics: metrics_s3_sensor fails" in text
    assert "ConfigurationError: INGESTION_STORAGE_URL is wrong" in text
    assert WORD not in text
    assert reason.endswith("; metrics_s3_sensor fails")


def test_a_foreign_exception_of_a_tick_is_told_by_its_type_alone(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    daemon.ticks(daemon.state("metrics_s3_sensor"), "fff", ValueError(WORD))
    watch.tick()
    [text] = slack.texts
    assert "no tick has succeeded ever; the last failed for: ValueError" in text
    assert WORD not in text


def test_a_new_streak_of_failures_is_told_anew(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    state = daemon.state("metrics_s3_sensor")
    daemon.ticks(state, "fff")
    watch.tick()
    daemon.ticks(state, ".")
    watch.tick()
    daemon.ticks(state, "ffft")
    watch.tick()
    watch.tick()
    assert len(slack.texts) == 2


@pytest.mark.parametrize("ticks", ["ff", "ff.", "f.f.f", "fff.t", "ff.ff", "", "..."])
def test_a_tick_that_fails_now_and_then_is_nothing_to_tell(watch: Watch, daemon: Daemon, slack: Slack, ticks: str) -> None:
    daemon.ticks(daemon.state("metrics_s3_sensor"), ticks)
    assert watch.tick().endswith("; sensors tick and loads are taken")
    assert slack.texts == []


def test_sensors_of_others_and_those_switched_off_are_not_watched(
    watch: Watch, daemon: Daemon, slack: Slack, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = timedelta(days=1)
    daemon.ticks(daemon.state("cubic_s3_sensor", last_tick=long_ago), "fff")
    daemon.ticks(daemon.state("metrics_s3_sensor", last_tick=long_ago, status=InstigatorStatus.STOPPED), "fff")
    watch.tick()
    watch.tick()
    assert slack.texts == []
    daemon.ticks(daemon.state("metrics_sweep_sensor", last_tick=long_ago), "fff")
    monkeypatch.setenv("INGESTION_SENSORS", "stopped")
    watch.tick()
    assert slack.texts == [], "once on by default, and passed over by Dagster now"
    monkeypatch.setenv("INGESTION_SENSORS", "running")
    watch.tick()
    assert len(slack.texts) == 1


def test_a_sensor_is_watched_in_whatever_code_location_it_ticks(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    """Also in one that loads no more: then nobody there could tell."""
    daemon.state("metrics_s3_sensor", location="metrics", last_tick=timedelta(hours=1))
    watch.tick()
    assert watch.tick().endswith("; metrics_s3_sensor does not tick")
    assert len(slack.texts) == 1


def test_a_sensor_that_has_moved_to_another_code_location_is_watched_there_alone(
    watch: Watch, daemon: Daemon, instance: dg.DagsterInstance, slack: Slack
) -> None:
    here = daemon.state("metrics_s3_sensor", location="metrics")
    for location, age in (("ingestion", 1), ("a branch deployment", 2)):
        daemon.ticks(
            daemon.state("metrics_s3_sensor", location=location, last_tick=timedelta(days=age), switched_on=timedelta(days=3)), "fff"
        )
    for _ in range(2):
        assert watch.tick().endswith("; sensors tick and loads are taken")
    assert slack.texts == []
    assert [state.selector_id for state in watching.sensors_of(instance, WATCHED)] == [here.selector_id]


def test_a_sensor_that_is_off_by_a_setting_of_its_own_is_not_watched(
    metrics: Metrics, instance: dg.DagsterInstance, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream was unset: the sensor, on by default before, is passed over by Dagster and ticks no more."""
    daemon.ticks(daemon.state("metrics_kinesis_sensor", last_tick=timedelta(hours=1)), "fff")
    watch = Watch(instance, WATCH)
    assert watch.tick().endswith("; sensors tick and loads are taken")
    monkeypatch.setenv("INGESTION_METRICS_KINESIS_STREAM", "metric-files")
    assert watch.tick().endswith("; metrics_kinesis_sensor fails; metrics_kinesis_sensor does not tick")


def test_a_sensor_that_stands_still_is_told_once_the_second_tick_sees_it_too(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    daemon.state("metrics_sweep_sensor", last_tick=timedelta(hours=1))
    assert watch.tick().endswith("; metrics_sweep_sensor does not tick")
    assert slack.texts == [], "the daemon may have been started this second"
    for _ in range(3):
        watch.tick()
    [text] = slack.texts
    assert "metrics_sweep_sensor does not tick" in text
    assert "should tick every 20 s" in text


def test_a_sensor_is_given_time_after_it_was_switched_on(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    daemon.state("metrics_s3_sensor", last_tick=timedelta(days=3), switched_on=timedelta(minutes=1))
    daemon.state("metrics_sweep_sensor", last_tick=timedelta(minutes=4))
    watch.tick()
    assert watch.tick().endswith("; sensors tick and loads are taken")
    assert slack.texts == []


def test_a_sweep_that_ticks_and_never_comes_to_its_end_is_told_once_a_silence(
    metrics: Metrics, instance: dg.DagsterInstance, daemon: Daemon, slack: Slack
) -> None:
    watch = Watch(instance, WATCH)
    daemon.state("metrics_sweep_sensor")
    metrics.query("INSERT INTO ledger.heartbeats (name, at) VALUES ('metrics_sweep_sensor', now() - interval '16 minutes')")
    for _ in range(3):
        assert watch.tick().endswith("; metrics_sweep_sensor does not finish")
    [text] = slack.texts
    assert "[staging] metrics: metrics_sweep_sensor does not finish" in text
    metrics.query("UPDATE ledger.heartbeats SET at = now()")
    assert watch.tick().endswith("; sensors tick and loads are taken")


def test_a_monitor_outside_is_told_while_all_is_well_and_not_otherwise(
    metrics: Metrics, watch: Watch, daemon: Daemon, slack: Slack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = []

    def ping(settings: Settings) -> str:
        pings.append(settings.heartbeat_url)
        return "told"

    monkeypatch.setattr(heartbeat, "ping", ping)
    monkeypatch.setenv("INGESTION_HEARTBEAT_URL", "https://monitor.example/ping")
    assert watch.tick().endswith("; monitor told; sensors tick and loads are taken")
    daemon.ticks(daemon.state("metrics_s3_sensor"), "fff")
    assert watch.tick().endswith("; metrics_s3_sensor fails")
    assert len(pings) == 1
    assert metrics.query("SELECT name FROM ledger.heartbeats") == [("operations_watch_sensor",)]


# Nothing has run


@pytest.fixture
def waiting(metrics: Metrics) -> Callable[[timedelta], None]:
    """A good file, discovered so long ago."""

    def wait(age: timedelta) -> None:
        with metrics.database.connect() as connection:
            metrics.land(a=GOOD)
            zone_run = metrics.run(datasets=frozenset({"headline"}), run_id="nobody")
            assert not zone_run.total().loads_archived
            connection.execute("UPDATE ledger.loads SET discovered_at = now() - %s, run_id = NULL", [age])

    return wait


Waiting = Callable[[timedelta], None]


def test_loads_that_nobody_takes_are_told_once_a_stall(watch: Watch, slack: Slack, waiting: Waiting, metrics: Metrics) -> None:
    waiting(timedelta(minutes=61))
    assert watch.tick().endswith("; metrics: nothing has run")
    assert slack.texts == [], "a dataset may have been resumed this second"
    for _ in range(3):
        watch.tick()
    [text] = slack.texts
    assert text.startswith("*[staging] metrics: nothing has run*\n• 1 load has been waiting since ")
    assert "there never was a run" in text
    assert "daemon" in text
    metrics.run()
    assert watch.tick().endswith("; sensors tick and loads are taken")


def test_a_new_stall_is_told_anew(watch: Watch, slack: Slack, waiting: Waiting, metrics: Metrics) -> None:
    waiting(timedelta(hours=3))
    watch.tick()
    watch.tick()
    metrics.query("UPDATE ledger.loads SET discovered_at = now() - interval '2 hours'")
    watch.tick()
    watch.tick()
    assert len(slack.texts) == 2


def test_loads_within_the_limit_are_no_stall(watch: Watch, slack: Slack, waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(timedelta(minutes=59))
    assert watch.tick().endswith("; sensors tick and loads are taken")
    monkeypatch.setenv("INGESTION_METRICS_CLAIMABLE_MINUTES", "58")
    assert watch.tick().endswith("; metrics: nothing has run")


@pytest.mark.parametrize(("content", "put_back"), [(GOOD, ledger.replay), (BAD, ledger.retry)], ids=["replay", "retry"])
def test_an_old_load_that_is_put_back_has_waited_since_then(
    watch: Watch, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], put_back: Callable[..., object]
) -> None:
    metrics.load("a.json", content)
    metrics.query("UPDATE ledger.loads SET discovered_at = now() - interval '90 days', claimed_at = now() - interval '90 days'")
    with metrics.database.connect() as connection:
        put_back(connection, Scope(PIPELINE))
    assert watch.tick().endswith("; sensors tick and loads are taken")
    later = datetime.now(UTC) + timedelta(minutes=61)
    monkeypatch.setattr(sensors, "datetime", type("Later", (datetime,), {"now": staticmethod(lambda _zone: later)}))
    assert watch.tick().endswith("; metrics: nothing has run")


def test_paused_loads_are_no_stall(watch: Watch, slack: Slack, waiting: Waiting, metrics: Metrics) -> None:
    waiting(timedelta(hours=3))
    metrics.query("UPDATE ledger.loads SET dataset_id = (SELECT id FROM ledger.datasets WHERE name = 'deaths')")
    with metrics.database.connect() as connection:
        pause_dataset(connection, PIPELINE, "deaths", "under review")
    assert watch.tick().endswith("; sensors tick and loads are taken")


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.FAILURE])
def test_a_run_of_the_last_hour_is_no_stall(
    watch: Watch, slack: Slack, waiting: Waiting, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    waiting(timedelta(hours=3))
    run_of_ours(instance, status)
    assert watch.tick().endswith("; sensors tick and loads are taken")


@pytest.mark.parametrize(
    ("status", "stall"), [(dg.DagsterRunStatus.STARTED, False), (dg.DagsterRunStatus.QUEUED, True), (dg.DagsterRunStatus.SUCCESS, True)]
)
def test_a_run_that_works_since_long_is_no_stall_and_one_that_queues_since_long_is(
    watch: Watch, waiting: Waiting, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus, stall: bool
) -> None:
    waiting(timedelta(hours=3))
    run_of_ours(instance, status)
    now = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(sensors, "datetime", type("Later", (datetime,), {"now": staticmethod(lambda _zone: now)}))
    assert watch.tick().endswith("; metrics: nothing has run") is stall


# The tick itself


def test_a_tick_says_what_is_due_and_what_is_uncertain(
    watch: Watch, slack: Slack, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_ANSWER_SECONDS", 0.5)
    for run_id in ("one", "two", "three"):
        metrics.load(f"{run_id}.json", BAD | {"note": run_id}, run_id=run_id)
    let_claims_age(metrics, timedelta(hours=1))
    slack.answers = [Answer(503), Answer(silence="close")]
    assert watch.tick().startswith("3 alerts raised, 0 sent, 3 due, 0 uncertain")
    assert watch.tick().startswith("0 alerts raised, 0 sent, 2 due, 0 uncertain"), "one is under way, for all that is known"
    metrics.query("UPDATE ledger.alerts SET not_before = not_before - interval '1 hour'")
    assert watch.tick().startswith("0 alerts raised, 2 sent, 0 due, 1 uncertain")


def test_a_tick_without_channels_raises_nothing_and_says_so(
    watch: Watch, daemon: Daemon, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INGESTION_SLACK_WEBHOOK_URL")
    metrics.load("a.json", BAD, run_id="one")
    daemon.ticks(daemon.state("metrics_s3_sensor"), "fff")
    assert watch.tick() == "no channel for alerts is set; metrics_s3_sensor fails"
    assert metrics.rows("ledger.alerts") == 0


def test_an_unreadable_cursor_costs_a_tick_and_no_more(watch: Watch, daemon: Daemon, slack: Slack) -> None:
    daemon.state("metrics_sweep_sensor", last_tick=timedelta(hours=1))
    for cursor in ("not a cursor", "[]", '{"version": 99, "seen": ["x"]}', '{"version": 1}'):
        watch.cursor = cursor
        watch.tick()
    assert slack.texts == []
    watch.tick()
    assert len(slack.texts) == 1


def test_a_channel_that_is_half_configured_fails_the_tick(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_SLACK_TOKEN", "xoxb")
    with pytest.raises(Exception, match="INGESTION_SLACK_CHANNEL") as refusal:
        watch.tick()
    assert isinstance(refusal.value.__cause__ or refusal.value, ConfigurationError)


def test_the_sensors_are_on_only_where_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, status in (("running", dg.DefaultSensorStatus.RUNNING), ("stopped", dg.DefaultSensorStatus.STOPPED)):
        monkeypatch.setenv("INGESTION_SENSORS", value)
        for sensor in (sensors.failure_sensor(PIPELINES), sensors.watch_sensor(PIPELINES), sensors.sweep_sensor(METRICS)):
            assert sensor.default_status == status
            assert sensor.description
