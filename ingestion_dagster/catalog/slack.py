"""Slack as a refresh tells of itself there: a bot, whose message can be edited, or a webhook, whose cannot."""

import http.client
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any
from urllib.error import URLError

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.pauses import asked_for
from ingestion_dagster.settings import Settings

SLACK_API_URL = "https://slack.com/api/"
LABEL, ICON = "Catalogue refresh", ":arrows_counterclockwise:"
ATTEMPTS = 3
LONGEST_TEXT = 3000
"""Characters of a section block, at most."""

_ANSWER_SECONDS = 10
_LONGEST_WAIT = 10.0
_AGAIN = frozenset({"ratelimited", "rate_limited", "service_unavailable", "request_timeout", "internal_error", "fatal_error"})
_CREDENTIALS = (
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@]*@", re.IGNORECASE), r"\1***@"),
    (
        re.compile(
            r"(?<![\w-])([\w-]*(?:password|passwd|secret|token|api_?key)[\w-]*\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&]+)", re.IGNORECASE
        ),
        r"\1***",
    ),
    (re.compile(r"\bxox[a-z]-[A-Za-z0-9-]+"), "***"),
    (re.compile(r"\bhttps?://hooks\.slack\.com/\S+"), "***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
)

# slack_sdk writes the webhook's address, which is a secret, to its log.
_SILENT = logging.Logger("slack_sdk", logging.CRITICAL + 1)  # noqa: LOG001 - not to be found, and configured, by its name


class Level(IntEnum):
    """How much a message matters. One below the threshold is not sent."""

    VERBOSE = 0
    INFO = 1
    ERROR = 2

    @classmethod
    def named(cls, name: str) -> "Level":
        """The level of a name, in capitals or not. Raises `ConfigurationError`."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ConfigurationError("INGESTION_SLACK_LEVEL is verbose, info or error") from None


class Undelivered(Exception):
    """Slack has not taken a message, or it is not known whether it has. The message of this says no address and no token."""


class MessageGone(Undelivered):
    """The message that was to be edited is not there any more, or may not be edited."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be read: text of one or more lines, and what a notification shows of it."""

    text: str
    summary: str | None = None

    def payload(self, environment: str, hidden: Sequence[str] = ()) -> dict[str, Any]:
        """As Slack takes it: one section, nothing unfurled, without secrets. `hidden`: more that is not to be shown."""
        text = escaped(redacted(self.text, hidden))
        shown = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 2]}\n…"
        summary = self.summary if self.summary is not None else self.text if "\n" not in self.text else LABEL
        return {
            "text": escaped(redacted(summary, hidden)),
            "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": shown}}],
            "username": f"{LABEL} | {environment.upper()}",
            "icon_emoji": ICON,
            "unfurl_links": False,
            "unfurl_media": False,
        }


def redacted(text: str, hidden: Sequence[str] = ()) -> str:
    """The text without users and passwords of URLs, values of what is called a password, token or secret, and what is `hidden`."""
    for value in sorted((value for value in hidden if value), key=len, reverse=True):
        text = text.replace(value, "***")
    for pattern, instead in _CREDENTIALS:
        text = pattern.sub(instead, text)
    return text


def escaped(text: str) -> str:
    """The text without anything that Slack would read as a link or a mention; `*`, `_` and backticks are left."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True, slots=True)
class Bot:
    """A bot that may write to a channel: it posts a message and edits it."""

    token: str
    channel: str
    environment: str
    api_url: str = SLACK_API_URL
    sleep: Callable[[float], None] = field(default=time.sleep)

    @property
    def name(self) -> str:
        """As `catalog.messages` names the channel."""
        return f"slack:{self.channel}"

    def post(self, message: Message, hidden: Sequence[str] = ()) -> str:
        """Post a new message; what it is edited by. Raises `Undelivered`."""
        answer = self._call("chat.postMessage", {"channel": self.channel, **message.payload(self.environment, hidden)}, repeatable=False)
        return f"{answer.get('channel') or self.channel}/{answer.get('ts', '')}"

    def edit(self, reference: str, message: Message, hidden: Sequence[str] = ()) -> None:
        """Replace a message. Raises `Undelivered`, `MessageGone` if there is none to replace."""
        channel, _, stamp = reference.rpartition("/")
        payload = message.payload(self.environment, hidden)
        content = {name: payload[name] for name in ("text", "blocks")}
        self._call("chat.update", {"channel": channel, "ts": stamp, **content}, repeatable=True)

    def _call(self, method: str, content: Mapping[str, Any], *, repeatable: bool) -> Mapping[str, Any]:
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError

        client = WebClient(self.token, self.api_url, timeout=_ANSWER_SECONDS, logger=_SILENT, retry_handlers=[])

        def once() -> Mapping[str, Any]:
            try:
                answer = client.api_call(method, json=dict(content)).data
            except SlackApiError as error:
                found = error.response
                code = str(found.data.get("error")) if isinstance(found.data, dict) else ""
                if code in ("message_not_found", "cant_update_message", "edit_window_closed"):
                    raise MessageGone(code) from None
                raise _Failed(
                    f"{found.status_code} {_plain(code)}".strip(), _again(found.status_code, code), _wait(found.headers)
                ) from None
            return answer if isinstance(answer, dict) else {}

        return _persistently(once, self.sleep, repeatable=repeatable)


@dataclass(frozen=True, slots=True)
class Webhook:
    """An incoming webhook: it posts to its channel, and that is all."""

    url: str
    environment: str
    sleep: Callable[[float], None] = field(default=time.sleep)

    @property
    def name(self) -> str:
        """As `catalog.messages` names the channel."""
        return "slack_webhook"

    def post(self, message: Message, hidden: Sequence[str] = ()) -> None:
        """Post a new message. Raises `Undelivered`."""
        from slack_sdk.errors import SlackRequestError
        from slack_sdk.webhook import WebhookClient

        client = WebhookClient(self.url, timeout=_ANSWER_SECONDS, logger=_SILENT, retry_handlers=[])

        def once() -> Mapping[str, Any]:
            try:
                answer = client.send_dict(message.payload(self.environment, hidden))
            except SlackRequestError:
                raise Undelivered("invalid_url") from None
            if not 200 <= answer.status_code < 300:
                raise _Failed(f"{answer.status_code} {_plain(answer.body)}".strip(), _again(answer.status_code, ""), _wait(answer.headers))
            return {}

        _persistently(once, self.sleep, repeatable=False)


def through(settings: Settings, *, api_url: str = SLACK_API_URL) -> Bot | Webhook | None:
    """The way that is set up: the bot before the webhook, None if neither is. Raises `ConfigurationError`, which repeats no secret."""
    environment = settings.environment
    if settings.slack_token:
        if not settings.slack_channel:
            raise ConfigurationError("INGESTION_SLACK_TOKEN needs a channel to post to: set INGESTION_SLACK_CHANNEL")
        return Bot(settings.slack_token, settings.slack_channel, environment, api_url)
    if settings.slack_webhook_url:
        if not re.fullmatch(r"https?://[!-~]+", settings.slack_webhook_url):
            raise ConfigurationError("INGESTION_SLACK_WEBHOOK_URL is no URL; it reads https://hooks.slack.com/services/…")
        return Webhook(settings.slack_webhook_url, environment)
    return None


class _Failed(Exception):
    """One attempt failed, for certain: nothing was posted. `again`: another may not."""

    def __init__(self, code: str, again: bool, wait: float) -> None:
        super().__init__(code)
        self.again = again
        self.wait = wait


def _persistently(once: Callable[[], Mapping[str, Any]], sleep: Callable[[float], None], *, repeatable: bool) -> Mapping[str, Any]:
    """Try a few times. What may have been taken, though no answer came, is tried again only if it is `repeatable`."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except _Failed as failure:
            code, again, wait = str(failure), failure.again, failure.wait
        except URLError as error:
            # Urllib raises it when the request has not gone out as a whole.
            code, again, wait = type(error.reason).__name__ if isinstance(error.reason, BaseException) else "URLError", True, 0.0
        except (OSError, http.client.HTTPException, ValueError, LookupError, AttributeError) as error:
            code, again, wait = type(error).__name__, repeatable, 0.0
        if not again or attempt == ATTEMPTS or wait > _LONGEST_WAIT:
            raise Undelivered(code)
        sleep(max(wait, 0.5 * 2**attempt))
    raise AssertionError


def _again(status: int, code: str) -> bool:
    return status in (408, 429) or status in (500, 503) or code in _AGAIN


def _wait(headers: Mapping[str, Any]) -> float:
    return asked_for(headers.get("Retry-After") or headers.get("retry-after")) or 0.0


def _plain(code: str | None) -> str:
    return code if code and re.fullmatch(r"[A-Za-z_]{1,50}", code) else ""
