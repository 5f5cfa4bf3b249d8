"""Alerts to people, by Slack and by SNS e-mail: an outbox from which each alert is handed to each channel at most once.

What a channel did not take (it could not be reached, was busy, or refused) is handed over again later, for as long as it takes.
What it may have taken (it did not answer, or this process died meanwhile) is not: it stays `sending`, for a person to look at.
Alerts hold counts, codes and names of ours, never a value of a record.
"""

import http.client
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol
from urllib.error import URLError

from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

SLACK_API_URL = "https://slack.com/api/"
DELIVERY_SECONDS = 20.0
"""One pass of `deliver` hands nothing more over after this long."""

_ANSWER_SECONDS = 10
_MOST_LINES = 20
_MOST_CODES = 5
_SUBJECT_LENGTH = 100
_IN_DOUBT_AFTER = timedelta(minutes=1)
_LATER = frozenset(
    {"ratelimited", "rate_limited", "service_unavailable", "request_timeout", "team_added_to_org", "Throttling", "Throttled"}
)
_EITHER_WAY = frozenset({"fatal_error", "internal_error"})
"""Of these Slack says that part of the request may have been carried out."""

# slack_sdk writes the webhook's address, which is a secret, to its log.
_SILENT = logging.Logger("slack_sdk", logging.CRITICAL + 1)  # noqa: LOG001 - not to be found, and configured, by its name

RAISE = """
INSERT INTO ledger.alerts (key, channel, content)
SELECT %(key)s, channel, %(content)s FROM unnest(%(channels)s::text[]) AS channel
WHERE NOT EXISTS (SELECT FROM ledger.alerts WHERE key = %(key)s)
ON CONFLICT (key, channel) DO NOTHING
RETURNING id
"""

TAKE = """
UPDATE ledger.alerts SET status = 'sending', attempts = attempts + 1, not_before = clock_timestamp()
WHERE id = (
    SELECT id FROM ledger.alerts
    WHERE status = 'due' AND not_before <= clock_timestamp() AND channel = ANY(%(channels)s)
    ORDER BY not_before, id LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING id, channel, content
"""

PUT_BACK = """
UPDATE ledger.alerts
SET status = 'due',
    not_before = clock_timestamp() + make_interval(secs => greatest(
        %(at_least)s::float8,
        (0.5 + random() / 2) * CASE WHEN %(permanent)s THEN 900 ELSE least(900, 30 * 2 ^ (least(attempts, 10) - 1)) END))
WHERE id = %(id)s AND status = 'sending'
"""

SENT = "UPDATE ledger.alerts SET status = 'sent', sent_at = clock_timestamp() WHERE id = %(id)s AND status = 'sending'"

UNCERTAIN = """
SELECT id, key, channel, not_before FROM ledger.alerts
WHERE status = 'sending' AND not_before < clock_timestamp() - %(age)s ORDER BY id
"""

RAISED = "SELECT DISTINCT key FROM ledger.alerts WHERE key = ANY(%(keys)s)"

DUE = "SELECT count(*) FROM ledger.alerts WHERE status = 'due'"

OF_RUN = """
SELECT dataset, code, count(*), count(*) FILTER (WHERE errored), sum(rows_rejected)
FROM (
    SELECT coalesce(d.name, 'unknown') AS dataset, l.rows_rejected, l.status IN ('ready_for_erroring', 'erroring', 'errored') AS errored,
           CASE WHEN l.rows_rejected > 0 OR l.status IN ('ready_for_erroring', 'erroring', 'errored') THEN l.error_code END AS code
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE l.pipeline = %(pipeline)s AND l.run_id = %(run_id)s) AS of_run
GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
"""

# By the time of the claim, which the finish of a move that is repeated years later does not change.
UNREPORTED = """
SELECT DISTINCT l.run_id
FROM ledger.loads AS l
WHERE l.pipeline = %(pipeline)s AND l.claimed_at > now() - interval '1 day'
  AND (l.status IN ('ready_for_erroring', 'erroring', 'errored') OR l.rows_rejected > 0)
  AND NOT EXISTS (SELECT FROM ledger.alerts AS a WHERE a.key = 'errored:' || l.run_id)
  AND NOT EXISTS (SELECT FROM ledger.loads AS held WHERE held.run_id = l.run_id AND held.status = 'ingesting')
ORDER BY 1 LIMIT 20
"""


@dataclass(frozen=True, slots=True)
class DatasetLine:
    """One dataset in an alert: the loads of the run, how many of them errored, rows rejected, and loads by error code."""

    dataset: str
    loads: int = 0
    errored: int = 0
    rows_rejected: int = 0
    codes: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        counts = [f"{self.errored} of {_counted(self.loads, 'load')} errored"]
        if self.rows_rejected:
            counts.append(f"{_counted(self.rows_rejected, 'row')} rejected")
        codes = [f"{code} {count}" for code, count in self.codes[:_MOST_CODES]]
        codes += [f"{len(self.codes) - _MOST_CODES} more codes"] if len(self.codes) > _MOST_CODES else []
        return f"{self.dataset}: {', '.join(counts)}" + (f" ({', '.join(codes)})" if codes else "")


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are told. `key` says what it is about: an alert of one key is raised once."""

    key: str
    environment: str
    pipeline: str
    title: str
    datasets: tuple[DatasetLine, ...] = ()
    details: tuple[str, ...] = ()
    run_id: str | None = None
    link: str | None = None

    @property
    def headline(self) -> str:
        """Environment, pipeline and what is the matter."""
        return f"[{self.environment}] {self.pipeline}: {self.title}"

    @property
    def lines(self) -> list[str]:
        """What stands below the headline, the link left out."""
        lines = [*self.details, *(str(line) for line in self.datasets[:_MOST_LINES])]
        return [*lines, f"and {len(self.datasets) - _MOST_LINES} more datasets"] if len(self.datasets) > _MOST_LINES else lines

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Alert":
        """The alert that was stored like this."""
        lines = (line | {"codes": tuple((code, count) for code, count in line["codes"])} for line in content["datasets"])
        return cls(**content | {"datasets": tuple(DatasetLine(**line) for line in lines), "details": tuple(content["details"])})


def slack_text(alert: Alert) -> str:
    """The alert as Slack's mrkdwn, with everything escaped that Slack would read as a link or a mention."""
    lines = [f"*{_escaped(alert.headline)}*", *(f"• {_escaped(line)}" for line in alert.lines)]
    if alert.link:
        lines.append(f"<{_escaped(alert.link).replace('|', '%7C')}|{f'Run {alert.run_id[:8]}' if alert.run_id else 'Dagster'}>")
    return "\n".join(lines)


def mail_subject(alert: Alert) -> str:
    """The headline as SNS takes it: printable ASCII, one line, 100 characters at most."""
    subject = re.sub(r"[^ -~]", "?", " ".join(alert.headline.split()))
    return subject if len(subject) <= _SUBJECT_LENGTH else f"{subject[: _SUBJECT_LENGTH - 3]}..."


def mail_body(alert: Alert) -> str:
    """The alert as plain text."""
    run = [f"Run {alert.run_id}"] if alert.run_id else []
    return "\n".join([alert.headline, "", *alert.lines, "", *run, *([alert.link] if alert.link else [])]).rstrip() + "\n"


def run_link(settings: Settings, run_id: str) -> str:
    """Where people see a run."""
    return f"{settings.ui_url.rstrip('/')}/runs/{run_id}"


def overview_link(settings: Settings) -> str:
    """Where people see the sensors: for an alert that is about no run."""
    return f"{settings.ui_url.rstrip('/')}/automation"


class NotTaken(Exception):
    """The channel has not taken the alert, for certain. `next_step` is set where only a person can help; `at_least` is in seconds."""

    def __init__(self, code: str, *, next_step: str | None = None, at_least: float = 0) -> None:
        super().__init__(code)
        self.code = code
        self.next_step = next_step
        self.at_least = at_least


class InDoubt(Exception):
    """The channel may have taken the alert, or not."""


class Channel(Protocol):
    """A way to reach people. `send` raises `NotTaken` or `InDoubt`; without either, the channel has taken the alert."""

    @property
    def name(self) -> str:
        """As the outbox and fault points name it."""

    def send(self, alert: Alert) -> None:
        """Hand an alert over, once."""


@dataclass(frozen=True, slots=True)
class SlackWebhook:
    """An incoming webhook, which stands for a channel."""

    url: str
    name: Literal["slack_webhook"] = "slack_webhook"

    def send(self, alert: Alert) -> None:
        """Post to the webhook."""
        from slack_sdk.errors import SlackRequestError
        from slack_sdk.webhook import WebhookClient

        next_step = "check INGESTION_SLACK_WEBHOOK_URL; make a new webhook if Slack has revoked it"
        client = WebhookClient(self.url, timeout=_ANSWER_SECONDS, logger=_SILENT, retry_handlers=[])
        try:
            answer = client.send(text=slack_text(alert), unfurl_links=False)
        except (SlackRequestError, http.client.InvalidURL):
            raise NotTaken("invalid_url", next_step=next_step) from None
        except URLError as error:
            raise NotTaken(_unreachable(error)) from None
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            raise InDoubt(type(error).__name__) from None
        if not 200 <= answer.status_code < 300:
            raise _not_ok(answer.status_code, answer.body, answer.headers, next_step)
        if _is_page(answer.headers):
            raise InDoubt(f"{answer.status_code} with a page in HTML; check INGESTION_SLACK_WEBHOOK_URL")


@dataclass(frozen=True, slots=True)
class SlackChannel:
    """A Slack channel that a bot may write to."""

    token: str
    channel: str
    api_url: str = SLACK_API_URL
    name: Literal["slack_token"] = "slack_token"

    def send(self, alert: Alert) -> None:
        """Call `chat.postMessage`."""
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError

        next_step = "check INGESTION_SLACK_TOKEN (scope chat:write) and INGESTION_SLACK_CHANNEL; invite the bot to the channel"
        client = WebClient(self.token, self.api_url, timeout=_ANSWER_SECONDS, logger=_SILENT, retry_handlers=[])
        try:
            client.chat_postMessage(channel=self.channel, text=slack_text(alert), unfurl_links=False)
        except SlackApiError as error:
            answer = error.response
            code = answer.data.get("error") if isinstance(answer.data, dict) else None
            raise _not_ok(answer.status_code, code, answer.headers, next_step) from None
        except URLError as error:
            raise NotTaken(_unreachable(error)) from None
        except (OSError, http.client.HTTPException, ValueError, LookupError, AttributeError) as error:
            raise InDoubt(type(error).__name__) from None


@dataclass(frozen=True, slots=True)
class Topic:
    """An SNS topic, which people subscribe to by e-mail."""

    arn: str
    name: Literal["sns"] = "sns"

    def send(self, alert: Alert) -> None:
        """Publish to the topic."""
        import boto3
        from botocore import exceptions
        from botocore.config import Config
        from botocore.parsers import ResponseParserError

        next_step = "check INGESTION_SNS_TOPIC_ARN, the AWS credentials, and that they may publish to the topic (sns:Publish)"
        once = Config(retries={"total_max_attempts": 1}, connect_timeout=_ANSWER_SECONDS, read_timeout=_ANSWER_SECONDS)
        try:
            client = boto3.session.Session().client("sns", region_name=self.arn.split(":")[3], config=once)
            client.publish(TopicArn=self.arn, Subject=mail_subject(alert), Message=mail_body(alert))
        except exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            raise _not_ok(status, error.response.get("Error", {}).get("Code"), {}, next_step) from None
        except (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyConnectionError) as error:
            raise NotTaken(type(error).__name__) from None
        except exceptions.SSLError as error:
            raise NotTaken(type(error).__name__, next_step=next_step) from None
        except (exceptions.HTTPClientError, ResponseParserError) as error:
            raise InDoubt(type(error).__name__) from None
        except exceptions.BotoCoreError as error:
            raise NotTaken(type(error).__name__, next_step=next_step) from None


def channels(settings: Settings, *, slack_api_url: str = SLACK_API_URL) -> list[Channel]:
    """The channels that are configured. Raises `ConfigurationError`, which repeats no secret."""
    found: list[Channel] = []
    if settings.slack_webhook_url:
        if not re.fullmatch(r"https?://[!-~]+", settings.slack_webhook_url):
            raise ConfigurationError("INGESTION_SLACK_WEBHOOK_URL is no URL; it reads https://hooks.slack.com/services/…")
        found.append(SlackWebhook(settings.slack_webhook_url))
    if settings.slack_token:
        if not settings.slack_channel:
            raise ConfigurationError("INGESTION_SLACK_TOKEN needs a channel to post to: set INGESTION_SLACK_CHANNEL")
        if not re.fullmatch(r"[!-~]+", settings.slack_token):
            raise ConfigurationError("INGESTION_SLACK_TOKEN is no token; it reads xoxb-…")
        found.append(SlackChannel(settings.slack_token, settings.slack_channel, slack_api_url))
    if settings.sns_topic_arn:
        if not re.fullmatch(r"arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+", settings.sns_topic_arn):
            raise ConfigurationError("INGESTION_SNS_TOPIC_ARN is no topic's ARN; it reads arn:aws:sns:eu-west-2:123456789012:name")
        found.append(Topic(settings.sns_topic_arn))
    return found


def raise_alert(connection: Connection, through: Sequence[Channel], alert: Alert) -> bool:
    """Put an alert into the outbox, once a channel. False, and nothing done, if one of its key was raised before or no channel is set."""
    parameters = {"key": alert.key, "channels": [channel.name for channel in through], "content": Jsonb(asdict(alert))}
    return bool(connection.execute(RAISE, parameters).fetchall())


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one pass did, in alerts: sent, put back to be handed over later, and left in doubt."""

    sent: int = 0
    put_back: int = 0
    in_doubt: int = 0


def deliver(connection: Connection, through: Sequence[Channel], *, seconds: float = DELIVERY_SECONDS) -> Delivery:
    """Hand over what is due, oldest first. A channel that has not taken one gets no other in this pass.

    The connection must be in no transaction: what is handed over is marked so, and that committed, before.
    """
    assert connection.info.transaction_status == TransactionStatus.IDLE
    listening = {channel.name: channel for channel in through}
    sent = put_back = in_doubt = 0
    deadline = time.monotonic() + seconds
    while listening and time.monotonic() < deadline:
        taken = connection.execute(TAKE, {"channels": sorted(listening)}).fetchone()
        if taken is None:
            break
        number, name, content = taken
        alert = Alert.from_content(content)
        fault_point(f"alert.{name}.before_send")
        try:
            listening[name].send(alert)
        except NotTaken as refusal:
            connection.execute(
                PUT_BACK, {"id": number, "permanent": refusal.next_step is not None, "at_least": min(refusal.at_least, 86400)}
            )
            _log_refusal(name, alert, refusal)
            put_back += 1
            del listening[name]
        except InDoubt as doubt:
            log.warning("%s has not confirmed alert %s (%s): whether it has it nobody knows; not handed over again", name, alert.key, doubt)
            in_doubt += 1
            del listening[name]
        else:
            fault_point(f"alert.{name}.after_send")
            connection.execute(SENT, {"id": number})
            fault_point(f"alert.{name}.after_mark")
            sent += 1
    return Delivery(sent, put_back, in_doubt)


@dataclass(frozen=True, slots=True)
class Uncertain:
    """An alert that was handed to a channel, which has not confirmed it: sent or not, nobody knows."""

    id: int
    key: str
    channel: str
    since: datetime


def uncertain(connection: Connection, age: timedelta = _IN_DOUBT_AFTER) -> list[Uncertain]:
    """Alerts of which nobody knows whether they were sent; those under way at this moment are younger than `age`."""
    return [Uncertain(*row) for row in connection.execute(UNCERTAIN, {"age": age})]


def raised(connection: Connection, keys: Iterable[str]) -> frozenset[str]:
    """Those of these keys of which there is an alert."""
    return frozenset(row[0] for row in connection.execute(RAISED, {"keys": list(keys)}))


def due(connection: Connection) -> int:
    """How many hand-overs stand out, whatever their time and channel."""
    row = connection.execute(DUE).fetchone()
    return int(row[0]) if row else 0


def datasets_of_run(connection: Connection, pipeline: str, run_id: str) -> tuple[DatasetLine, ...]:
    """What a run was the last to have in hand, by dataset."""
    lines: dict[str, DatasetLine] = {}
    for dataset, code, loads, errored, rejected in connection.execute(OF_RUN, {"pipeline": pipeline, "run_id": run_id}):
        line = lines.get(dataset, DatasetLine(dataset))
        codes = (*line.codes, (code, loads)) if code else line.codes
        lines[dataset] = DatasetLine(dataset, line.loads + loads, line.errored + errored, line.rows_rejected + int(rejected), codes)
    return tuple(lines.values())


def errored_loads(connection: Connection, settings: Settings, pipeline: str, run_id: str, *, known: bool = True) -> Alert | None:
    """The one alert for a run with errored loads or rejected rows; None for a run without.

    An id that is no run's of the Dagster at hand (`known`), or of any, is told, and not linked to.
    """
    lines = tuple(line for line in datasets_of_run(connection, pipeline, run_id) if line.errored or line.rows_rejected)
    if not lines:
        return None
    errored, rejected = sum(line.errored for line in lines), sum(line.rows_rejected for line in lines)
    counts = [f"{_counted(errored, 'load')} errored"] if errored else []
    counts += [f"{_counted(rejected, 'row')} rejected"] if rejected else []
    alert = Alert(key=f"errored:{run_id}", environment=settings.environment, pipeline=pipeline, title=", ".join(counts), datasets=lines)
    if known and not run_id.startswith(whereabouts.NO_RUNS):
        return replace(alert, run_id=run_id, link=run_link(settings, run_id))
    return replace(alert, details=(f"claimed by {run_id}, which is no run of this Dagster",), link=overview_link(settings))


def unreported_runs(connection: Connection, pipeline: str) -> list[str]:
    """Runs of the last day that have errored loads or rejected rows, hold nothing any more, and of which no alert was raised."""
    return [row[0] for row in connection.execute(UNREPORTED, {"pipeline": pipeline})]


def _not_ok(status: int, code: object, headers: Any, next_step: str) -> Exception:
    """What a channel's answer other than yes means. A gateway's answer says nothing of the server behind it."""
    known = code if isinstance(code, str) and re.fullmatch(r"[A-Za-z_]{1,50}", code) else None
    name = f"{status} {known}" if known else str(status)
    if known in _EITHER_WAY or status in (502, 504) or (status < 300 and known is None):
        return InDoubt(name)
    if status in (408, 429) or status >= 500 or known in _LATER:
        return NotTaken(name, at_least=_seconds(headers.get("Retry-After")))
    return NotTaken(name, next_step=next_step)


def _is_page(headers: Any) -> bool:
    """Whether an answer is meant for a browser, as of a login page or a captive portal. A webhook says `ok` in plain text, or nothing."""
    kind = str(headers.get("Content-Type") or "")
    return kind.partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}


def _seconds(retry_after: object) -> float:
    return float(retry_after) if isinstance(retry_after, str) and retry_after.strip().isdecimal() else 0


def _unreachable(error: URLError) -> str:
    """Urllib raises it when the request has not gone out as a whole."""
    return type(error.reason).__name__ if isinstance(error.reason, BaseException) else type(error).__name__


def _log_refusal(channel: str, alert: Alert, refusal: NotTaken) -> None:
    if refusal.next_step:
        log.error("%s refuses alert %s (%s): %s; it is kept, and handed over again", channel, alert.key, refusal.code, refusal.next_step)
    else:
        log.warning("%s could not take alert %s (%s); it is handed over again", channel, alert.key, refusal.code)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
