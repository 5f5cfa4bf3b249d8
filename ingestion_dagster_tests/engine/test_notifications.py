"""The outbox of alerts and its channels, on a Slack of our own, moto's SNS and a real Postgres: nothing is lost, nothing sent twice."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

from ingestion_dagster.engine import channels, notifications
from ingestion_dagster.engine.alert import Alert, DatasetLine, mail_body, mail_subject, slack_text
from ingestion_dagster.engine.channels import Channel, SlackChannel, SlackWebhook, Topic
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.notifications import Delivery
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current

ALERT = Alert(
    key="errored:0123456789ab",
    environment="production",
    pipeline="parcels",
    title="3 loads errored",
    datasets=(DatasetLine("boxes", 12, 3, 5, (("bad_weight", 2), ("no_address", 1))),),
    run_id="0123456789ab",
    link="https://dagster.example/runs/0123456789ab",
)
SECRET = "T0P5ECR3T"  # pragma: allowlist secret


@dataclass
class Answer:
    """What Slack says to one request. `hang`: nothing, until the test is over; `close`: it hangs up."""

    status: int = 200
    body: str = "ok"
    headers: dict[str, str] = field(default_factory=dict)
    silence: str | None = None


def ok_false(error: str, status: int = 200) -> Answer:
    return Answer(status, json.dumps({"ok": False, "error": error}))


class Slack:
    """Webhooks and Web API on loopback. Answers as told, one request after the other, and then with yes."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.texts: list[str] = []
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.over = threading.Event()
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                slack.texts.append(content["text"])
                slack.requests.append((self.path, content, self.headers["Authorization"]))
                answer = slack.answers.pop(0) if slack.answers else Answer(body='{"ok": true}')
                if answer.silence == "hang":
                    slack.over.wait(30)
                if answer.silence:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def webhook(self) -> SlackWebhook:
        return SlackWebhook(f"{self.url}/services/{SECRET}")

    @property
    def channel(self) -> SlackChannel:
        return SlackChannel(f"xoxb-{SECRET}", "#alerts", f"{self.url}/api/")

    def stop(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def slack() -> Iterator[Slack]:
    made = Slack()
    yield made
    made.stop()


@dataclass
class Mailbox:
    """A topic, and a queue that is subscribed to it as a reader's mailbox is."""

    arn: str
    queue_url: str
    sqs: Any

    def read(self) -> list[dict[str, str]]:
        """What has arrived since the last look."""
        found = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def mailbox(moto_server: str, aws_environment: pytest.MonkeyPatch) -> Mailbox:
    aws_environment.setenv("AWS_ENDPOINT_URL", moto_server)
    session: Any = boto3.session.Session(region_name="eu-west-2")
    sns, sqs = session.client("sns"), session.client("sqs")
    name = f"alerts-{uuid.uuid4().hex[:8]}"
    arn = sns.create_topic(Name=name)["TopicArn"]
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)
    return Mailbox(arn, queue_url, sqs)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect() as connection:
        yield connection


def outbox(connection: Connection) -> list[tuple[str, str, str, int]]:
    """Key, channel, status and attempts, in order."""
    statement = "SELECT key, channel, status, attempts FROM ledger.alerts ORDER BY id"
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(statement)]


def seconds_to_wait(connection: Connection) -> float:
    row = connection.execute("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM ledger.alerts").fetchone()
    assert row is not None
    return float(row[0])


def let_time_pass(connection: Connection) -> None:
    connection.execute("UPDATE ledger.alerts SET not_before = not_before - interval '1 hour'")


# Which channels


def test_each_configured_channel_gets_every_alert_once(slack: Slack, mailbox: Mailbox, connection: Connection) -> None:
    settings = Settings(
        slack_webhook_url=slack.webhook.url, slack_token=f"xoxb-{SECRET}", slack_channel="#alerts", sns_topic_arn=mailbox.arn
    )
    through = channels.channels(settings, slack_api_url=f"{slack.url}/api/")
    assert notifications.raise_alert(connection, through, ALERT)
    assert notifications.deliver(connection, through) == Delivery(sent=3)
    assert notifications.deliver(connection, through) == Delivery()
    assert sorted(path for path, _, _ in slack.requests) == ["/api/chat.postMessage", f"/services/{SECRET}"]
    [(content, token)] = [(content, token) for path, content, token in slack.requests if path.startswith("/api")]
    assert (content["channel"], token) == ("#alerts", f"Bearer xoxb-{SECRET}")
    assert slack.texts == [slack_text(ALERT)] * 2
    [mail] = mailbox.read()
    assert (mail["Subject"], mail["Message"]) == (mail_subject(ALERT), mail_body(ALERT))
    assert {(channel, status) for _, channel, status, _ in outbox(connection)} == {
        ("slack_webhook", "sent"),
        ("slack_token", "sent"),
        ("sns", "sent"),
    }


def test_nothing_is_stored_where_no_channel_is_configured(connection: Connection) -> None:
    through = channels.channels(Settings())
    assert through == []
    assert not notifications.raise_alert(connection, through, ALERT)
    assert notifications.deliver(connection, through) == Delivery()
    assert outbox(connection) == []


def test_an_alert_of_one_key_is_raised_once_even_on_a_channel_that_came_later(slack: Slack, connection: Connection) -> None:
    assert notifications.raise_alert(connection, [slack.webhook], ALERT)
    assert not notifications.raise_alert(connection, [slack.webhook], replace(ALERT, title="another"))
    assert not notifications.raise_alert(connection, [slack.webhook, slack.channel], ALERT)
    assert [row[:2] for row in outbox(connection)] == [(ALERT.key, "slack_webhook")]


def test_an_alert_raised_in_a_transaction_that_is_rolled_back_was_never_raised(slack: Slack, connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        assert notifications.raise_alert(connection, [slack.webhook], ALERT)
    assert notifications.raise_alert(connection, [slack.webhook], ALERT)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"slack_token": f"xoxb-{SECRET}"}, "INGESTION_SLACK_CHANNEL"),
        ({"slack_token": f"{SECRET}\nX", "slack_channel": "#alerts"}, "INGESTION_SLACK_TOKEN"),
        ({"slack_webhook_url": f"hooks.slack.com/services/{SECRET}"}, "INGESTION_SLACK_WEBHOOK_URL"),
        ({"slack_webhook_url": f"file:///services/{SECRET}"}, "INGESTION_SLACK_WEBHOOK_URL"),
        ({"sns_topic_arn": f"alerts-{SECRET}"}, "INGESTION_SNS_TOPIC_ARN"),
        ({"sns_topic_arn": "arn:aws:sqs:eu-west-2:123456789012:name"}, "INGESTION_SNS_TOPIC_ARN"),
    ],
)
def test_a_half_configured_channel_is_refused_without_repeating_its_secret(setting: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refusal:
        channels.channels(Settings(**setting))  # type: ignore[arg-type]
    assert SECRET not in str(refusal.value)


def test_the_webhook_is_read_from_the_name_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK", "https://hooks.slack.com/services/x")
    assert channels.channels(current()) == [SlackWebhook("https://hooks.slack.com/services/x")]


# What is handed over again, and what is not

BUSY = [
    Answer(429, "rate_limited", {"Retry-After": "1200"}),
    Answer(500, "rollup_error"),
    Answer(503, "<html>"),
]


@pytest.mark.parametrize("answer", BUSY, ids=lambda answer: str(answer.status))
@pytest.mark.parametrize("kind", ["webhook", "channel"])
def test_what_a_busy_slack_has_not_taken_is_handed_over_later(slack: Slack, connection: Connection, kind: str, answer: Answer) -> None:
    through = [getattr(slack, kind)]
    slack.answers = [answer]
    notifications.raise_alert(connection, through, ALERT)
    assert notifications.deliver(connection, through) == Delivery(put_back=1)
    assert notifications.deliver(connection, through) == Delivery(), "not before its time"
    if answer.status == 429:
        assert seconds_to_wait(connection) > 1100
    let_time_pass(connection)
    assert notifications.deliver(connection, through) == Delivery(sent=1)
    assert len(slack.texts) == 2
    assert [row[2:] for row in outbox(connection)] == [("sent", 2)]


@pytest.mark.parametrize("answer", [ok_false("ratelimited", 429), ok_false("ratelimited"), ok_false("service_unavailable", 503)])
def test_slack_saying_no_for_now_is_not_slack_saying_no(
    slack: Slack, connection: Connection, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    slack.answers = [answer]
    notifications.raise_alert(connection, [slack.channel], ALERT)
    assert notifications.deliver(connection, [slack.channel]) == Delivery(put_back=1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert seconds_to_wait(connection) < 60


REFUSALS = [
    ("webhook", Answer(403, "invalid_token"), "INGESTION_SLACK_WEBHOOK_URL"),
    ("webhook", Answer(404, "no_service"), "INGESTION_SLACK_WEBHOOK_URL"),
    ("webhook", Answer(410, "channel_is_archived"), "INGESTION_SLACK_WEBHOOK_URL"),
    ("channel", ok_false("invalid_auth"), "INGESTION_SLACK_TOKEN"),
    ("channel", ok_false("channel_not_found"), "INGESTION_SLACK_CHANNEL"),
    ("channel", ok_false("not_in_channel"), "invite the bot"),
]


@pytest.mark.parametrize(("kind", "answer", "says"), REFUSALS)
def test_what_slack_refuses_is_kept_and_the_log_says_what_to_fix(
    slack: Slack, connection: Connection, caplog: pytest.LogCaptureFixture, kind: str, answer: Answer, says: str
) -> None:
    through = [getattr(slack, kind)]
    notifications.raise_alert(connection, through, ALERT)
    for _ in range(3):
        slack.answers = [answer]
        assert notifications.deliver(connection, through) == Delivery(put_back=1)
        assert seconds_to_wait(connection) > 400
        let_time_pass(connection)
    assert all(says in record.getMessage() and record.levelno == logging.ERROR for record in caplog.records)
    assert notifications.deliver(connection, through) == Delivery(sent=1), "once it is put right, what was kept is sent"


def test_a_connection_that_was_never_made_costs_nothing(connection: Connection) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    nowhere = f"http://127.0.0.1:{port}/"
    reached_by: dict[str, Channel] = {"a": SlackWebhook(nowhere), "b": SlackChannel("xoxb", "#alerts", nowhere)}
    for key, channel in reached_by.items():
        notifications.raise_alert(connection, [channel], replace(ALERT, key=key))
        assert notifications.deliver(connection, [channel]) == Delivery(put_back=1)
    assert {row[2] for row in outbox(connection)} == {"due"}


IN_DOUBT = [
    Answer(silence="hang"),
    Answer(silence="close"),
    Answer(502, "Bad Gateway"),
    Answer(504, "Gateway Timeout"),
]


@pytest.mark.parametrize("answer", IN_DOUBT, ids=lambda answer: answer.silence or str(answer.status))
@pytest.mark.parametrize("kind", ["webhook", "channel"])
def test_what_slack_may_have_taken_is_never_handed_over_again(
    slack: Slack, connection: Connection, monkeypatch: pytest.MonkeyPatch, kind: str, answer: Answer
) -> None:
    monkeypatch.setattr(channels, "_ANSWER_SECONDS", 0.5)
    through = [getattr(slack, kind)]
    slack.answers = [answer]
    notifications.raise_alert(connection, through, ALERT)
    assert notifications.deliver(connection, through) == Delivery(in_doubt=1)
    assert notifications.uncertain(connection) == [], "it may be under way still"
    let_time_pass(connection)
    assert notifications.deliver(connection, through) == Delivery()
    assert not notifications.raise_alert(connection, through, ALERT)
    assert len(slack.texts) == 1
    [shown] = notifications.uncertain(connection)
    assert (shown.key, shown.channel) == (ALERT.key, through[0].name)


@pytest.mark.parametrize(
    "answer",
    [ok_false("internal_error"), ok_false("fatal_error"), Answer(200, "<html>not json"), Answer(200, "[1]"), Answer(200, "null")],
)
def test_an_answer_that_says_neither_yes_nor_no_leaves_the_alert_in_doubt(slack: Slack, connection: Connection, answer: Answer) -> None:
    slack.answers = [answer]
    notifications.raise_alert(connection, [slack.channel], ALERT)
    assert notifications.deliver(connection, [slack.channel]) == Delivery(in_doubt=1)


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "Text/HTML", "application/xhtml+xml"])
def test_a_page_for_browsers_is_no_yes_of_a_webhook(
    slack: Slack, connection: Connection, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A login page or a captive portal, which answers 200 to anything."""
    slack.answers = [Answer(200, f"<html>{SECRET}</html>", {"Content-Type": kind})]
    notifications.raise_alert(connection, [slack.webhook], ALERT)
    assert notifications.deliver(connection, [slack.webhook]) == Delivery(in_doubt=1)
    assert "INGESTION_SLACK_WEBHOOK_URL" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "ok", {"Content-Type": "text/plain"}),
        Answer(200, "OK"),
        Answer(201, "{}", {"Content-Type": "application/json"}),
        Answer(202, ""),
    ],
)
def test_servers_with_webhooks_like_slacks_each_have_a_yes_of_their_own(slack: Slack, connection: Connection, answer: Answer) -> None:
    slack.answers = [answer]
    notifications.raise_alert(connection, [slack.webhook], ALERT)
    assert notifications.deliver(connection, [slack.webhook]) == Delivery(sent=1)


def test_the_wait_grows_with_each_attempt_to_a_quarter_of_an_hour(slack: Slack, connection: Connection) -> None:
    notifications.raise_alert(connection, [slack.webhook], ALERT)
    waits = []
    for _ in range(12):
        slack.answers = [Answer(500, "")]
        notifications.deliver(connection, [slack.webhook])
        waits.append(seconds_to_wait(connection))
        let_time_pass(connection)
    assert waits[0] <= 30
    assert waits[2] > waits[0]
    assert all(440 < wait <= 900 for wait in waits[6:])


def test_a_channel_that_does_not_take_one_alert_holds_up_no_other_channel(slack: Slack, mailbox: Mailbox, connection: Connection) -> None:
    through: list[Channel] = [slack.webhook, Topic(mailbox.arn)]
    for number in range(3):
        notifications.raise_alert(connection, through, replace(ALERT, key=f"errored:{number}"))
    slack.answers = [Answer(503)]
    assert notifications.deliver(connection, through) == Delivery(sent=3, put_back=1)
    assert len(slack.texts) == 1, "a channel that is down is not asked for every alert"
    assert len(mailbox.read()) == 3
    assert notifications.deliver(connection, through) == Delivery(sent=2), "and the one put back does not hold up the others"


def test_a_hand_over_is_refused_inside_a_transaction(slack: Slack, connection: Connection) -> None:
    notifications.raise_alert(connection, [slack.webhook], ALERT)
    with pytest.raises(AssertionError), connection.transaction():
        notifications.deliver(connection, [slack.webhook])
    assert slack.texts == []


def test_secrets_and_what_others_answer_stay_out_of_logs(
    slack: Slack, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(channels, "_ANSWER_SECONDS", 0.5)
    for answer in (Answer(404, f"no such thing: {SECRET}"), ok_false(f"what {SECRET}?"), Answer(silence="close"), Answer(307, SECRET)):
        for channel in (slack.webhook, slack.channel):
            slack.answers = [answer]
            notifications.raise_alert(connection, [channel], replace(ALERT, key=uuid.uuid4().hex))
            notifications.deliver(connection, [channel])
    assert caplog.records
    assert SECRET not in caplog.text


# SNS


def test_a_topic_that_is_not_there_is_said_and_the_alert_kept(
    mailbox: Mailbox, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topic("arn:aws:sns:eu-west-2:123456789012:nobody")
    notifications.raise_alert(connection, [topic], ALERT)
    assert notifications.deliver(connection, [topic]) == Delivery(put_back=1)
    assert "404 NotFound" in caplog.text
    assert "INGESTION_SNS_TOPIC_ARN" in caplog.text


def test_sns_out_of_reach_or_without_credentials_is_asked_again(
    mailbox: Mailbox, connection: Connection, aws_environment: pytest.MonkeyPatch
) -> None:
    topic = Topic(mailbox.arn)
    notifications.raise_alert(connection, [topic], ALERT)
    with aws_environment.context() as changed:
        changed.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert notifications.deliver(connection, [topic]) == Delivery(put_back=1)
    let_time_pass(connection)
    with aws_environment.context() as changed:
        changed.delenv("AWS_ACCESS_KEY_ID")
        changed.delenv("AWS_SECRET_ACCESS_KEY")
        assert notifications.deliver(connection, [topic]) == Delivery(put_back=1)
    let_time_pass(connection)
    assert notifications.deliver(connection, [topic]) == Delivery(sent=1)
    assert len(mailbox.read()) == 1


@pytest.mark.parametrize("answer", [Answer(silence="hang"), Answer(silence="close")], ids=lambda answer: answer.silence)
def test_sns_that_does_not_answer_leaves_the_alert_in_doubt(
    connection: Connection, aws_environment: pytest.MonkeyPatch, answer: Answer
) -> None:
    aws_environment.setattr(channels, "_ANSWER_SECONDS", 0.5)
    silent = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve() -> None:
        peer, _ = silent.accept()
        peer.recv(65536)
        if answer.silence == "close":
            peer.close()
        accepted.append(peer)

    server = threading.Thread(target=serve)
    server.start()
    aws_environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
    topic = Topic("arn:aws:sns:eu-west-2:123456789012:alerts")
    notifications.raise_alert(connection, [topic], ALERT)
    try:
        assert notifications.deliver(connection, [topic]) == Delivery(in_doubt=1)
    finally:
        silent.close()
        server.join()
        accepted[0].close()
    assert [row[2:] for row in outbox(connection)] == [("sending", 1)]


# Death and company

DELIVER = """
from ingestion_dagster.engine import channels, notifications, postgres
from ingestion_dagster.settings import current

through = channels.channels(current(), slack_api_url={slack_api_url!r})
with postgres.locate(current()).connect() as connection:
    notifications.deliver(connection, through)
"""

KILLED_AT = [
    f"alert.{channel}.{when}" for channel in ("slack_webhook", "slack_token", "sns") for when in ("before_send", "after_send", "after_mark")
]
"""Every fault point of the module."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(settings: Settings, slack: Slack, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A process that delivers what is due; `fault` is where it is to be killed."""
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", slack.webhook.url)
    monkeypatch.setenv("INGESTION_SLACK_TOKEN", slack.channel.token)
    monkeypatch.setenv("INGESTION_SLACK_CHANNEL", slack.channel.channel)
    monkeypatch.setenv("INGESTION_SNS_TOPIC_ARN", mailbox.arn)

    def started(fault: str | None = None) -> "subprocess.Popen[str]":
        with monkeypatch.context() as environment:
            if fault:
                environment.setenv("INGESTION_TEST_FAULT", fault)
            script = DELIVER.format(slack_api_url=slack.channel.api_url)
            return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)

    return started


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_process_that_dies_has_sent_nothing_that_another_sends_again(
    point: str, start: Start, slack: Slack, mailbox: Mailbox, connection: Connection
) -> None:
    _, channel, when = point.split(".")
    [through] = [found for found in channels.channels(current(), slack_api_url=slack.channel.api_url) if found.name == channel]
    notifications.raise_alert(connection, [through], ALERT)
    process = start(point)
    complaint = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, complaint
    left = "sent" if when == "after_mark" else "sending"
    assert [row[1:] for row in outbox(connection)] == [(channel, left, 1)]
    let_time_pass(connection)
    assert notifications.deliver(connection, [through]) == Delivery()
    assert len(slack.texts) + len(mailbox.read()) == (0 if when == "before_send" else 1)
    assert [found.channel for found in notifications.uncertain(connection)] == ([channel] if left == "sending" else [])


def test_two_that_deliver_at_once_send_everything_once(start: Start, slack: Slack, mailbox: Mailbox, connection: Connection) -> None:
    through = channels.channels(current(), slack_api_url=slack.channel.api_url)
    keys = [f"errored:{number}" for number in range(15)]
    for key in keys:
        notifications.raise_alert(connection, through, replace(ALERT, key=key, title=key))
    processes = [start(), start()]
    for process in processes:
        complaint = process.communicate(timeout=60)[1]
        assert process.returncode == 0, complaint
    expected = sorted(slack_text(replace(ALERT, title=key)) for key in keys)
    by_path = {path: sorted(content["text"] for at, content, _ in slack.requests if at == path) for path, _, _ in slack.requests}
    assert by_path == {"/api/chat.postMessage": expected, f"/services/{SECRET}": expected}
    assert sorted(mail["Subject"] for mail in mailbox.read()) == sorted(f"[production] parcels: {key}" for key in keys)
    assert {row[2:] for row in outbox(connection)} == {("sent", 1)}


def test_two_that_raise_at_once_raise_one_alert(slack: Slack, database: Database, connection: Connection) -> None:
    with database.connect() as other, other.transaction():
        assert notifications.raise_alert(other, [slack.webhook], ALERT)
        raised: list[bool] = []
        rival = threading.Thread(target=lambda: raised.append(notifications.raise_alert(connection, [slack.webhook], ALERT)))
        rival.start()
    rival.join(30)
    assert raised == [False]
    assert len(outbox(connection)) == 1


# What people read


def test_an_alert_names_environment_pipeline_datasets_counts_codes_and_the_run() -> None:
    for text in (slack_text(ALERT), mail_body(ALERT)):
        for word in (
            "production",
            "parcels",
            "3 loads errored",
            "boxes: 3 of 12 loads errored, 5 rows rejected",
            "bad_weight 2",
            ALERT.link,
        ):
            assert str(word) in text


def test_slack_reads_no_mention_or_link_in_what_an_alert_says() -> None:
    alert = replace(ALERT, title="a & b <!channel>", details=("<https://evil.example|click>",), link="https://dagster.example/?a=1&b=<|>")
    text = slack_text(alert)
    assert "a &amp; b &lt;!channel&gt;" in text
    assert "&lt;https://evil.example|click&gt;" in text
    assert text.endswith("<https://dagster.example/?a=1&amp;b=&lt;%7C&gt;|Run 01234567>")


def test_a_subject_is_one_line_of_ascii_of_at_most_100_characters(mailbox: Mailbox, connection: Connection) -> None:
    topic = Topic(mailbox.arn)
    for number, title in enumerate(("naïve\ncafé\t– 7 °C", "x" * 300, "€" * 100)):
        alert = replace(ALERT, key=str(number), title=title)
        notifications.raise_alert(connection, [topic], alert)
        assert notifications.deliver(connection, [topic]) == Delivery(sent=1)
        [mail] = mailbox.read()
        assert mail["Subject"].isascii()
        assert mail["Subject"].isprintable()
        assert len(mail["Subject"]) <= 100
        assert title in mail["Message"], "the body says it in full"


def test_an_alert_about_very_much_stays_short() -> None:
    lines = tuple(DatasetLine(f"dataset_{n}", 9, 9, 0, tuple((f"code_{m}", 1) for m in range(9))) for n in range(500))
    text = slack_text(replace(ALERT, datasets=lines))
    assert "and 480 more datasets" in text
    assert "4 more codes" in text
    assert len(text) < 4000


def test_what_comes_out_of_the_outbox_is_what_went_in(slack: Slack, connection: Connection) -> None:
    notifications.raise_alert(connection, [slack.webhook], ALERT)
    [(content,)] = connection.execute("SELECT content FROM ledger.alerts").fetchall()
    assert Alert.from_content(content) == ALERT
