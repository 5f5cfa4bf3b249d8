"""What people hear of a refresh in Slack: one message that is edited, never a secret, and never a refresh that fails for it."""

import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.catalog import messages, refreshes, slack
from ingestion_dagster.catalog.refreshes import Refresh, State
from ingestion_dagster.catalog.slack import Bot, Level, Message, MessageGone, Undelivered, Webhook
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog.slack_server import CHANNEL_ID, TOKEN, Answer, Slack, slack_server

COPIED = {"tables": {"image": {"rows": 5000, "cleaned": 7, "fixes": {"url": 7}, "by_provider": {"flickr": 5000}}}, "copy_seconds": 2.5}
FILLED = {"fill": {"documents": 4900, "filtered": 4800, "dead": 1, "seconds": 2.0}}


@pytest.fixture
def chat() -> Iterator[Slack]:
    with slack_server() as running:
        yield running


@pytest.fixture
def with_bot(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("INGESTION_SLACK_TOKEN", TOKEN)
    monkeypatch.setenv("INGESTION_SLACK_CHANNEL", "#refreshes")
    return current()


@pytest.fixture
def with_webhook(settings: Settings, chat: Slack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", chat.webhook_url)
    return current()


@pytest.fixture
def refresh(database: Database) -> Refresh:
    with database.connect() as connection:
        return refreshes.request(connection, "image", "one", asked_by="by hand")


def at(refresh: Refresh, state: State, **counts: Any) -> Refresh:
    return replace(refresh, state=state, counts=counts)


def levelled(settings: Settings, level: str) -> Settings:
    """The settings, with a level, whether they have that setting already or not."""
    copied = settings.model_copy()
    object.__setattr__(copied, "__dict__", copied.__dict__ | {"slack_level": level})
    return copied


def no_sleep(_seconds: float) -> None:
    return None


def test_all_steps_stand_in_one_message(database: Database, with_bot: Settings, refresh: Refresh, chat: Slack) -> None:
    steps: list[tuple[Refresh, messages.Moment]] = [
        (refresh, "start"),
        (at(refresh, "copied", **COPIED), "step"),
        (at(refresh, "indexed", **COPIED, indexes=13, index_seconds=1.25), "step"),
        (at(refresh, "filled", **COPIED, indexes=13, **FILLED), "step"),
        (at(refresh, "live", **COPIED, indexes=13, **FILLED), "end"),
    ]
    for step, moment in steps:
        assert messages.tell(database, with_bot, step, moment, api_url=chat.api_url)
    assert [path for path, _ in chat.calls] == ["/api/chat.postMessage", *["/api/chat.update"] * 4]
    (text,) = chat.texts
    assert "copied: 5,000 rows of image, 7 cleaned in 2.5 s" in text
    assert "13 indexes" in text
    assert "4,900 documents, 4,800 of them in the filtered index, 1 refused in 2.0 s, 2,450 a second" in text
    assert "readers have it" in text
    assert "100 of them sensitive (2.04 %)" in text


def test_a_step_that_is_repeated_posts_no_second_message(database: Database, with_bot: Settings, refresh: Refresh, chat: Slack) -> None:
    with ThreadPoolExecutor(4) as pool:
        told = pool.map(lambda _: messages.tell(database, with_bot, refresh, "start", api_url=chat.api_url), range(4))
        assert list(told) == [True] * 4
    assert len(chat.messages) == 1


def test_each_refresh_has_a_message_of_its_own(database: Database, with_bot: Settings, refresh: Refresh, chat: Slack) -> None:
    for one in (refresh, replace(refresh, suffix="two"), replace(refresh, model="audio")):
        messages.tell(database, with_bot, one, "start", api_url=chat.api_url)
    assert len(chat.messages) == 3


def test_a_message_that_somebody_deleted_is_posted_anew(database: Database, with_bot: Settings, refresh: Refresh, chat: Slack) -> None:
    messages.tell(database, with_bot, refresh, "start", api_url=chat.api_url)
    chat.messages.clear()
    assert messages.tell(database, with_bot, at(refresh, "copied", **COPIED), "step", api_url=chat.api_url)
    assert messages.tell(database, with_bot, at(refresh, "live", **COPIED), "end", api_url=chat.api_url)
    assert len(chat.messages) == 1
    assert "readers have it" in chat.texts[0]


def test_a_webhook_hears_the_start_one_step_an_hour_and_the_end(
    database: Database, with_webhook: Settings, refresh: Refresh, chat: Slack
) -> None:
    def tell(state: State, moment: messages.Moment) -> bool:
        return messages.tell(database, with_webhook, at(refresh, state, **COPIED, **FILLED), moment)

    assert tell("requested", "start")
    assert not tell("requested", "start")
    assert not tell("copied", "step")
    with database.connect() as connection:
        connection.execute("UPDATE catalog.messages SET edited_at = edited_at - interval '61 minutes'")
    assert tell("indexed", "step")
    assert not tell("filled", "step")
    assert tell("live", "end")
    assert not tell("live", "end")
    assert [path for path, _ in chat.calls] == ["/services/T0/B0/hook-secret"] * 3


@pytest.mark.parametrize("threshold", ["verbose", "INFO", "Error"])
@pytest.mark.parametrize("moment", ["step", "start", "end"])
def test_what_is_below_the_level_is_not_sent(
    database: Database, with_bot: Settings, refresh: Refresh, chat: Slack, threshold: str, moment: Any
) -> None:
    settings = levelled(with_bot, threshold)
    sent = messages.tell(database, settings, refresh, moment, api_url=chat.api_url)
    level = {"step": Level.VERBOSE, "start": Level.INFO, "end": Level.INFO}[moment]
    assert sent == (level >= Level.named(threshold))
    assert len(chat.calls) == int(sent)


def test_a_level_that_is_none_is_named(with_bot: Settings) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_SLACK_LEVEL is verbose, info or error"):
        messages.threshold(levelled(with_bot, "loud"))


@pytest.mark.parametrize("text", ["one line", "two\nlines"])
@pytest.mark.parametrize("summary", [None, "a summary"])
@pytest.mark.parametrize("environment", ["local", "production"])
@pytest.mark.parametrize("is_set", [True, False])
def test_payload(
    settings: Settings, chat: Slack, monkeypatch: pytest.MonkeyPatch, text: str, summary: str | None, environment: str, is_set: bool
) -> None:
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", chat.webhook_url if is_set else "")
    monkeypatch.setenv("INGESTION_ENVIRONMENT", environment)
    through = slack.through(current().model_copy(update={"environment": environment}))
    if not is_set:
        assert through is None
        return
    assert through is not None
    through.post(Message(text, summary))
    ((_, payload),) = chat.calls
    assert payload == {
        "text": summary or ("one line" if text == "one line" else "Catalogue refresh"),
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}],
        "username": f"Catalogue refresh | {environment.upper()}",
        "icon_emoji": ":arrows_counterclockwise:",
        "unfurl_links": False,
        "unfurl_media": False,
    }


def test_an_edit_changes_text_and_nothing_else(chat: Slack) -> None:
    bot = Bot(TOKEN, "#refreshes", "local", chat.api_url, no_sleep)
    reference = bot.post(Message("first"))
    bot.edit(reference, Message("second"))
    assert set(chat.calls[1][1]) == {"channel", "ts", "text", "blocks"}
    assert chat.calls[1][1]["channel"] == CHANNEL_ID
    with pytest.raises(MessageGone):
        bot.edit(f"{CHANNEL_ID}/1.2", Message("third"))


def test_without_slack_nothing_is_sent_or_noted(database: Database, settings: Settings, refresh: Refresh) -> None:
    assert not messages.tell(database, settings, refresh, "start")
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM catalog.messages").fetchone() == (0,)


def test_a_busy_slack_is_asked_again_a_few_times_and_waited_for(chat: Slack) -> None:
    slept: list[float] = []
    chat.answers = [Answer(429, "ratelimited", {"Retry-After": "7"}), Answer(503), Answer()]
    Bot(TOKEN, "#refreshes", "local", chat.api_url, slept.append).post(Message("x"))
    assert slept == [7.0, 2.0]
    chat.answers = [Answer(503)] * 5
    with pytest.raises(Undelivered, match="503"):
        Bot(TOKEN, "#refreshes", "local", chat.api_url, slept.append).post(Message("x"))
    assert len(chat.answers) == 2
    assert len(chat.messages) == 1


def test_a_wait_that_would_hold_up_the_refresh_is_not_waited_for(chat: Slack) -> None:
    slept: list[float] = []
    chat.answers = [Answer(429, "ratelimited", {"Retry-After": "3600"})]
    with pytest.raises(Undelivered, match="429 ratelimited"):
        Bot(TOKEN, "#refreshes", "local", chat.api_url, slept.append).post(Message("x"))
    assert slept == []


def test_what_slack_may_have_taken_is_not_posted_twice_but_edited_again(chat: Slack) -> None:
    bot = Bot(TOKEN, "#refreshes", "local", chat.api_url, no_sleep)
    reference = bot.post(Message("first"))
    chat.answers = [Answer(hangs_up=True)]
    with pytest.raises(Undelivered):
        bot.post(Message("second"))
    assert len(chat.calls) == 2
    chat.answers = [Answer(hangs_up=True)]
    bot.edit(reference, Message("third"))
    assert len(chat.calls) == 4
    hook = Webhook(chat.webhook_url, "local", no_sleep)
    chat.answers = [Answer(hangs_up=True)]
    with pytest.raises(Undelivered):
        hook.post(Message("fourth"))
    assert len(chat.calls) == 5


@pytest.mark.parametrize("error", ["invalid_auth", "channel_not_found", "msg_too_long"])
def test_a_refusal_fails_no_refresh_and_its_log_holds_no_secret(
    database: Database, with_bot: Settings, refresh: Refresh, chat: Slack, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    chat.answers = [Answer(error=error)]
    with caplog.at_level(logging.DEBUG):
        assert not messages.tell(database, with_bot, refresh, "start", api_url=chat.api_url)
    assert error in caplog.text
    assert TOKEN not in caplog.text
    assert messages.tell(database, with_bot, refresh, "start", api_url=chat.api_url)


def test_a_slack_that_is_not_there_fails_no_refresh(
    database: Database, with_bot: Settings, refresh: Refresh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api/"
        monkeypatch.setattr(slack, "ATTEMPTS", 1)
        assert not messages.tell(database, with_bot, refresh, "start", api_url=url)
    assert "the refresh goes on" in caplog.text


def test_a_database_that_fails_fails_no_refresh(with_bot: Settings, database: Database, refresh: Refresh, chat: Slack) -> None:
    with database.connect() as connection:
        connection.execute("ALTER TABLE catalog.messages RENAME TO elsewhere")
    assert not messages.tell(database, with_bot, refresh, "start", api_url=chat.api_url)


@pytest.mark.parametrize("name", ["INGESTION_SLACK_CHANNEL", "INGESTION_SLACK_WEBHOOK_URL"])
def test_a_channel_that_is_not_set_up_right_fails_no_refresh(
    database: Database, settings: Settings, refresh: Refresh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    if name.endswith("CHANNEL"):
        monkeypatch.setenv("INGESTION_SLACK_TOKEN", TOKEN)
    else:
        monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "no url hook-secret")
    assert not messages.tell(database, current(), refresh, "start")
    assert name in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://deploy:hunter2@db:5432/openledger", "at postgresql://***@db:5432/openledger"),  # pragma: allowlist secret
        ("postgresql+psycopg://deploy@db/x", "postgresql+psycopg://***@db/x"),
        ("host=db password=hunter2 user=deploy", "host=db password=*** user=deploy"),  # pragma: allowlist secret
        ("password='two words' x", "password=*** x"),  # pragma: allowlist secret
        ('api_key: "abc", next', "api_key: ***, next"),  # pragma: allowlist secret
        ("https://search:pw@host:9200/image", "https://***@host:9200/image"),  # pragma: allowlist secret
        ("xoxb-1-2-abc", "***"),  # pragma: allowlist secret
        ("https://hooks.slack.com/services/T/B/x", "***"),
        ("https://host/path?x=1", "https://host/path?x=1"),
        ("three sensitive rows", "three sensitive rows"),
    ],
)
def test_connection_strings_and_secrets_are_not_shown(text: str, shown: str) -> None:
    assert slack.redacted(text) == shown


def test_what_the_installation_is_set_up_with_is_not_shown(chat: Slack, with_bot: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "INGESTION_CATALOG_UPSTREAM_URL",
        "postgresql://reader:tr0mbone@upstream.example/openledger",  # pragma: allowlist secret
    )  # pragma: allowlist secret
    bot = slack.through(current(), api_url=chat.api_url)
    assert isinstance(bot, Bot)
    bot.post(Message("tr0mbone was said, by tr0mbone"), messages.hidden(current()))
    assert "tr0mbone" not in str(chat.calls)
    assert "*** was said" in chat.texts[0]


def test_nothing_in_a_text_is_read_as_a_mention_or_a_link(chat: Slack) -> None:
    Bot(TOKEN, "#refreshes", "local", chat.api_url).post(Message("<!channel> & <http://a|b>", "<@U1>"))
    assert chat.texts == ["&lt;!channel&gt; &amp; &lt;http://a|b&gt;"]
    assert chat.calls[0][1]["text"] == "&lt;@U1&gt;"


def test_a_long_text_is_cut_to_what_slack_takes(chat: Slack) -> None:
    Bot(TOKEN, "#refreshes", "local", chat.api_url).post(Message("line\n" * 2000))
    assert len(chat.texts[0]) <= 3000
    assert chat.texts[0].endswith("…")


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("threshold", [None, "verbose", "info", "error"])
def test_messages_of_every_level_at_every_threshold_and_at_the_default_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, level: Level, threshold: str | None
) -> None:
    assert "INGESTION_SLACK_LEVEL" not in os.environ
    if threshold is not None:
        monkeypatch.setenv("INGESTION_SLACK_LEVEL", threshold)
    is_sent = level >= messages.threshold(current())
    assert is_sent == (("verbose", "info", "error").index(threshold or "verbose") <= level)


def test_a_message_says_the_default_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "INGESTION_ENVIRONMENT" not in os.environ
    with slack_server() as chat:
        monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", chat.webhook_url)
        through = slack.through(current())
        assert through is not None
        through.post(Message("x"))
        assert chat.calls[0][1]["username"].endswith("| LOCAL")
