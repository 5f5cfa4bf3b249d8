"""The ways to reach people: Slack by webhook or by token, and e-mail by an SNS topic. Each says whether it has taken an alert."""

import http.client
import logging
import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.error import URLError

from ingestion_dagster.engine.alert import Alert, mail_body, mail_subject, slack_text
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.pauses import asked_for
from ingestion_dagster.settings import Settings

SLACK_API_URL = "https://slack.com/api/"

_ANSWER_SECONDS = 10
_LATER = frozenset(
    {"ratelimited", "rate_limited", "service_unavailable", "request_timeout", "team_added_to_org", "Throttling", "Throttled"}
)
_EITHER_WAY = frozenset({"fatal_error", "internal_error"})
"""Of these Slack says that part of the request may have been carried out."""

# slack_sdk writes the webhook's address, which is a secret, to its log.
_SILENT = logging.Logger("slack_sdk", logging.CRITICAL + 1)  # noqa: LOG001 - not to be found, and configured, by its name


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
        """See Channel. Posts to the webhook."""
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
        """See Channel. Calls `chat.postMessage`."""
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
        """See Channel. Publishes to the topic."""
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


def _not_ok(status: int, code: object, headers: Any, next_step: str) -> Exception:
    """What a channel's answer other than yes means. A gateway's answer says nothing of the server behind it."""
    known = code if isinstance(code, str) and re.fullmatch(r"[A-Za-z_]{1,50}", code) else None
    name = f"{status} {known}" if known else str(status)
    if known in _EITHER_WAY or status in (502, 504) or (status < 300 and known is None):
        return InDoubt(name)
    if status in (408, 429) or status >= 500 or known in _LATER:
        return NotTaken(name, at_least=asked_for(headers.get("Retry-After")) or 0)
    return NotTaken(name, next_step=next_step)


def _is_page(headers: Any) -> bool:
    """Whether an answer is meant for a browser, as of a login page or a captive portal. A webhook says `ok` in plain text, or nothing."""
    kind = str(headers.get("Content-Type") or "")
    return kind.partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}


def _unreachable(error: URLError) -> str:
    """Urllib raises it when the request has not gone out as a whole."""
    return type(error.reason).__name__ if isinstance(error.reason, BaseException) else type(error).__name__
